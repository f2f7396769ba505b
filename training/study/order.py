"""Is the order coarse to fine? Measures what each token says about an image, and what it adds to the reconstruction.

python -m study.order --weights training/weights/nativetok-128.safetensors --data FOLDER \
    --out docs/results/order.json --picture docs/images/order.jpg
"""

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy.cluster.vq import kmeans2
from scipy.fft import dctn
from tqdm import tqdm

from nativetok.data import find_split, load_images
from nativetok.metrics import position_entropy, psnr
from nativetok.model import NativeTok, load_weights
from study.prefixes import prefix_lengths

CODE_GROUPS = 64
CONTENT_CLUSTERS = 16
SHUFFLES = 20
BAND_EDGES = (1, 2, 4, 8, 16, 32)
"""Edges of bands of spatial frequency, in cycles per image; the first band is below them, the last one above."""

PICTURE_PHOTOS = 4
AMPLIFICATION = 2
GAP = 4
HEADER = 24


# ---------------------------------------------------------------------------------------------------------------------
# What tokens say about an image


def coarse_content(images: np.ndarray) -> np.ndarray:
    """The layout of colours: 4x4 thumbnails, float64 [N,48], of images uint8 [N,S,S,3]."""
    return _thumbnails(images, 4).reshape(len(images), -1)


def fine_content(images: np.ndarray) -> np.ndarray:
    """The layout of detail: how much energy a 16x16 thumbnail misses, and where.

    Args:
        images: uint8 [N,S,S,3], S a multiple of 16.

    Returns:
        float64 [N,16]: log(1 + the mean squared difference from the thumbnail) in each cell of a 4x4 grid.
    """
    scale = images.shape[1] // 16
    energies = []
    for image in images:  # one by one, as thousands of photos as floats would take gigabytes
        detail = image - _thumbnails(image[None], 16).repeat(scale, axis=1).repeat(scale, axis=2)
        energies.append(_thumbnails(np.square(detail).mean(axis=-1, keepdims=True), 4).ravel())
    return np.log1p(energies)


def cluster(vectors: np.ndarray, count: int) -> np.ndarray:
    """Cluster vectors float [N,F] by k-means (k-means++ start, fixed seed); return int [N] of 0..count-1."""
    return kmeans2(vectors.astype(np.float64), count, iter=30, minit="++", rng=0)[1]


def mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """Mutual information of ids a [N] and b [N] in bits, a plug-in estimate biased by about (A-1)(B-1) / (2 N ln 2)."""
    joint = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(joint, (a, b), 1 / len(a))
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0)
    seen = joint > 0
    return float((joint[seen] * np.log2(joint[seen] / independent[seen])).sum())


def corrected_information(
    tokens: np.ndarray, content: np.ndarray, shuffles: int = SHUFFLES
) -> tuple[np.ndarray, float]:
    """Mutual information of the token at each position with the content, corrected for bias.

    The bias is the mean estimate over shuffles of the content among images, which leave no information.

    Args:
        tokens: int [N,L] with few distinct ids.
        content: int [N], each image's cluster.
        shuffles: number of shuffles, at least 2.

    Returns:
        float64 [L] in bits, and the noise: the standard deviation of a position's estimate over shuffles.
    """
    rng = np.random.default_rng(0)
    estimate = np.array([mutual_information(column, content) for column in tokens.T])
    chance = np.array(
        [
            [mutual_information(column, shuffled) for column in tokens.T]
            for shuffled in _shuffled(content, shuffles, rng)
        ]
    )
    return estimate - chance.mean(axis=0), float(chance.std(axis=0, ddof=1).mean())


