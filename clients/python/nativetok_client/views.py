"""The crops and mirror images that training code wants of a photo, as pixels of the model's size."""

from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from nativetok_client.extras import needs
from nativetok_client.info import Preparation
from nativetok_client.items import Pixels
from nativetok_client.photos import picture_of, pixels_of

if TYPE_CHECKING:
    from PIL.Image import Image

Crops: TypeAlias = Literal["centre", "ten"]
"""`centre`: as the model wants its images. `ten`: LlamaGen's ten crops."""


def check_views(crops: Crops, flip: bool) -> None:
    """Raises ValueError for views that do not exist."""
    if crops not in ("centre", "ten"):
        raise ValueError(f"crops is {crops!r}; it must be 'centre' or 'ten'")
    if crops == "ten" and flip:
        raise ValueError("flip goes with crops='centre'; ten crops are mirrored already")


def views_of(image: object, item: int, how: Preparation, crops: Crops, flip: bool) -> Pixels:
    """Pixels uint8 [V, size, size, 3] of an image (`ImageLike`).

    V is 1; 2 with `flip`, the second the first one mirrored; 10 of ten crops. Raises ItemError for what is no image.
    """
    if crops == "ten":
        return ten_crops(picture_of(image, item), how.size)
    pixels = pixels_of(image, item, how)
    return np.stack([pixels, pixels[:, ::-1]] if flip else [pixels])


def ten_crops(picture: "Image", size: int) -> Pixels:
    """Pixels uint8 [10, size, size, 3] of an RGB picture: corners and centre of its middle square, then mirrored.

    The square is 1.1 times as large as a crop. The order is top left, top right, bottom left, bottom right, centre;
    then the same five of the mirrored square, so that the sixth crop is the second one mirrored. LlamaGen, RandAR,
    GigaTok, AliTok and 1d-tokenizer have them so.
    """
    large = size * 11 // 10
    square = np.asarray(middle(picture, large))
    far, half = large - size, round((large - size) / 2)
    corners = [(0, 0), (0, far), (far, 0), (far, far), (half, half)]
    return np.stack([side[y : y + size, x : x + size] for side in (square, square[:, ::-1]) for y, x in corners])


def middle(picture: "Image", size: int) -> "Image":
    """The middle square of an RGB picture, resized to `size`, as ADM's guided diffusion prepares ImageNet.

    Halved with a box filter while that leaves `size`, then resized bicubically, then cropped, in whole pixels.
    """
    with needs("local"):
        from PIL import Image

    while min(picture.size) >= 2 * size:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = size / min(picture.size)
    width, height = round(picture.width * scale), round(picture.height * scale)
    left, top = (width - size) // 2, (height - size) // 2
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + size, top + size))
