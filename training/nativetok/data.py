"""Loads images from folders or tar shards and brings them to a model's pixels."""

import csv
import io
import math
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".avif"}


def load_images(paths: Sequence[Path], image_size: int) -> NDArray[np.uint8]:
    """Load every image under `paths` (image files, folders, tar shards), in a stable order, as uint8 [N, H, W, 3].

    `prepare` brings them to `image_size`, exactly as the service does. Raises FileNotFoundError if there are no images.
    """
    return load_keyed_images(paths, image_size)[1]


def load_keyed_images(paths: Sequence[Path], image_size: int) -> tuple[list[str], NDArray[np.uint8]]:
    """Load images as `load_images` does, together with their keys: file names without folder and suffix."""
    files = [file for path in paths for file in _files(path)]
    if not files:
        raise FileNotFoundError(f"no image under {', '.join(map(str, paths))}")
    images = [prepare(Image.open(io.BytesIO(data)), image_size) for _, data in files]
    return [Path(name).stem for name, _ in files], np.stack(images)


def load_labels(path: Path) -> dict[str, str]:
    """Read labels by key from a CSV file with columns `key` and `label`; keys without a label are left out."""
    with path.open(newline="") as file:
        return {row["key"]: row["label"] for row in csv.DictReader(file) if row["label"]}


def find_split(root: Path, split: str) -> list[Path]:
    """Return the paths of a split of a data set: `root/SPLIT-*.tar`, else `root/SPLIT/`, else `root` itself."""
    if shards := sorted(root.glob(f"{split}-*.tar")):
        return shards
    return [root / split] if (root / split).is_dir() else [root]


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of each image file in a folder or tar shard, or of a single file."""
    if path.is_dir():
        for photo in sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES):
            yield photo.name, photo.read_bytes()
    elif path.suffix == ".tar":
        with tarfile.open(path) as shard:
            for member in shard:
                if Path(member.name).suffix.lower() in SUFFIXES and (file := shard.extractfile(member)):
                    yield member.name, file.read()
    else:
        yield path.name, path.read_bytes()


# ---------------------------------------------------------------------------------------------------------------------
# Images to pixels

_RESAMPLING = {"lanczos3": Image.Resampling.LANCZOS, "bicubic": Image.Resampling.BICUBIC}


def prepare(
    image: Image.Image,
    size: int,
    kernel: Literal["lanczos3", "bicubic"] = "lanczos3",
    fit: Literal["cover", "truncate"] = "cover",
) -> NDArray[np.uint8]:
    """Turn an image into a tokenizer's input: upright, on white, RGB, shorter side resized to `size`, centre-cropped.

    `fit` selects how the longer side is rounded and where the crop starts when the excess is odd:

    - `cover`: the rule of the service and of the released models, which is sharp's `fit: cover, position: centre`. The
      longer side is rounded half up, and the crop starts at half the excess, rounded up. libvips scales both sides by
      exactly the same factor. It enlarges with bicubic interpolation whatever the kernel, and shifts enlarged images by
      half a pixel to the upper left. This function does the same, so small images give the same tokens as the service.
    - `truncate`: the rule of TiTok's evaluation code (1d-tokenizer). The longer side is truncated, and the crop starts
      at half the excess, rounded half to even. TiTok uses it with `bicubic`.

    Args:
        image: of any size, in any mode that Pillow converts to RGB.
        size: height and width of the result in pixels.
        kernel: the antialiasing filter; `bicubic` is Pillow's, with a = -0.5.
        fit: the rule for rounding and cropping.

    Returns:
        uint8 [size, size, 3]. An image that already has this size keeps its pixels.
    """
    image = _on_white(ImageOps.exif_transpose(image))
    if image.size == (size, size):
        return np.asarray(image)
    return np.asarray((_cover if fit == "cover" else _truncate)(image, size, _RESAMPLING[kernel]))


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _cover(image: Image.Image, size: int, kernel: Image.Resampling) -> Image.Image:
    scale = min(image.size) / size  # source pixels per pixel of the result
    kernel = kernel if scale >= 1 else Image.Resampling.BICUBIC
    corner = []
    for side in image.size:
        resized = math.floor(side / scale + 0.5)
        start = (resized - size + 1) // 2
        # When it shrinks, libvips aligns the centres of both images; when it enlarges, pixel i is sampled at i * scale.
        corner.append(side / 2 + (start - resized / 2) * scale if scale >= 1 else (start - 0.5) * scale)
    # The box and the kernel may reach beyond the border. libvips repeats the outermost pixels there, Pillow does not.
    margin = math.ceil(3 * max(scale, 1)) + 1
    padded = Image.fromarray(np.pad(np.asarray(image), ((margin, margin), (margin, margin), (0, 0)), "edge"))
    left, top = (place + margin for place in corner)
    return padded.resize((size, size), kernel, box=(left, top, left + size * scale, top + size * scale))


def _truncate(image: Image.Image, size: int, kernel: Image.Resampling) -> Image.Image:
    width, height = (size * side // min(image.size) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.resize((width, height), kernel).crop((left, top, left + size, top + size))
