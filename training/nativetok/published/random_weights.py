"""Checkpoints of the published sizes and forms with random weights, to test and measure without a download.

    python -m nativetok.published.random_weights titok-s128 --out FOLDER

Their pictures look like texture. Weights are scaled so that numbers stay about as large as in a trained model.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from nativetok.published.blocks import Trunk
from nativetok.published.nativetok import NativeTok, NativeTokSizes
from nativetok.published.pixels import PixelSizes
from nativetok.published.titok import TiTok, TiTokSizes
from nativetok.published.tokenizer import Tokenizer, TokenizerSizes

PIXELS = PixelSizes(256, (512, 512, 512), ((128,) * 3, (256, 128, 128), (256,) * 3, (512, 256, 256), (512,) * 3))
SMALL, BASE, LARGE = Trunk(512, 8, 8, 16), Trunk(768, 12, 12, 16), Trunk(1024, 24, 16, 16)
IMAGE, EXPERTS = Trunk(1024, 18, 16, 16), Trunk(256, 2, 4)

LEGACY: dict[str, Any] = {"image": 256, "codebook_size": 4096, "code_width": 12, "normalised": True, "signed": False}
NEWER: dict[str, Any] = LEGACY | {"codebook_size": 8192, "code_width": 64, "normalised": False, "pixels": None}

SIZES: dict[str, TokenizerSizes] = {
    "titok-l32": TiTokSizes(**LEGACY, length=32, encoder=LARGE, decoder=LARGE, pixels=PIXELS),
    "titok-b64": TiTokSizes(**LEGACY, length=64, encoder=BASE, decoder=BASE, pixels=PIXELS),
    "titok-s128": TiTokSizes(**LEGACY, length=128, encoder=SMALL, decoder=SMALL, pixels=PIXELS),
    "titok-bl64": TiTokSizes(**NEWER, length=64, encoder=BASE, decoder=LARGE),
    "titok-bl128": TiTokSizes(**NEWER, length=128, encoder=BASE, decoder=LARGE),
    "titok-sl256": TiTokSizes(**NEWER, length=256, encoder=SMALL, decoder=LARGE),
    "nativetok-128": NativeTokSizes(**LEGACY, length=128, encoder=IMAGE, experts=EXPERTS, decoder=LARGE, pixels=PIXELS),
    "nativetok-128-small": NativeTokSizes(
        **LEGACY, length=128, encoder=IMAGE, experts=EXPERTS, decoder=SMALL, pixels=PIXELS
    ),
}
"""The published tokenizers by name; the last has a smaller decoder than the one that was published."""


def random_tokenizer(sizes: TokenizerSizes, seed: int = 0) -> Tokenizer:
    """Return a tokenizer of these sizes with random weights."""
    with torch.device("meta"):
        model = NativeTok(sizes) if isinstance(sizes, NativeTokSizes) else TiTok(sizes)  # type: ignore[arg-type]
    model.to_empty(device="cpu").requires_grad_(False).eval()
    random = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        parameter.normal_(generator=random).mul_(_scale(name, parameter))
        if _is_norm(name) and name.endswith("weight"):
            parameter.add_(1)
        if name.endswith("in_proj_weight"):  # queries and keys that tell rows apart
            parameter[: 2 * parameter.shape[1]].mul_(2)
        if name.endswith("patch_embed.weight"):  # contrast more than brightness
            parameter.sub_(0.9 * parameter.mean(dim=(1, 2, 3), keepdim=True))
    if sizes.pixels:
        model.get_parameter("decoder.ffn.2.weight").mul_(2.5)
    last = "pixel_decoder.conv_out" if sizes.pixels else "decoder.conv_out"
    model.get_parameter(f"{last}.weight").mul_(0.25)
    model.get_parameter(f"{last}.bias").add_(0.5)
    return model


def published_config(sizes: TokenizerSizes) -> dict[str, Any]:
    """Return the config.json that the hub has beside a TiTok of these sizes."""
    words = {trunk.width: word for word, trunk in (("small", SMALL), ("base", BASE), ("large", LARGE))}
    vq = {
        "codebook_size": sizes.codebook_size,
        "token_size": sizes.code_width,
        "use_l2_norm": sizes.normalised,
        "commitment_cost": 0.25,
        "vit_enc_model_size": words.get(sizes.encoder.width, "small"),
        "vit_dec_model_size": words.get(sizes.decoder.width, "small"),
        "vit_enc_patch_size": sizes.encoder.patch,
        "vit_dec_patch_size": sizes.decoder.patch,
        "num_latent_tokens": sizes.length,
        "finetune_decoder": sizes.pixels is not None,
    }
    if sizes.pixels is None:
        vq |= {"is_legacy": False, "quantize_mode": "vq"}
    return {
        "experiment": {"tokenizer_checkpoint": "tokenizer.bin", "output_dir": "tokenizer"},
        "model": {"vq_model": vq},
        "dataset": {"preprocessing": {"crop_size": sizes.image}},
    }


def write_checkpoint(model: Tokenizer, folder: Path) -> Path:
    """Write a tokenizer as the hub has it; return the checkpoint's path.

    TiTok: model.safetensors with config.json. NativeTok: one file of PyTorch's own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, NativeTok):
        path = folder / f"Nativetok_{model.sizes.length}_random_stage2.bin"
        torch.save(model.state_dict(), path)
        return path
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(published_config(model.sizes), indent=4))
    return folder / "model.safetensors"


def _is_norm(name: str) -> bool:
    return any(part.startswith(("ln_", "norm")) for part in name.split("."))


def _scale(name: str, parameter: nn.Parameter) -> float:
    """The standard deviation of a weight."""
    if parameter.ndim == 1 or _is_norm(name):
        return 0.1
    if "quantize" in name:
        return 1.0
    if "embedding" in name or "token" in name.rsplit(".", 1)[-1]:
        return 0.2
    fan = math.prod(parameter.shape[1:])
    image = 8.0 if "patch_embed" in name else 1.0  # pixels are between 0 and 1, and neighbours are alike
    return image * fan**-0.5


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", choices=SIZES)
    parser.add_argument("--out", type=Path, required=True, help="the folder to write the checkpoint to")
    args = parser.parse_args()
    print(write_checkpoint(random_tokenizer(SIZES[args.sizes]), args.out))


if __name__ == "__main__":
    main()
