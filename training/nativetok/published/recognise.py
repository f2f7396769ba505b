"""Says what a checkpoint is: its family from its keys, its sizes from its shapes, the rest from its configuration.

What no file says (how many heads, whether codes are normalised) is taken from options, else from what was published.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nativetok.published.blocks import Trunk
from nativetok.published.checkpoint import Checkpoint, CheckpointError
from nativetok.published.nativetok import NativeTok, NativeTokSizes
from nativetok.published.pixels import GROUPS, PixelSizes
from nativetok.published.titok import MASKGIT_CODES, TiTok, TiTokSizes
from nativetok.published.tokenizer import Tokenizer, TokenizerSizes

UNUSED = {"quantize.embed_prob"}
"""What a checkpoint may hold beside what its tokenizer computes with: statistics of the training."""

UNTRAINED = 1 / MASKGIT_CODES
"""MaskGIT-VQGAN's codes start within this range; trained ones leave it."""


@dataclass(frozen=True)
class Options:
    """What the caller says of a checkpoint; None or absent where nothing is said."""

    heads: Mapping[str, int] = field(default_factory=dict)
    normalised: bool | None = None
    signed: bool | None = None


@dataclass(frozen=True)
class Recognised:
    """A checkpoint's family and sizes, and which of them no file says."""

    family: str
    """`titok` or `nativetok`."""
    title: str
    """The family and its kind, for people."""
    sizes: TokenizerSizes
    origins: dict[str, str]
    """Where each value came from that no weight's shape says."""
    open: tuple[str, ...]
    """Those that nothing but a default says: some of `encoder`, `experts`, `decoder`, `normalised`, `signed`."""
    unset: tuple[str, ...]
    """Those among them that have no default either: numbers of heads, 0 in the sizes."""

    def module(self) -> Tokenizer:
        """The tokenizer without weights, on torch's current device."""
        return NativeTok(self.sizes) if isinstance(self.sizes, NativeTokSizes) else TiTok(_titok(self.sizes))


def read_config(path: Path) -> dict[str, Any]:
    """Read a published config.json. Raises CheckpointError where it is none."""
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file")
    try:
        config = json.loads(path.read_text())
        model = config["model"]["vq_model"]
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(f'{path.name} is no configuration of a tokenizer: it has no "model.vq_model"') from None
    if not isinstance(model, dict):
        raise CheckpointError(f'{path.name} is no configuration of a tokenizer: "model.vq_model" is not an object')
    return config


def recognise(
    checkpoint: Checkpoint, config: dict[str, Any] | None = None, options: Options | None = None
) -> Recognised:
    """Say what a checkpoint is.

    Raises CheckpointError for families that cannot be served (by name), for unknown, missing and misshapen weights
    (the first one by name), and where the configuration and the weights disagree.
    """
    return _Reading(checkpoint, config, options or Options()).recognised()


def load(recognised: Recognised, checkpoint: Checkpoint) -> Tokenizer:
    """Put a checkpoint's weights into its tokenizer, as float32. Raises CheckpointError where one is not finite."""
    with torch.device("meta"):
        model = recognised.module()
    weights = {name: checkpoint.tensors[name].float() for name in model.state_dict()}
    for name, weight in weights.items():
        if not weight.isfinite().all():
            raise CheckpointError(f'{checkpoint.path.name}: "{name}" holds numbers that are not finite')
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False)


def with_pixels(checkpoint: Checkpoint, pixels: Checkpoint) -> Checkpoint:
    """Give a checkpoint the decoder of a separate MaskGIT-VQGAN file. Raises CheckpointError where that is none."""
    if not _is_maskgit(pixels.tensors):
        raise CheckpointError(f"{pixels.path.name} is not a MaskGIT-VQGAN checkpoint")
    parts = {
        f"pixel_{name}": tensor
        for name, tensor in pixels.tensors.items()
        if name.startswith("decoder.") or name == "quantize.embedding.weight"
    }
    kept = {name: tensor for name, tensor in checkpoint.tensors.items() if not name.startswith("pixel_")}
    return Checkpoint(checkpoint.path, kept | parts)


