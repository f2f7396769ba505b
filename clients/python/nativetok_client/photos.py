"""Photos to pixels with Pillow, as the service prepares them with libvips."""

import io
from typing import TYPE_CHECKING, cast

import numpy as np

from nativetok_client.bundle import Preparation
from nativetok_client.errors import ItemError
from nativetok_client.extras import needs
from nativetok_client.items import Pixels, array_of, file_of, is_pillow

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF")


def pixels_of(image: object, item: int, how: Preparation) -> Pixels:
    """Pixels uint8 [size, size, 3] of an image: an array of that size as it is, anything else prepared with Pillow.

    Upright, in sRGB, on white, the shorter side resized to `size` and the centre cropped. Raises ItemError for what is
    no image, ImportError where Pillow is needed and not installed.
    """
    if isinstance(image, np.ndarray) and image.shape[:2] == (how.size, how.size):
        return array_of(image, item)
    with needs("local"):
        from PIL import Image, ImageOps

    if is_pillow(image):
        opened = cast("Image.Image", image)
    elif (file := file_of(image, item)) is not None:
        try:
            opened = Image.open(io.BytesIO(file), formats=FORMATS)
            opened.load()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ItemError(f"image {item} cannot be decoded: {error}", item) from error
    else:
        opened = Image.fromarray(np.ascontiguousarray(array_of(image, item)))
    return np.asarray(_cover(_rgb(ImageOps.exif_transpose(opened)), how))


def _rgb(image: "Image") -> "Image":
    """On white and in sRGB."""
    from PIL import Image, ImageCms

    profile = image.info.get("icc_profile")
    if image.mode.startswith("I"):
        # 16 bits a pixel; Pillow would cut off what is over 255.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if profile:
        if image.mode not in ("L", "RGB", "CMYK"):
            image = image.convert("RGB")
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
        except (OSError, ImageCms.PyCMSError):
            pass  # a profile that is broken or of other channels than the image's
    return image.convert("RGB")


def _cover(image: "Image", how: Preparation) -> "Image":
    """The shorter side resized to the size, the centre cropped."""
    from PIL import Image

    short = min(image.size)
    width, height = (_longer(how.size * side, short, how) for side in image.size)
    kernel = {"lanczos3": Image.Resampling.LANCZOS, "bicubic": Image.Resampling.BICUBIC}[how.kernel]
    if image.size != (width, height):
        image = image.resize((width, height), kernel)
    left, top = (_half(side - how.size, how) for side in (width, height))
    return image.crop((left, top, left + how.size, top + how.size))


def _longer(scaled: int, short: int, how: Preparation) -> int:
    return scaled // short if how.longer_side == "floor" else (2 * scaled + short) // (2 * short)


def _half(excess: int, how: Preparation) -> int:
    if how.crop_offset == "half-even":
        return round(excess / 2)
    return excess // 2 if how.crop_offset == "floor" else -(-excess // 2)