def tell(images: np.ndarray, tokens: np.ndarray, codebook: np.ndarray) -> dict[str, Any]:
    """Entropy of the ids and their mutual information with coarse and fine content, by position.

    For mutual information, codebook entries are clustered into 64 groups: with all 4,096 entries the estimate would be
    mostly bias. Information in the differences within a group is not counted.

    Args:
        images: uint8 [N,S,S,3], S a multiple of 16.
        tokens: int [N,L].
        codebook: float [K,C].

    Returns:
        A JSON-ready dictionary, all in bits: `entropy` by position (plug-in estimate, at most log2 N); for `coarse` and
        `fine` the `entropy` of the content clusters, the `information` by position and its `noise`.
    """
    groups = cluster(codebook, min(CODE_GROUPS, len(codebook)))[tokens]
    figures: dict[str, Any] = {"entropy": _rounded(position_entropy(tokens))}
    for name, describe in (("coarse", coarse_content), ("fine", fine_content)):
        content = cluster(describe(images), CONTENT_CLUSTERS)
        information, noise = corrected_information(groups, content)
        figures[name] = {
            "entropy": float(position_entropy(content[:, None])[0]),
            "information": _rounded(information),
            "noise": noise,
        }
    return figures


def _thumbnails(images: np.ndarray, side: int) -> np.ndarray:
    """Box means float64 [N,side,side,C] of images [N,S,S,C]."""
    n, size, _, channels = images.shape
    scale = size // side
    return images.reshape(n, side, scale, side, scale, channels).mean(axis=(2, 4))


def _shuffled(content: np.ndarray, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.permutation(content) for _ in range(count)]


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]


# ---------------------------------------------------------------------------------------------------------------------
# What tokens add to the reconstruction


def spectrum(pictures: np.ndarray) -> tuple[np.ndarray, float]:
    """Energy of pictures by spatial frequency.

    Uses the cosine transform, which continues a picture by its mirror image. The Fourier transform wraps it around, so
    that a jump from one border to the opposite one would count as fine detail.

    Args:
        pictures: float [N,S,S,3].

    Returns:
        Mean energy per pixel and channel in each band of `BAND_EDGES`, float64 [bands], adding up to the mean square;
        and the mean frequency in cycles per image, weighted by energy.
    """
    size = pictures.shape[1]
    energy = np.zeros((size, size))
    for picture in pictures:
        energy += np.square(dctn(picture, axes=(0, 1), norm="ortho")).sum(axis=-1)
    energy /= pictures.size
    frequency = np.hypot(*np.indices((size, size))) / 2
    bands = np.bincount(np.digitize(frequency, BAND_EDGES).ravel(), energy.ravel(), len(BAND_EDGES) + 1)
    return bands, float((energy * frequency).sum() / max(energy.sum(), 1e-12))


