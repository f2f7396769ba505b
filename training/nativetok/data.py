"""Photos from folders or tar shards into memory."""

import csv
import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".avif"}


def load_images(paths: Sequence[Path], image_size: int) -> NDArray[np.uint8]:
    """Load every image under `paths` (image files, folders, tar shards), in a stable order, as uint8 [N, H, W, 3].

    An image of another size is brought to `image_size` as the service does it: upright, on white, shorter side resized
    with Lanczos, centre-cropped. Raises FileNotFoundError where there is no image.
    """
    return load_keyed_images(paths, image_size)[1]


def load_keyed_images(paths: Sequence[Path], image_size: int) -> tuple[list[str], NDArray[np.uint8]]:
    """Load images as `load_images` does, with each one's key: its file name without folder and suffix."""
    files = [file for path in paths for file in _files(path)]
    if not files:
        raise FileNotFoundError(f"no image under {', '.join(map(str, paths))}")
    images = [_prepare(Image.open(io.BytesIO(data)), image_size) for _, data in files]
    return [Path(name).stem for name, _ in files], np.stack(images)


def load_labels(path: Path) -> dict[str, str]:
    """Read the label of each key that has one from a CSV file with columns `key` and `label`."""
    with path.open(newline="") as file:
        return {row["key"]: row["label"] for row in csv.DictReader(file) if row["label"]}


def find_split(root: Path, split: str) -> list[Path]:
    """Return the shards or folder of a data set's split: `root/SPLIT-*.tar`, else `root/SPLIT/`, else `root` itself."""
    if shards := sorted(root.glob(f"{split}-*.tar")):
        return shards
    return [root / split] if (root / split).is_dir() else [root]


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    """The name and content of each image file of a folder, a tar shard or a file."""
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


def _prepare(image: Image.Image, size: int) -> NDArray[np.uint8]:
    image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    image = image.convert("RGB")
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    return np.asarray(image)