def has_pixels(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint brings a trained MaskGIT-VQGAN decoder."""
    codes = checkpoint.tensors.get("pixel_quantize.embedding.weight")
    return "pixel_decoder.conv_in.weight" in checkpoint.tensors and codes is not None and not _untrained(codes)


def _untrained(codes: Tensor) -> bool:
    return codes.float().abs().max().item() <= UNTRAINED


def _is_maskgit(tensors: Mapping[str, Tensor]) -> bool:
    return _any(tensors, "encoder.down.") and _any(tensors, "decoder.up.") and "quantize.embedding.weight" in tensors


def _any(tensors: Mapping[str, Tensor], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in tensors)


def _titok(sizes: TokenizerSizes) -> TiTokSizes:
    assert isinstance(sizes, TiTokSizes)
    return sizes


class _Reading:
    """One checkpoint being read."""

    def __init__(self, checkpoint: Checkpoint, config: dict[str, Any] | None, options: Options) -> None:
        self.tensors, self.name = checkpoint.tensors, checkpoint.path.name
        self.config, self.options = config, options
        self.vq: dict[str, Any] = config["model"]["vq_model"] if config else {}
        self.origins: dict[str, str] = {}
        self.open: list[str] = []
        self.unset: list[str] = []

    def recognised(self) -> Recognised:
        self._refuse_by_name()
        if _any(self.tensors, "encoder.transformers_tokens."):
            family, title, sizes = "nativetok", *self._nativetok()
        else:
            family, title, sizes = "titok", *self._titok()
        parts = ["encoder", *(["experts"] if family == "nativetok" else []), "decoder"]
        if unknown := sorted(set(self.options.heads) - set(parts)):
            raise CheckpointError(f"{title} has no part {unknown[0]!r} to give heads to: it has {', '.join(parts)}")
        result = Recognised(family, title, sizes, self.origins, tuple(self.open), tuple(self.unset))
        self._compare(result)
        self._agree(result)
        return result

    def _refuse_by_name(self) -> None:
        tensors = self.tensors
        bare = {name.removeprefix("model.") for name in tensors}
        generators = ("in_blocks.", "mid_block.", "out_blocks.", "embeddings.word_embeddings.", "lm_head.")
        if any(name.startswith(generators) for name in bare):
            raise CheckpointError(f"{self.name} is a generator, which predicts tokens: it is not a tokenizer")
        if _any(tensors, "decoder.text_guidance_proj."):
            raise CheckpointError(
                f"{self.name} is a TA-TiTok: its decoder needs a text with every image, which the service does not take"
            )
        if _any(tensors, "transformer.") and _any(tensors, "encoder.down."):
            raise CheckpointError(
                f"{self.name} is variant D of NativeTok's precursors (a causal VQGAN), whose codes are channels and "
                "not tokens in order: it cannot be served"
            )
        if _any(tensors, "encoder.transformers.0.0."):
            raise CheckpointError(
                f"{self.name} is variant C of NativeTok's precursors (one_by_one), which is not supported"
            )
        if _is_maskgit(tensors):
            raise CheckpointError(
                f"{self.name} is MaskGIT-VQGAN alone: it draws pixels for other tokenizers (--pixels) but is no "
                "tokenizer of this kind"
            )
        vae = self.vq.get("quantize_mode", "vq") == "vae"
        if _any(tensors, "encoder.transformer.0."):
            codes, embed = tensors.get("encoder.conv_out.weight"), tensors.get("decoder.decoder_embed.weight")
            doubled = codes is not None and embed is not None and len(codes) == 2 * embed.shape[-1]
            vae = vae or "quantize.embedding.weight" not in tensors or doubled
        if vae:
            raise CheckpointError(f"{self.name} is a VAE (KL) variant of TiTok: it has no token ids")

    def _titok(self) -> tuple[str, TokenizerSizes]:
        newer, legacy = "decoder.conv_out.weight" in self.tensors, "decoder.ffn.2.weight" in self.tensors
        if "encoder.transformer.0.ln_1.weight" not in self.tensors or newer == legacy:
            raise CheckpointError(f'{self.name} is of no known family: its first key is "{next(iter(self.tensors))}"')
        trunk = self._trunk("encoder.transformer", "encoder", "encoder.ln_pre.weight", self._patch())
        if legacy:
            self._maskgit_head()
        hard = legacy and self.vq.get("finetune_decoder", True) is False
        sizes = TiTokSizes(
            **self._common("encoder.positional_embedding", trunk, normalised=legacy, drawn=newer),
            encoder=trunk,
            hard=hard,
        )
        title = "TiTok, newer kind (VQ)" if newer else f"TiTok, legacy kind, stage {1 if hard else 2}"
        return title, sizes

    def _nativetok(self) -> tuple[str, TokenizerSizes]:
        if "encoder.reduce_ffn.weight" in self.tensors:
            variant, heads = "A", 4
        elif "encoder.ffn.weight" in self.tensors and "encoder.ln_pre_Pixel.weight" in self.tensors:
            variant, heads = "B", 16
        else:
            raise CheckpointError(
                f"{self.name} is a NativeTok of no known variant: it has neither encoder.reduce_ffn (A) nor "
                "encoder.ffn with encoder.ln_pre_Pixel (B)"
            )
        patch = self._patch()
        trunk = self._trunk("encoder.transformers_Pixel", "encoder", "encoder.patch_embed.bias", patch, heads)
        experts = self._trunk("encoder.transformers_tokens.0", "experts", "encoder.ln_pre.weight", 0, 4)
        self._maskgit_head()
        sizes = NativeTokSizes(
            **self._common("encoder.positional_embedding", trunk, normalised=True, drawn=False),
            encoder=trunk,
            experts=experts,
            variant=variant,
        )
        return f"NativeTok, variant {variant}", sizes

    def _common(self, positions: str, encoder: Trunk, normalised: bool, drawn: bool) -> dict[str, Any]:
        """What both families have, beside their encoders."""
        side = math.isqrt(self._shape(positions)[-2] - 1)
        if side**2 != self._shape(positions)[-2] - 1:
            raise CheckpointError(
                f'{self.name}: the rows of "{positions}" are not one more than a square number of patches'
            )
        image = side * encoder.patch
        rows = self._shape("decoder.positional_embedding")[0] - 1
        if math.isqrt(rows) ** 2 != rows or not rows or image % math.isqrt(rows):
            raise CheckpointError(f"{self.name}: the decoder's {rows} patches do not make a picture of {image} pixels")
        book = self._shape("quantize.embedding.weight", 2)
        return {
            "image": image,
            "length": self._shape("latent_tokens", 2)[0],
            "codebook_size": book[0],
            "code_width": book[1],
            "normalised": self._said("normalised", self.options.normalised, self.vq.get("use_l2_norm"), normalised),
            "signed": self._said("signed", self.options.signed, None, False),
            "decoder": self._trunk(
                "decoder.transformer", "decoder", "decoder.ln_pre.weight", image // math.isqrt(rows)
            ),
            "pixels": None if drawn else self._pixels(image // math.isqrt(rows)),
        }

    def _trunk(self, blocks: str, part: str, width_of: str, patch: int, heads: int | None = None) -> Trunk:
        width = self._shape(width_of, 1)[0]
        if heads is None:
            heads = 16 if part == "decoder" and width == 256 else width // 64 if width % 64 == 0 else 0
        default = heads if heads and width % heads == 0 else 0
        given = self.options.heads.get(part)
        if given is not None and (given < 1 or width % given):
            raise CheckpointError(f"{given} heads do not divide the {part}'s width of {width}")
        heads = self._said(part, given, None, default)
        if not heads:
            self.unset.append(part)
        return Trunk(width, self._count(blocks), heads, patch)

    def _pixels(self, scale: int) -> PixelSizes:
        """The pixel decoder's widths, each read from the convolutions that make it."""
        code = self._shape("pixel_quantize.embedding.weight", 2)
        if code[0] != MASKGIT_CODES:
            raise CheckpointError(f"{self.name}: MaskGIT-VQGAN has {MASKGIT_CODES} codes, not {code[0]}")
        if not has_pixels(Checkpoint(Path(self.name), self.tensors)):
            raise CheckpointError(
                f"{self.name} was trained with an outside MaskGIT-VQGAN and its own pixel weights are untrained: give "
                "maskgit-vqgan-imagenet-f16-256.bin with --pixels"
            )
        middle, levels = self._widths("pixel_decoder.mid"), self._count("pixel_decoder.up")
        sizes = PixelSizes(code[1], middle, tuple(self._widths(f"pixel_decoder.up.{i}.block") for i in range(levels)))
        if any(width % GROUPS for width in (*middle, *(w for level in sizes.levels for w in level))):
            raise CheckpointError(f"{self.name}: a width of its pixel decoder is not a multiple of {GROUPS}")
        if sizes.scale != scale:
            raise CheckpointError(f"{self.name}: its pixel decoder draws {sizes.scale} pixels for a patch of {scale}")
        return sizes

    def _widths(self, blocks: str) -> tuple[int, ...]:
        shapes = [self._shape(f"{blocks}.{i}.conv1.weight", 4) for i in range(self._count(blocks))]
        return (shapes[0][1], *(shape[0] for shape in shapes))

    def _maskgit_head(self) -> None:
        if (outputs := self._shape("decoder.ffn.2.weight", 4)[0]) != MASKGIT_CODES:
            raise CheckpointError(
                f"{self.name}: the decoder predicts {outputs} codes; MaskGIT-VQGAN has {MASKGIT_CODES}"
            )
        if "pixel_decoder.conv_in.weight" not in self.tensors:
            raise CheckpointError(
                f"{self.name} is of stage 1, without a pixel decoder: give maskgit-vqgan-imagenet-f16-256.bin with "
                "--pixels"
            )

    def _patch(self) -> int:
        return self._shape("encoder.patch_embed.weight", 4)[-1]

    def _said(self, what: str, option: Any, config: Any, default: Any) -> Any:
        """The first that is said, and note where."""
        if option is not None and config is not None and option != config:
            raise CheckpointError(f"{self.name}: the option and its configuration disagree about {LABELS[what]}")
        if option is not None:
            self.origins[what] = "option"
            return option
        if config is not None:
            self.origins[what] = "config.json"
            return config
        self.origins[what] = "assumed, as published"
        self.open.append(what)
        return default

    def _shape(self, name: str, dimensions: int | None = None) -> tuple[int, ...]:
        if name not in self.tensors:
            raise CheckpointError(f'{self.name} lacks "{name}"')
        shape = tuple(self.tensors[name].shape)
        if (dimensions is not None and len(shape) != dimensions) or not shape or 0 in shape:
            raise CheckpointError(f'{self.name}: "{name}" has the shape {list(shape)}')
        return shape

    def _count(self, prefix: str) -> int:
        """How many numbered parts a module has."""
        number = re.compile(re.escape(prefix) + r"\.(\d+)\.")
        count = len({found[1] for name in self.tensors if (found := number.match(name))})
        if not count:
            raise CheckpointError(f'{self.name} lacks "{prefix}.0"')
        return count

    def _compare(self, result: Recognised) -> None:
        """Every weight that the tokenizer has is there in its shape, and no other."""
        with torch.device("meta"):
            expected = result.module().state_dict()
        for name, tensor in self.tensors.items():
            if name not in expected and name not in UNUSED:
                raise CheckpointError(f'{self.name} holds "{name}", which {result.title} does not have')
            if name in expected and not tensor.is_floating_point():
                raise CheckpointError(f'{self.name}: "{name}" is of type {str(tensor.dtype).removeprefix("torch.")}')
        for name, weight in expected.items():
            if name not in self.tensors:
                raise CheckpointError(f'{self.name} lacks "{name}"')
            if self.tensors[name].shape != weight.shape:
                got, want = list(self.tensors[name].shape), list(weight.shape)
                raise CheckpointError(f'{self.name}: "{name}" has the shape {got}; {want} expected')

    def _agree(self, result: Recognised) -> None:
        """What the configuration says is what the weights are."""
        if self.config is None:
            return
        sizes = result.sizes
        weights: dict[str, Any] = {
            "codebook_size": sizes.codebook_size,
            "token_size": sizes.code_width,
            "num_latent_tokens": sizes.length,
            "vit_enc_patch_size": sizes.encoder.patch,
            "vit_dec_patch_size": sizes.decoder.patch,
        }
        said = self.vq
        if isinstance(sizes, NativeTokSizes):
            weights |= {
                "layers_x": sizes.encoder.layers,
                "layers_token": sizes.experts.layers,
                "embedding_width": sizes.encoder.width,
                "width": sizes.experts.width,
            }
        else:
            weights |= {"is_legacy": sizes.pixels is not None, "quantize_mode": "vq"}
            said = {"is_legacy": True, "quantize_mode": "vq"} | said
        for name, value in weights.items():
            if name in said and said[name] != value:
                raise CheckpointError(
                    f"the configuration disagrees with {self.name}: {name} is {said[name]} there and {value} here"
                )
        crop = self.config.get("dataset", {}).get("preprocessing", {}).get("crop_size", sizes.image)
        if crop != sizes.image:
            raise CheckpointError(
                f"the configuration disagrees with {self.name}: crop_size is {crop} there, and the weights are for "
                f"{sizes.image} pixels"
            )


LABELS = {
    "encoder": "the encoder's heads",
    "experts": "the experts' heads",
    "decoder": "the decoder's heads",
    "normalised": "whether codes are normalised (L2)",
    "signed": "the range of pixels",
}
"""What may be said by no file, in words."""
