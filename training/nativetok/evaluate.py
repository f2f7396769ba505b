"""Evaluates released weights on a set of images and draws a contact sheet.

python -m nativetok.evaluate --weights training/weights/nativetok-128.safetensors --data FOLDER --out DIR
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from nativetok.classifier import Classifier, embed, load_classifier
from nativetok.data import find_split, load_images
from nativetok.metrics import codebook_use, frechet_distance, position_entropy, psnr, ssim
from nativetok.model import NativeTok, load_weights
from nativetok.stability import measure_stability

SHEET_IMAGES = 12
GAP = 4
LABEL_WIDTH = 96


def reconstruct(
    model: NativeTok, images: np.ndarray, lengths: Sequence[int] | None = None, batch: int = 32
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Encode images once and decode prefixes of their tokens, on the model's device.

    Args:
        model: in evaluation mode.
        images: uint8 [N,H,W,3] at the model's size.
        lengths: prefix lengths, each 1..L; by default the model's stages.
        batch: images per batch.

    Returns:
        Tokens int64 [N,L], and for each length the reconstructions uint8 [N,H,W,3].
    """
    device = next(model.parameters()).device
    lengths = lengths or model.config.stages
    tokens: list[np.ndarray] = []
    decoded: dict[int, list[np.ndarray]] = {length: [] for length in lengths}
    with torch.inference_mode():
        for start in tqdm(range(0, len(images), batch), unit="batch", desc="evaluate"):
            ids = model.encode(torch.from_numpy(images[start : start + batch]).to(device))
            tokens.append(ids.cpu().numpy())
            for length in lengths:
                decoded[length].append(model.decode(ids[:, :length]).cpu().numpy())
    return np.concatenate(tokens), {length: np.concatenate(parts) for length, parts in decoded.items()}


def measure(
    images: np.ndarray,
    tokens: np.ndarray,
    decoded: dict[int, np.ndarray],
    codebook_size: int,
    classifier: Classifier | None = None,
) -> dict[str, Any]:
    """Compute all figures of the evaluation.

    Args:
        images: uint8 [N,H,W,3].
        tokens: integers [N,L], ids of 0..codebook_size-1.
        decoded: length -> uint8 [N,H,W,3].
        codebook_size: entries in the codebook.
        classifier: its features are used for the Fréchet distance.

    Returns:
        A JSON-ready dictionary: for each length the mean PSNR (dB) and SSIM over images and the Fréchet distance
        between reconstructions and images (null without a classifier); the share of the codebook in use, over all
        images and over the first 1,000 (null if there are fewer); and the entropy at each position in bits.
    """
    entropy = position_entropy(tokens)
    distances: dict[int, float] = {}
    if classifier:
        features = embed(classifier, images)
        distances = {length: frechet_distance(features, embed(classifier, shown)) for length, shown in decoded.items()}
    return {
        "images": len(images),
        "lengths": {
            str(length): {
                "bytes": math.ceil(length * math.log2(codebook_size) / 8),
                "psnr": float(psnr(images, pictures).mean()),
                "ssim": float(ssim(images, pictures).mean()),
                "frechet": distances.get(length),
            }
            for length, pictures in decoded.items()
        },
        "codebook": {
            "size": codebook_size,
            "used": codebook_use(tokens, codebook_size),
            "used_by_1000_images": codebook_use(tokens[:1000], codebook_size) if len(tokens) >= 1000 else None,
        },
        "entropy": {
            "mean_bits": float(entropy.mean()),
            "bits_by_position": [round(float(bits), 3) for bits in entropy],
        },
    }


def contact_sheet(images: np.ndarray, decoded: dict[int, np.ndarray]) -> Image.Image:
    """Draw a row of originals and, below it, a row of reconstructions for each length, with labels on the left.

    Args:
        images: uint8 [N,H,W,3]; up to twelve, evenly spaced, are shown.
        decoded: length -> uint8 [N,H,W,3].
    """
    shown = np.unique(np.linspace(0, len(images) - 1, SHEET_IMAGES).round().astype(int))
    rows = [("original", images)] + [(f"{length} tokens", pictures) for length, pictures in decoded.items()]
    height, width = images.shape[1:3]
    sheet = Image.new("RGB", (LABEL_WIDTH + len(shown) * (width + GAP), len(rows) * (height + GAP) - GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=14)
    for row, (label, pictures) in enumerate(rows):
        top = row * (height + GAP)
        draw.text((GAP, top + height // 2), label, fill="black", font=font, anchor="lm")
        for column, index in enumerate(shown):
            sheet.paste(Image.fromarray(pictures[index]), (LABEL_WIDTH + column * (width + GAP), top))
    return sheet


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: write `evaluation.json` and `contact-sheet.png` into `--out`."""
    parser = argparse.ArgumentParser(prog="python -m nativetok.evaluate", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--weights", type=Path, required=True, help="released weights, .safetensors")
    parser.add_argument(
        "--data", type=Path, nargs="+", required=True, help="data sets (the val split is used), photos or .tar shards"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for evaluation.json and contact-sheet.png")
    parser.add_argument("--classifier", type=Path, help="classifier weights, for the Fréchet distance")
    parser.add_argument("--lengths", type=int, nargs="+", help="prefix lengths to decode (default: the model's stages)")
    parser.add_argument("--batch", type=int, default=32, help="images per batch (default 32)")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=device, help=f"cpu, cuda, cuda:1, ... (default {device})")
    options = parser.parse_args(arguments)

    model = load_weights(options.weights).to(options.device)
    if wrong := [length for length in options.lengths or [] if not 1 <= length <= model.config.length]:
        parser.error(f"--lengths {wrong[0]}: must be between 1 and {model.config.length}, the model's length")
    images = load_images([path for root in options.data for path in find_split(root, "val")], model.config.image_size)
    tokens, decoded = reconstruct(model, images, options.lengths, options.batch)
    classifier = load_classifier(options.classifier).to(options.device) if options.classifier else None
    figures = measure(images, tokens, decoded, model.config.codebook_size, classifier)
    figures["stability"] = measure_stability(model, images, options.batch)

    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "evaluation.json").write_text(json.dumps(figures, indent=2) + "\n")
    contact_sheet(images, decoded).save(options.out / "contact-sheet.png", optimize=True)
    for length, figure in figures["lengths"].items():
        distance = "" if figure["frechet"] is None else f"  Fréchet {figure['frechet']:.2f}"
        print(f"{length:>4} tokens  PSNR {figure['psnr']:.2f} dB  SSIM {figure['ssim']:.3f}{distance}")
    print(f"codebook in use {figures['codebook']['used']:.1%}, {figures['entropy']['mean_bits']:.2f} bits per token")
    for change, figure in figures["stability"].items():
        print(f"{change}: {figure['equal']:.1%} of tokens stay the same, rms {figure['rms']:.1f} of 255")


if __name__ == "__main__":
    main()
