"""Bytes against quality: the tokens beside JPEG, WebP, AVIF and bare thumbnails, each from its smallest file up.

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
"""At their smallest, files of full-size pictures are several times our length. The common way to even smaller ones is a
smaller picture, enlarged after decoding."""
THUMBNAIL_SIDES = (4, 8)
"""Raw RGB thumbnails of 48 and 192 bytes."""


def jpeg_payload(data: bytes) -> int:
    """Bytes of a JPEG file's single scan: entropy-coded picture without tables and headers (ITU-T T.81, annex B)."""
    place = 2
    while data[place + 1] != 0xDA:
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    scan = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return len(data) - scan - len(b"\xff\xd9")


def webp_payload(data: bytes) -> int:
    """Bytes of a lossy WebP file's VP8 frame without its frame header of 10 bytes (RFC 9649; RFC 6386, section 9.1)."""
    if data[12:16] != b"VP8 ":
        raise ValueError(f"a plain lossy WebP file is needed, not one that starts with a chunk {data[12:16]!r}")
    return int.from_bytes(data[16:20], "little") - 10


def avif_payload(data: bytes) -> int:
    """Bytes of an AVIF file's media data, the content of its `mdat` box (ISO/IEC 14496-12)."""
    place = 0
    while data[place + 4 : place + 8] != b"mdat":
        place += int.from_bytes(data[place : place + 4], "big")
    return int.from_bytes(data[place : place + 4], "big") - 8


@dataclass(frozen=True)
class Codec:
    """An image format at its encoder's careful settings."""

    format: str
    qualities: tuple[int, ...]
    """Rising, from the one that gives the smallest file."""
    reduced_quality: int
    """The quality of smaller pictures: of the low ones, one where a byte buys most."""
    payload: Callable[[bytes], int]
    options: dict[str, Any]
    """Of the encoder, for the smallest whole file."""
    payload_options: dict[str, Any] = field(default_factory=dict)
    """What differs from them where the payload alone counts. The pixels must not."""

    def compress(self, image: np.ndarray, quality: int, side: int) -> tuple[bytes, int]:
        """The file of an image uint8 [H,W,3], brought to `side` x `side` pixels first, and the bytes of its payload."""
        file = self._save(image, quality, side, self.options)
        bare = self._save(image, quality, side, self.options | self.payload_options) if self.payload_options else file
        return file, self.payload(bare)

    def _save(self, image: np.ndarray, quality: int, side: int, options: dict[str, Any]) -> bytes:
        file = io.BytesIO()
        _resize(Image.fromarray(image), side, Image.Resampling.LANCZOS).save(
            file, self.format, quality=quality, **options
        )
        return file.getvalue()


CODECS = {
    # Huffman tables fitted to the picture make the smaller file, but are then part of what tells the picture: the
    # payload is counted with the standard's own, which need not be sent.
    "JPEG": Codec(
        "JPEG", (1, 3, 5, 7, 10, 15, 20, 30), 20, jpeg_payload,
        {"optimize": True, "subsampling": "4:2:0"}, {"optimize": False},
    ),
    "WebP": Codec("WEBP", (0, 1, 2, 5, 10, 20, 30), 5, webp_payload, {"method": 6}),
    # Tuned for what is measured, which also reaches smaller files than the default; speed 2 of 0..10, since speed 0
    # takes three times as long for less than 0.2 dB.
    "AVIF": Codec(
        "AVIF", (0, 1, 3, 6, 10, 20, 30), 10, avif_payload,
        {"speed": 2, "subsampling": "4:2:0", "max_threads": 1, "advanced": {"tune": "psnr"}},
    ),
}  # fmt: skip


def codec_point(images: np.ndarray, codec: Codec, quality: int, side: int) -> dict[str, float]:
    """One point of a codec's curve.

    Args:
        images: uint8 [N,S,S,3].
        codec: the format.
        quality: in the format's own scale.
        side: of the picture that is compressed, in pixels; decoded pictures are brought back to S.

    Returns:
        `side` and `quality`; the means over images of a whole file's `bytes`, its `payload` bytes, `psnr` in dB and
        `ssim`.
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
    """Smaller pictures first, then full size at rising quality; each point as `codec_point` gives it."""
    size = images.shape[1]
    settings = [(side, codec.reduced_quality) for side in REDUCED_SIDES if side < size]
    settings += [(size, quality) for quality in codec.qualities]
    return [
        codec_point(images, codec, quality, side) for side, quality in tqdm(settings, unit="point", desc=codec.format)
    ]


def thumbnail_curve(images: np.ndarray) -> list[dict[str, float]]:
    """Thumbnails of raw RGB bytes, enlarged bicubically: what any code of as many bytes has to beat."""
    points = []
    for side in THUMBNAIL_SIDES:
        small = [_resize(Image.fromarray(image), side, Image.Resampling.BOX) for image in images]
        pictures = np.stack([_restore(image, images.shape[1]) for image in small])
        points.append({"side": side, "bytes": 3 * side**2, "payload": 3 * side**2, **_quality(images, pictures)})
    return points


def token_curve(images: np.ndarray, decoded: dict[int, np.ndarray], codebook_size: int) -> list[dict[str, float]]:
    """The tokens' points: ids packed without a header, so that file and payload are the same bytes.

    Args:
        images: uint8 [N,S,S,3].
        decoded: number of tokens -> uint8 [N,S,S,3].
        codebook_size: entries of the codebook.
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
    """Run the command line: writes the curves to `--out`."""
    parser = argparse.ArgumentParser(prog="python -m study.rate_distortion", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--weights", type=Path, required=True, help="released weights, .safetensors")
    parser.add_argument("--data", type=Path, required=True, help="data; its val split is measured")
    parser.add_argument("--images", type=int, help="only the first so many photos (default: all)")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
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
