"""Photos to pixels with Pillow, as the service prepares them with libvips."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import numpy as np

from nativetok_client.errors import ItemError
from nativetok_client.extras import needs
from nativetok_client.info import Preparation
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
    picture, size = _upright(image, item, lambda opened: _decoded(opened, how))
    return np.asarray(_cover(picture, size, how))


def picture_of(image: object, item: int) -> "Image":
    """An image in its own size, upright, in sRGB, on white. Raises as `pixels_of`."""
    return _upright(image, item, lambda opened: opened)[0]


def _upright(image: object, item: int, decode: "Callable[[Image], Image]") -> "tuple[Image, tuple[int, int]]":
    """An image upright, in sRGB, on white; and the size of its file, which `decode` may have made smaller."""
    with needs("local"):
        from PIL import Image, ImageOps, UnidentifiedImageError

    if is_pillow(image):
        opened = cast("Image.Image", image)
        size = opened.size
    elif (file := file_of(image, item)) is not None:
        try:
            opened = Image.open(io.BytesIO(file), formats=FORMATS)
            size = opened.size
            opened = decode(opened)
            opened.load()
        except UnidentifiedImageError as error:
            raise ItemError(f"image {item} cannot be decoded: it is none of {', '.join(FORMATS)}", item) from error
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ItemError(f"image {item} cannot be decoded: {error}", item) from error
    else:
        opened = Image.fromarray(np.ascontiguousarray(array_of(image, item)))
        size = opened.size
    return _rgb(ImageOps.exif_transpose(opened)), size


def _decoded(image: "Image", how: Preparation) -> "Image":
    """An opened file, decoded. As with libvips, a large JPEG at a half, a quarter or an eighth, in whole pixels."""
    times = min(image.size) // how.size
    factor = 8 if times > 8 else 4 if times > 4 else 2 if times > 2 else 1
    if image.format != "JPEG" or how.kernel != "lanczos3" or factor == 1:
        return image
    width, height = image.width // factor, image.height // factor
    image.draft(None, (width, height))
    return image.crop((0, 0, width, height))


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


def _cover(image: "Image", size: tuple[int, int], how: Preparation) -> "Image":
    """The shorter side resized, the centre cropped. `size` is that of the file, which may have been decoded smaller.

    Where the longer side is cut to whole pixels, each axis is scaled by itself and the result cropped, as torchvision
    does; where it is rounded, both are scaled alike, as libvips does, which may crop between pixels of the original.
    """
    from PIL import Image

    kernel = {"lanczos3": Image.Resampling.LANCZOS, "bicubic": Image.Resampling.BICUBIC}[how.kernel]
    wide = image.width >= image.height
    file_shorter, file_longer = sorted(size)
    scaled = how.size * file_longer
    if how.longer_side == "floor":
        cut = scaled // file_shorter
        image = image.resize((cut, how.size) if wide else (how.size, cut), kernel)
        offset = _half(cut - how.size, how)
        left, top = (offset, 0) if wide else (0, offset)
        return image.crop((left, top, left + how.size, top + how.size))
    cut = (2 * scaled + file_shorter) // (2 * file_shorter)
    shorter, longer = sorted(image.size)
    step = shorter / how.size
    begin = longer / 2 + (_half(cut - how.size, how) - cut / 2) * step
    begin = max(0.0, min(begin, longer - shorter))
    end = min(begin + shorter, longer)
    box = (begin, 0, end, shorter) if wide else (0, begin, shorter, end)
    return image.resize((how.size, how.size), kernel, box=box)


def _half(excess: int, how: Preparation) -> int:
    if how.crop_offset == "half-even":
        return round(excess / 2)
    return excess // 2 if how.crop_offset == "floor" else -(-excess // 2)