def add(images: np.ndarray, decoded: dict[int, np.ndarray]) -> dict[str, Any]:
    """The quality of each prefix and what it adds to the next shorter one.

    Args:
        images: uint8 [N,S,S,3].
        decoded: number of tokens, rising from 0 -> uint8 [N,S,S,3].

    Returns:
        A JSON-ready dictionary with `band_edges` and, in `prefixes`, for each number of tokens except 0: `psnr` in dB,
        and for the difference from the next shorter prefix's picture its energy `added` (mean square in grey levels),
        the `shares` of the bands and its `mean_frequency`. `photos` has these for the photos minus the picture of no
        tokens.
    """

    def describe(before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
        bands, frequency = spectrum(after.astype(np.float32) - before)
        energy = float(bands.sum())
        return {"added": energy, "shares": _rounded(bands / max(energy, 1e-12)), "mean_frequency": frequency}

    return {
        "band_edges": list(BAND_EDGES),
        "prefixes": {
            str(length): {
                "psnr": float(psnr(images, decoded[length]).mean()),
                **describe(decoded[shorter], decoded[length]),
            }
            for shorter, length in itertools.pairwise(decoded)
        },
        "photos": describe(decoded[0], images),
    }


def draw_steps(images: np.ndarray, decoded: dict[int, np.ndarray]) -> Image.Image:
    """Draw four evenly spaced photos, two rows each.

    The upper row has the pictures of growing prefixes, with the photo on the right. The lower row has what each of them
    adds to the one on its left, amplified around mid-grey.

    Args:
        images: uint8 [N,S,S,3].
        decoded: number of tokens, rising from 0 -> uint8 [N,S,S,3].
    """
    shown = np.unique(np.linspace(0, len(images) - 1, PICTURE_PHOTOS).round().astype(int))
    columns = [*decoded.values(), images]
    labels = [str(length) for length in decoded if length] + ["original"]
    pitch = images.shape[1] + GAP
    sheet = Image.new("RGB", (len(labels) * pitch - GAP, HEADER + 2 * len(shown) * pitch - GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=14)
    for column, (label, (before, after)) in enumerate(zip(labels, itertools.pairwise(columns), strict=True)):
        left = column * pitch
        draw.text((left + images.shape[1] // 2, HEADER // 2), label, fill="black", font=font, anchor="mm")
        for row, index in enumerate(shown):
            top = HEADER + 2 * row * pitch
            change = 128 + AMPLIFICATION * (after[index].astype(int) - before[index])
            sheet.paste(Image.fromarray(after[index]), (left, top))
            sheet.paste(Image.fromarray(change.clip(0, 255).astype(np.uint8)), (left, top + pitch))
    return sheet


# ---------------------------------------------------------------------------------------------------------------------


def encode(model: NativeTok, images: np.ndarray, batch: int = 64) -> np.ndarray:
    """Tokenize images uint8 [N,S,S,3] to int64 [N,L]."""
    device = next(model.parameters()).device
    with torch.inference_mode():
        return np.concatenate(
            [
                model.encode(torch.from_numpy(images[start : start + batch]).to(device)).cpu().numpy()
                for start in tqdm(range(0, len(images), batch), unit="batch", desc="encode")
            ]
        )


def decode_prefixes(model: NativeTok, tokens: np.ndarray, batch: int = 64) -> dict[int, np.ndarray]:
    """Decode no tokens and every prefix of `prefix_lengths` of tokens int [N,L]: length -> uint8 [N,S,S,3]."""
    device, absent = next(model.parameters()).device, model.config.codebook_size
    prefixes = {0: np.full_like(tokens[:, :1], absent)}
    prefixes |= {length: tokens[:, :length] for length in prefix_lengths(tokens.shape[1])}
    with torch.inference_mode():
        return {
            length: np.concatenate(
                [
                    model.decode(torch.from_numpy(prefix[start : start + batch]).to(device)).cpu().numpy()
                    for start in range(0, len(prefix), batch)
                ]
            )
            for length, prefix in tqdm(prefixes.items(), unit="length", desc="decode")
        }


def load_some(paths: Sequence[Path], image_size: int, count: int) -> np.ndarray:
    """Load the first `count` images under `paths`, uint8 [<= count,S,S,3], without opening more paths than needed."""
    loaded = [np.empty((0, image_size, image_size, 3), np.uint8)]
    for path in paths:
        if sum(map(len, loaded)) >= count:
            break
        loaded.append(load_images([path], image_size))
    return np.concatenate(loaded)[:count]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: write the figures to `--out` and the picture to `--picture`."""
    parser = argparse.ArgumentParser(prog="python -m study.order", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--weights", type=Path, required=True, help="released weights, .safetensors")
    parser.add_argument("--data", type=Path, required=True, help="data set with a val and optionally a train split")
    parser.add_argument("--images", type=int, help="number of val photos (default: all)")
    parser.add_argument(
        "--train-images",
        type=int,
        default=8000,
        help="number of train photos that the estimate of information also uses (default 8000)",
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the figures")
    parser.add_argument("--picture", type=Path, required=True, help="image file for the picture")
    options = parser.parse_args(arguments)

    model = load_weights(options.weights).to("cuda" if torch.cuda.is_available() else "cpu")
    size, val_paths = model.config.image_size, find_split(options.data, "val")
    val = load_images(val_paths, size)[: options.images]
    train_paths = [path for path in find_split(options.data, "train") if path not in val_paths]
    images = np.concatenate([val, load_some(train_paths, size, options.train_images)])

    tokens = encode(model, images)
    decoded = decode_prefixes(model, tokens[: len(val)])
    figures = {
        "images": {"val": len(val), "train": len(images) - len(val)},
        "tell": tell(images, tokens, model.quantiser.codebook.cpu().numpy()),
        "add": add(val, decoded),
    }
    for file in (options.out, options.picture):
        file.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(figures, indent=2) + "\n")
    draw_steps(val, decoded).save(options.picture, quality=88, optimize=True)


if __name__ == "__main__":
    main()
