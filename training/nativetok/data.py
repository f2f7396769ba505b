"""Loads images from folders or tar shards and brings them to a model's pixels."""

import csv
import io
import math
import tarfile
from collections.abc import Callable, Iterator, Sequence
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
_OFFSETS: dict[str, Callable[[float], int]] = {"floor": math.floor, "ceil": math.ceil, "half-even": round}


def prepare(
    image: Image.Image,
    size: int,
    kernel: Literal["lanczos3", "bicubic"] = "lanczos3",
    longer_side: Literal["round", "floor"] = "round",
    crop_offset: Literal["floor", "ceil", "half-even"] = "ceil",
) -> NDArray[np.uint8]:
    """Turn an image into a tokenizer's input: upright, on white, RGB, shorter side resized to `size`, centre-cropped.

    The parameters are those of a bundle's manifest. The defaults are the rule of the released models, sharp's `fit:
    cover, position: centre`, and give the service's pixels: libvips scales both sides by exactly the same factor, and
    it enlarges with bicubic interpolation whatever the kernel, half a pixel off to the upper left. TiTok's evaluation
    code (1d-tokenizer) uses `bicubic`, `floor` and `half-even`. Rules other than the default are computed as it does,
    by resizing the whole image with Pillow and then cropping.

    Args:
        image: of any size, in any mode that Pillow converts to RGB.
        size: height and width of the result in pixels.
        kernel: the antialiasing filter; `bicubic` is Pillow's, with a = -0.5.
        longer_side: how size * long / short becomes a whole number of pixels; `round` rounds half up.
        crop_offset: how half of an odd excess is rounded.

    Returns:
        uint8 [size, size, 3]. An image that already has this size keeps its pixels.
    """
    image = _on_white(ImageOps.exif_transpose(image))
    if image.size == (size, size):
        return np.asarray(image)
    if (longer_side, crop_offset) == ("round", "ceil"):
        return np.asarray(_cover(image, size, _RESAMPLING[kernel]))
    scaled = [size * side / min(image.size) for side in image.size]
    width, height = (math.floor(side + 0.5 if longer_side == "round" else side) for side in scaled)
    left, top = (_OFFSETS[crop_offset]((side - size) / 2) for side in (width, height))
    whole = image.resize((width, height), _RESAMPLING[kernel])
    return np.asarray(whole.crop((left, top, left + size, top + size)))


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _cover(image: Image.Image, size: int, kernel: Image.Resampling) -> Image.Image:
    """Resize and crop as sharp's `cover` does, in one step."""
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
