"""Photos as the published tokenizers' evaluation reads them."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from nativetok.data import SUFFIXES


def load_photos(folder: Path, size: int, most: int | None = None) -> NDArray[np.uint8]:
    """Load the photos of a folder, or one file, in the order of their names, as uint8 [N, size, size, 3].

    The shorter side is brought to `size` with Pillow's bicubic, the longer is cut to a whole number; the centre is
    cropped. Raises FileNotFoundError where there is no image.
    """
    paths = [folder] if folder.is_file() else sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise FileNotFoundError(f"no image in {folder}")
    return np.stack([prepare(Image.open(path), size) for path in paths[:most]])


def prepare(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Bring one image to uint8 [size, size, 3]."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    short, long = sorted(image.size)
    if short != size:
        other = int(size * long / short)
        image = image.resize((size, other) if image.width == short else (other, size), Image.Resampling.BICUBIC)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))
