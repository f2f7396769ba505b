"""Makes the fixtures: tiny random checkpoints in published forms, what they must give, and the bundles made of them.

    PYTHONPATH=training python training/tests/published/make_fixtures.py

Run it again only where the fixtures themselves change: their expectations were computed in float64 by modules whose
results had been compared with the authors' code.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nativetok.convert import convert
from nativetok.published.blocks import Trunk
from nativetok.published.nativetok import NativeTok, NativeTokSizes
from nativetok.published.photos import load_photos
from nativetok.published.pixels import PixelSizes
from nativetok.published.random_weights import random_tokenizer, write_checkpoint
from nativetok.published.recognise import Options
from nativetok.published.titok import TiTokSizes
from nativetok.published.tokenizer import Tokenizer, TokenizerSizes, to_uint8

ROOT = Path(__file__).parents[3]
CHECKPOINTS, BUNDLES = ROOT / "test/fixtures/checkpoints", ROOT / "test/fixtures/bundles"

PIXELS = PixelSizes(8, (64, 64), ((32, 32), (32, 32), (64, 32)))
COMMON: dict[str, Any] = {"image": 32, "length": 8, "codebook_size": 64, "code_width": 12, "signed": False}

SIZES: dict[str, TokenizerSizes] = {
    "titok-legacy": TiTokSizes(
        **COMMON, normalised=True, encoder=Trunk(32, 2, 4, 4), decoder=Trunk(16, 2, 2, 4), pixels=PIXELS
    ),
    "titok-newer": TiTokSizes(
        **COMMON, normalised=False, encoder=Trunk(32, 2, 4, 4), decoder=Trunk(16, 2, 2, 4), pixels=None
    ),
    "nativetok-b": NativeTokSizes(
        **COMMON,
        normalised=True,
        encoder=Trunk(32, 2, 4, 4),
        experts=Trunk(16, 2, 2),
        decoder=Trunk(16, 2, 2, 4),
        pixels=PIXELS,
    ),
    "nativetok-a": NativeTokSizes(
        **COMMON,
        normalised=True,
        encoder=Trunk(32, 2, 4, 4),
        experts=Trunk(16, 2, 2),
        decoder=Trunk(16, 2, 2, 4),
        pixels=PIXELS,
        variant="A",
    ),
}


def heads(sizes: TokenizerSizes) -> dict[str, int]:
    """The numbers of heads, which no checkpoint has."""
    experts = {"experts": sizes.experts.heads} if isinstance(sizes, NativeTokSizes) else {}
    return {"encoder": sizes.encoder.heads, "decoder": sizes.decoder.heads} | experts


def prefixed(model: Tokenizer, path: Path) -> None:
    """Write a checkpoint as training scripts save it: nested, with `module.`, and the loss's weights beside."""
    state = {f"module.{name}": weight for name, weight in model.state_dict().items()}
    state["module.loss.discriminator.main.3.num_batches_tracked"] = torch.tensor(7)
    state["module.loss.discriminator.main.3.weight"] = torch.ones(8)
    torch.save({"model": state}, path)


@torch.no_grad()
def expectations(model: Tokenizer, images: np.ndarray) -> dict[str, np.ndarray]:
    """What a tokenizer must give for images, computed in float64."""
    model, pixels = model.double(), torch.from_numpy(images)
    codes = model.codes(pixels)
    nearest = model.quantize.distances(codes).topk(2, dim=-1, largest=False)
    tokens = nearest.indices[..., 0]
    drawn = model.draw(tokens)
    expected = {
        "images": images,
        "latents": codes.transpose(1, 2).unsqueeze(2).float().numpy(),
        "tokens": tokens.int().numpy(),
        "margins": (nearest.values[..., 1] - nearest.values[..., 0]).float().numpy(),
        "pixels": drawn.float().numpy(),
        "pixels_u8": to_uint8(drawn).numpy(),
    }
    if isinstance(model, NativeTok):
        meta = model.encoder.read(model.scaled(pixels))
        expected["meta"] = meta.float().numpy()
        expected["experts"] = model.encoder.speak(meta, model.latent_tokens).float().numpy()
        expected["prefix_length"] = np.array(3, np.int32)
        expected["prefix_pixels_u8"] = to_uint8(model.draw(tokens[:, :3])).numpy()
    return expected


def main() -> None:
    for name, sizes in SIZES.items():
        folder, images = CHECKPOINTS / name, load_photos(ROOT / "test/fixtures/photos", sizes.image, 6)
        shutil.rmtree(folder, ignore_errors=True)
        model = random_tokenizer(sizes, seed=3)
        if name == "nativetok-b":
            folder.mkdir(parents=True)
            prefixed(model, path := folder / "Nativetok_8_stage2.bin")
        else:
            path = write_checkpoint(model, folder)
        expected = expectations(model, images)
        np.savez_compressed(folder / "expected.npz", **expected)  # type: ignore[arg-type]
        tokens = expected["tokens"]
        print(name, "sequences", len(np.unique(tokens, axis=0)), "ids", len(np.unique(tokens)))
        print("  margin", expected["margins"].min(), "latents", expected["latents"].std())
        print(
            "  between images",
            expected["latents"].std(axis=0).mean(),
            "pixels",
            expected["pixels"].mean(),
            expected["pixels"].std(),
            path.stat().st_size,
        )
        convert(path, BUNDLES / name, options=Options(heads=heads(sizes)), licence="MIT", force=True)


if __name__ == "__main__":
    main()
