"""Rate-distortion curves of the tokens, JPEG, WebP, AVIF and raw thumbnails, each from its smallest file up.

python -m study.rate_distortion --weights training/weights/nativetok-128.safetensors --data FOLDER \
    --out docs/results/rate-distortion.json
"""

import argparse
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, features
from tqdm import tqdm

from nativetok.data import find_split, load_images
from nativetok.evaluate import reconstruct
from nativetok.metrics import psnr, ssim
from nativetok.model import load_weights

REDUCED_SIDES = (16, 32, 64, 96)
"""Sides of reduced images. Even the smallest full-size files are several times larger than the tokens; the usual way
to get smaller files is to reduce the image and to enlarge it after decoding."""
THUMBNAIL_SIDES = (4, 8)
"""Sides of raw RGB thumbnails of 48 and 192 bytes."""


def jpeg_payload(data: bytes) -> int:
    """Bytes of a JPEG file's only scan: the entropy-coded data without tables and headers (ITU-T T.81, annex B)."""
    place = 2
    while data[place + 1] != 0xDA:
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    scan = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return len(data) - scan - len(b"\xff\xd9")


def webp_payload(data: bytes) -> int:
    """Bytes of a lossy WebP file's VP8 frame without its 10-byte frame header (RFC 9649; RFC 6386, section 9.1)."""
    if data[12:16] != b"VP8 ":
        raise ValueError(f"need a simple lossy WebP file, not one whose first chunk is {data[12:16]!r}")
    return int.from_bytes(data[16:20], "little") - 10


def avif_payload(data: bytes) -> int:
    """Bytes of an AVIF file's media data, the content of its `mdat` box (ISO/IEC 14496-12)."""
    place = 0
    while data[place + 4 : place + 8] != b"mdat":
        place += int.from_bytes(data[place : place + 4], "big")
    return int.from_bytes(data[place : place + 4], "big") - 8


@dataclass(frozen=True)
class Codec:
    """An image format and careful settings of its encoder."""

    format: str
    qualities: tuple[int, ...]
    """Rising, from the one with the smallest file."""
    reduced_quality: int
    """The quality for reduced images: a low one at which an additional byte gains most."""
    payload: Callable[[bytes], int]
    options: dict[str, Any]
    """Encoder options for the smallest whole file."""
    payload_options: dict[str, Any] = field(default_factory=dict)
    """Options that replace them if only the payload counts. The pixels must be the same."""

    def compress(self, image: np.ndarray, quality: int, side: int) -> tuple[bytes, int]:
        """Resize an image uint8 [H,W,3] to `side` x `side` and compress it; return the file and its payload's size."""
        file = self._save(image, quality, side, self.options)
        other = self._save(image, quality, side, self.options | self.payload_options) if self.payload_options else file
        return file, self.payload(other)

    def _save(self, image: np.ndarray, quality: int, side: int, options: dict[str, Any]) -> bytes:
        file = io.BytesIO()
        _resize(Image.fromarray(image), side, Image.Resampling.LANCZOS).save(
            file, self.format, quality=quality, **options
        )
        return file.getvalue()


CODECS = {
    # Optimised Huffman tables give the smaller file, but the tables then carry information about the image. So the
    # payload is measured with the standard's tables, which need not be sent.
    "JPEG": Codec(
        "JPEG", (1, 3, 5, 7, 10, 15, 20, 30), 20, jpeg_payload,
        {"optimize": True, "subsampling": "4:2:0"}, {"optimize": False},
    ),
    "WebP": Codec("WEBP", (0, 1, 2, 5, 10, 20, 30), 5, webp_payload, {"method": 6}),
    # Tuned for PSNR, which is measured and also reaches smaller files than the default. Speed 2 of 0..10, as speed 0
    # takes three times as long and gains less than 0.2 dB.
    "AVIF": Codec(
        "AVIF", (0, 1, 3, 6, 10, 20, 30), 10, avif_payload,
        {"speed": 2, "subsampling": "4:2:0", "max_threads": 1, "advanced": {"tune": "psnr"}},
    ),
}  # fmt: skip


