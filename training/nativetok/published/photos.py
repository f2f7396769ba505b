"""Photos as the published tokenizers' evaluation reads them."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nativetok.data import SUFFIXES, prepare


def load_photos(folder: Path, size: int, most: int | None = None) -> NDArray[np.uint8]:
    """Load the photos of a folder, or one file, in the order of their names, as uint8 [N, size, size, 3].

    The shorter side is brought to `size` with Pillow's bicubic, the longer is cut to a whole number; the centre is
    cropped. Raises FileNotFoundError where there is no image.
    """
    if not folder.exists():
        raise FileNotFoundError(f"{folder} is no file and no folder")
    paths = [folder] if folder.is_file() else sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise FileNotFoundError(f"no image in {folder}")
    return np.stack([prepare(Image.open(path), size, "bicubic", "floor", "half-even") for path in paths[:most]])
