"""The images and rows that callers hand over, in all their kinds."""

import io
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from nativetok_client.errors import ItemError
from nativetok_client.extras import needs

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels: TypeAlias = NDArray[np.uint8]
"""uint8 [N, H, W, 3] or, of one image, [H, W, 3]: RGB in sRGB."""
Tokens: TypeAlias = NDArray[np.uint16]
"""uint16 [N, length]."""
ImageLike: TypeAlias = "str | os.PathLike[str] | bytes | Pixels | Image"
"""A file's path, a file's content, pixels uint8 [H, W, 3], or a Pillow image."""
Images: TypeAlias = "ImageLike | Iterable[ImageLike]"
"""Many images: any iterable of them, or pixels uint8 [N, H, W, 3]. One image counts as a list of one."""
Row: TypeAlias = "Sequence[int] | NDArray[np.integer[Any]]"
Rows: TypeAlias = "Row | Iterable[Row]"
"""Many sequences: integers [N, length], or an iterable of rows, which may differ in length. One row counts as a list of
one."""


def images_in(images: Images) -> Iterable[ImageLike]:
    """The images one by one."""
    if isinstance(images, str | os.PathLike | bytes | bytearray | memoryview) or is_pillow(images):
        return [cast(ImageLike, images)]
    if isinstance(images, np.ndarray) and images.ndim == 3:
        return [images]
    return cast("Iterable[ImageLike]", images)


def rows_in(tokens: Rows) -> Iterable[Row]:
    """The rows one by one."""
    if isinstance(tokens, np.ndarray) and tokens.ndim == 1:
        return [tokens]
    if isinstance(tokens, Sequence) and len(tokens) > 0 and isinstance(tokens[0], int | np.integer):
        return [cast(Row, tokens)]
    return cast("Iterable[Row]", tokens)


def row_of(row: Row, item: int) -> NDArray[np.integer[Any]]:
    """One row as an array of integers [length].

    Raises ItemError where it is none. Whether the ids exist is the model's to say.
    """
    try:
        ids = np.asarray(row)
    except (ValueError, OverflowError) as error:
        raise ItemError(f"row {item} is not a sequence of integers: {error}", item) from error
    if ids.ndim != 1 or (ids.size > 0 and ids.dtype.kind not in "iu"):
        raise ItemError(f"row {item} must be integers [length], not {ids.dtype} {list(ids.shape)}", item)
    return ids.astype(np.int64) if ids.size == 0 else ids


def is_pillow(image: object) -> bool:
    """Whether it is a Pillow image. Pillow is not loaded to find out."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(image, pillow.Image)


def file_of(image: object, item: int) -> bytes | None:
    """The content of a file, untouched, where the image is a path or bytes; else None.

    Raises ItemError for a file that cannot be read.
    """
    if isinstance(image, str | os.PathLike):
        try:
            return Path(image).read_bytes()
        except OSError as error:
            raise ItemError(f"image {item} cannot be read: {error}", item) from error
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    return None


def array_of(image: object, item: int) -> Pixels:
    """Pixels uint8 [H, W, 3] of an image that is an array. Raises ItemError for anything else."""
    if not isinstance(image, np.ndarray):
        kinds = "a path, bytes, a NumPy array or a Pillow image"
        raise ItemError(f"image {item} must be {kinds}, not {type(image).__name__}", item)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ItemError(f"image {item} must be uint8 [H, W, 3], not {image.dtype} {list(image.shape)}", item)
    return image


def part_of(image: object, item: int, size: int) -> bytes | Pixels:
    """What is sent of an image: a file as it is; pixels as they are where they have the model's size, else as PNG.

    Raises ItemError if it is not an image, ImportError if Pillow must write the PNG and is not installed.
    """
    file = file_of(image, item)
    if file is not None:
        return file
    if is_pillow(image):
        upright = _upright(cast("Image", image))
        if upright.mode == "RGB" and upright.size == (size, size) and "icc_profile" not in upright.info:
            return np.asarray(upright)
        return _png(upright)
    pixels = array_of(image, item)
    if pixels.shape[:2] == (size, size):
        return pixels
    with needs("images"):
        from PIL import Image

    return _png(Image.fromarray(np.ascontiguousarray(pixels)))


def _upright(image: "Image") -> "Image":
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def _png(image: "Image") -> bytes:
    file = io.BytesIO()
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        image = image.convert("RGB")
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()
