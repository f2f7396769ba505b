"""Convert a published checkpoint to a bundle: `python -m nativetok.convert CHECKPOINT --out models/NAME`.

Accepts checkpoints of TiTok (legacy and newer, with a codebook) and of NativeTok. The graphs are compared with PyTorch
before the bundle is put in place. If anything is wrong, one sentence says what, and nothing is left behind.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nativetok.published.bundle import Source, new_folder, write_codebook, write_manifest
from nativetok.published.card import model_card
from nativetok.published.checkpoint import Checkpoint, CheckpointError, read_checkpoint, sha256
from nativetok.published.graphs import write_graphs
from nativetok.published.parity import ParityError, check
from nativetok.published.photos import load_photos
from nativetok.published.probe import ProbeResult, probe, settled
from nativetok.published.recognise import LABELS, Options, Recognised, load, read_config, recognise, with_pixels
from nativetok.published.storage import Storage
from nativetok.published.tokenizer import Tokenizer

CHECKED = 4
"""Images that a bundle is checked on."""
PROBED = 3
"""Photos of a folder that are reconstructed to find what no file says."""


def convert(
    path: Path,
    out: Path,
    *,
    config: Path | None = None,
    options: Options | None = None,
    pixels: Path | None = None,
    photos: Path | None = None,
    storage: Storage = "float32",
    url: str | None = None,
    licence: str = "unknown",
    force: bool = False,
) -> Recognised:
    """Write the bundle `out` of a checkpoint.

    A configuration is looked for beside the checkpoint where none is named. `pixels` is a MaskGIT-VQGAN file, for
    checkpoints without trained pixel weights of their own. With `photos`, what no file says is probed.
    Raises CheckpointError, ParityError or OSError (FileExistsError where the bundle is there already), and leaves
    nothing behind then.
    """
    with new_folder(out, force) as folder:
        checkpoint = read_checkpoint(path)
        if pixels:
            checkpoint = with_pixels(checkpoint, read_checkpoint(pixels))
        beside = path.parent / "config.json"
        config = config or (beside if beside.is_file() else None)
        recognised = recognise(checkpoint, read_config(config) if config else None, options)
        result = None
        if photos:
            result = probe(recognised, checkpoint, load_photos(photos, recognised.sizes.image, PROBED))
            recognised = settled(recognised, result.winner())
        if recognised.unset:
            raise CheckpointError(
                f"no file says {LABELS[recognised.unset[0]]} of {path.name}: give them with "
                f"--heads {','.join(f'{part}=N' for part in recognised.unset)}, or --probe PHOTOS"
            )
        _write(folder, out.name, recognised, checkpoint, result, photos, storage, url, licence)
    return recognised


def _write(
    folder: Path,
    name: str,
    recognised: Recognised,
    checkpoint: Checkpoint,
    result: ProbeResult | None,
    photos: Path | None,
    storage: Storage,
    url: str | None,
    licence: str,
) -> None:
    model = load(recognised, checkpoint)
    if photos:
        images, described = load_photos(photos, model.sizes.image, CHECKED), "photos"
    else:
        images, described = patterns(CHECKED, model.sizes.image), "drawn patterns"
    rounding = _round(model, images) if storage == "float16" else None
    graphs = write_graphs(model, folder, storage)
    write_codebook(model, folder)
    parity = check(model, folder, images)
    source = Source(recognised.family, checkpoint.path.name, sha256(checkpoint.path), url, licence)
    described = f"{len(images)} {described}"
    (folder / "MODEL_CARD.md").write_text(
        model_card(name, recognised, source, storage, described, parity, rounding, result)
    )
    quality: dict[str, Any] = {"parity": parity, "weights": storage}
    if rounding:
        quality["rounding"] = rounding
    if result:
        quality["probe"] = {"psnr": result.candidates[0].psnr, "mean_colour_psnr": result.blank}
    write_manifest(folder, name, model, graphs, source, quality)


@torch.no_grad()
def _round(model: Tokenizer, images: NDArray[np.uint8]) -> dict[str, float]:
    """Round a tokenizer's matrices to fp16; return what that changes of images' codes and tokens.

    The codebook, biases and positions stay as they are: they are small, and the codebook is what tokens mean.
    """
    before = model.codes(torch.from_numpy(images))
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and name.endswith("weight") and "quantize" not in name:
            half = weight.half()
            if not half.isfinite().all():
                raise CheckpointError(f'"{name}" holds numbers that fp16 cannot: convert with --weights float32')
            weight.data = half.float()
    after = model.codes(torch.from_numpy(images))
    same = model.quantize.distances(before).argmin(-1) == model.quantize.distances(after).argmin(-1)
    return {
        "tokens_equal": float(same.double().mean()),
        "largest_code_change": float((after - before).abs().max()),
    }


def patterns(count: int, size: int) -> NDArray[np.uint8]:
    """Draw pictures of noise at several scales, the same each time: uint8 [count, size, size, 3]."""
    random = np.random.default_rng(0)
    noise = np.zeros((count, size, size, 3))
    for scale in (1, 4, 16):
        cells = -(-size // scale)
        coarse = random.normal(size=(count, cells, cells, 3)) * scale**0.5
        noise += coarse.repeat(scale, axis=1).repeat(scale, axis=2)[:, :size, :size]
    return (128 + 40 * noise / noise.std()).clip(0, 255).astype(np.uint8)


def _heads(text: str) -> dict[str, int]:
    try:
        return {part: int(number) for part, number in (pair.split("=") for pair in text.split(","))}
    except ValueError:
        raise argparse.ArgumentTypeError("as in encoder=16,experts=4,decoder=16, any of them") from None


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help=".safetensors or .bin, as published")
    parser.add_argument("--out", type=Path, required=True, help="the bundle's folder; its name is the model's name")
    parser.add_argument("--config", type=Path, help="the published config.json; default: the one beside the checkpoint")
    parser.add_argument("--heads", type=_heads, default={}, help="encoder=16,experts=4,decoder=16, or some of them")
    parser.add_argument("--l2-norm", choices=["on", "off"], help="whether codes are normalised, where no file says it")
    parser.add_argument("--pixel-range", choices=["0..1", "-1..1"], help="what pixels are scaled to; default: 0..1")
    parser.add_argument("--probe", type=Path, metavar="PHOTOS", help="find what no file says by reconstructing photos")
    parser.add_argument("--pixels", type=Path, help="a MaskGIT-VQGAN file, for checkpoints whose own is untrained")
    parser.add_argument("--weights", choices=["float32", "float16"], default="float32", help="how weights are stored")
    parser.add_argument("--source-url", help="where the checkpoint came from, for the manifest and the model card")
    parser.add_argument("--licence", default="unknown", help="the weights' licence")
    parser.add_argument("--force", action="store_true", help="replace a bundle that exists")
    args = parser.parse_args()
    options = Options(
        heads=args.heads,
        normalised=None if args.l2_norm is None else args.l2_norm == "on",
        signed=None if args.pixel_range is None else args.pixel_range == "-1..1",
    )
    try:
        recognised = convert(
            args.checkpoint,
            args.out,
            config=args.config,
            options=options,
            pixels=args.pixels,
            photos=args.probe,
            storage=args.weights,
            url=args.source_url,
            licence=args.licence,
            force=args.force,
        )
    except (CheckpointError, ParityError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{args.out}: {recognised.title}")
    for what, origin in recognised.origins.items():
        if origin.startswith("assumed"):
            print(f"note: no file says {LABELS[what]}; taken as published ({_value(recognised, what)})")


def _value(recognised: Recognised, what: str) -> str:
    value = getattr(recognised.sizes, what)
    names = {"normalised": ("off", "on"), "signed": ("0..1", "-1..1")}
    return names[what][value] if what in names else f"{value.heads} heads"


if __name__ == "__main__":
    main()