def codec_point(images: np.ndarray, codec: Codec, quality: int, side: int) -> dict[str, float]:
    """Measure one point of a codec's curve.

    Args:
        images: uint8 [N,S,S,3].
        codec: the format.
        quality: on the format's own scale.
        side: side in pixels of the compressed image; decoded images are resized back to S.

    Returns:
        `side` and `quality`; means over images of the file's `bytes`, its `payload` bytes, `psnr` in dB and `ssim`.
    """
    files, payloads = zip(*(codec.compress(image, quality, side) for image in images), strict=True)
    pictures = np.stack([_restore(Image.open(io.BytesIO(data)), images.shape[1]) for data in files])
    return {
        "side": side,
        "quality": quality,
        "bytes": float(np.mean([len(data) for data in files])),
        "payload": float(np.mean(payloads)),
        **_quality(images, pictures),
    }


def codec_curve(images: np.ndarray, codec: Codec) -> list[dict[str, float]]:
    """Measure a codec's curve, reduced images first, then full size at rising quality; points as in `codec_point`."""
    size = images.shape[1]
    settings = [(side, codec.reduced_quality) for side in REDUCED_SIDES if side < size]
    settings += [(size, quality) for quality in codec.qualities]
    return [
        codec_point(images, codec, quality, side) for side, quality in tqdm(settings, unit="point", desc=codec.format)
    ]


def thumbnail_curve(images: np.ndarray) -> list[dict[str, float]]:
    """Measure raw RGB thumbnails, enlarged bicubically: the baseline for any code of that many bytes."""
    points = []
    for side in THUMBNAIL_SIDES:
        small = [_resize(Image.fromarray(image), side, Image.Resampling.BOX) for image in images]
        pictures = np.stack([_restore(image, images.shape[1]) for image in small])
        points.append({"side": side, "bytes": 3 * side**2, "payload": 3 * side**2, **_quality(images, pictures)})
    return points


def token_curve(images: np.ndarray, decoded: dict[int, np.ndarray], codebook_size: int) -> list[dict[str, float]]:
    """Measure the tokens' points: ids packed without a header, so file and payload are the same.

    Args:
        images: uint8 [N,S,S,3].
        decoded: number of tokens -> uint8 [N,S,S,3].
        codebook_size: entries in the codebook.
    """
    points = []
    for length, pictures in decoded.items():
        size = math.ceil(length * math.log2(codebook_size) / 8)
        points.append({"tokens": length, "bytes": size, "payload": size, **_quality(images, pictures)})
    return points


def _quality(images: np.ndarray, pictures: np.ndarray) -> dict[str, float]:
    return {"psnr": float(psnr(images, pictures).mean()), "ssim": float(ssim(images, pictures).mean())}


def _resize(image: Image.Image, side: int, filter: Image.Resampling) -> Image.Image:
    return image if image.size == (side, side) else image.resize((side, side), filter)


def _restore(image: Image.Image, side: int) -> np.ndarray:
    return np.asarray(_resize(image.convert("RGB"), side, Image.Resampling.BICUBIC))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: write the curves to `--out`."""
    parser = argparse.ArgumentParser(prog="python -m study.rate_distortion", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--weights", type=Path, required=True, help="released weights, .safetensors")
    parser.add_argument("--data", type=Path, required=True, help="data set; the val split is measured")
    parser.add_argument("--images", type=int, help="number of photos (default: all)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the curves")
    options = parser.parse_args(arguments)

    model = load_weights(options.weights).to("cuda" if torch.cuda.is_available() else "cpu")
    images = load_images(find_split(options.data, "val"), model.config.image_size)[: options.images]
    _, decoded = reconstruct(model, images)
    figures = {
        "images": len(images),
        "versions": {name: features.version(name) for name in ("jpg", "webp", "avif")},
        "curves": {
            "NativeTok": token_curve(images, decoded, model.config.codebook_size),
            "thumbnail": thumbnail_curve(images),
            **{name: codec_curve(images, codec) for name, codec in CODECS.items()},
        },
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
