"""Crops and mirror images, against what their descriptions say."""

import numpy as np
import pytest
from conftest import FIXTURES, PHOTOS
from PIL import Image

from nativetok_client import ItemError
from nativetok_client.info import Preparation
from nativetok_client.items import Pixels
from nativetok_client.photos import pixels_of
from nativetok_client.views import check_views, middle, ten_crops, views_of

FULL = sorted((FIXTURES / "photos" / "full").glob("*.jpg"))
HOW = Preparation(128, "lanczos3", "round", "ceil")


def coordinates(width: int, height: int) -> Image.Image:
    """A picture whose red is a pixel's column and whose green is its row."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0] = np.arange(width)
    picture[..., 1] = np.arange(height)[:, None]
    return Image.fromarray(picture)


@pytest.mark.parametrize(("size", "square", "centre", "mirrored"), [(128, 140, 6, 6), (224, 246, 11, 11)])
def test_ten_crops_lie_where_llamagen_has_them(size: int, square: int, centre: int, mirrored: int) -> None:
    crops = ten_crops(coordinates(square, square), size).astype(int)
    assert crops.shape == (10, size, size, 3)
    assert np.all(crops[5:, 0, 0, 0] - crops[5:, 0, -1, 0] == size - 1), "the last five run from right to left"
    left = [*crops[:5, 0, 0, 0], *crops[5:, 0, -1, 0]]
    top = [int(crop[0, 0, 1]) for crop in crops]
    far = square - size
    assert left == [0, far, 0, far, centre, far, 0, far, 0, mirrored]
    assert top == [0, 0, far, far, centre] * 2


def test_an_odd_margin_parts_the_centre_from_its_mirror_image() -> None:
    """At 256 the square is 281, and half of 25 is rounded to the even 12, from either side."""
    row = np.zeros((281, 281, 3), np.uint8)
    row[..., 0] = np.arange(281) // 2
    row[..., 1] = np.arange(281) % 2
    crops = ten_crops(Image.fromarray(row), 256).astype(int)
    column = crops[..., 0] * 2 + crops[..., 1]
    assert column[4, 0, 0] == 12
    assert column[9, 0, -1] == 13
    assert np.array_equal(crops[5], crops[1][:, ::-1])


@pytest.mark.parametrize(("width", "height"), [(500, 375), (1001, 667), (300, 401), (140, 140), (280, 280), (90, 70)])
def test_the_middle_is_what_each_of_its_steps_makes(width: int, height: int) -> None:
    """The steps as they are described, on a real photo: halves by the mean of four, then bicubic, then whole pixels."""
    picture = Image.open(FULL[0]).convert("RGB").resize((width, height))
    expected = picture
    while min(expected.size) >= 280:
        even = np.asarray(expected.resize((expected.width // 2, expected.height // 2), Image.Resampling.BOX))
        if expected.width % 2 == 0 and expected.height % 2 == 0:
            pixels = np.asarray(expected).astype(float)
            means = (pixels[::2, ::2] + pixels[1::2, ::2] + pixels[::2, 1::2] + pixels[1::2, 1::2]) / 4
            assert np.abs(even - means).max() <= 1
        expected = Image.fromarray(even)
    scale = 140 / min(expected.size)
    wide, high = int(np.rint(expected.width * scale)), int(np.rint(expected.height * scale))
    whole = np.asarray(expected.resize((wide, high), Image.Resampling.BICUBIC))
    x, y = (wide - 140) // 2, (high - 140) // 2
    assert np.array_equal(np.asarray(middle(picture, 140)), whole[y : y + 140, x : x + 140])


def test_views_of_a_photo(pixels: Pixels) -> None:
    plain = views_of(FULL[1], 0, HOW, "centre", False)
    both = views_of(FULL[1].read_bytes(), 0, HOW, "centre", True)
    assert np.array_equal(plain[0], pixels_of(FULL[1], 0, HOW))
    assert np.array_equal(both, [plain[0], plain[0][:, ::-1]])
    ten = views_of(FULL[1], 0, HOW, "ten", False)
    assert np.array_equal(ten, ten_crops(Image.open(FULL[1]).convert("RGB"), 128))
    assert np.array_equal(views_of(pixels[0], 0, HOW, "ten", False), views_of(PHOTOS[0], 0, HOW, "ten", False))
    sideways = [views_of(FIXTURES / "formats" / f"orientation-{n}.jpg", 0, HOW, "ten", False) for n in (1, 6)]
    assert np.abs(sideways[0].astype(int) - sideways[1]).mean() < 6, "turned as its EXIF says"


def test_what_is_no_view_or_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match="crops is 'five'"):
        check_views("five", False)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mirrored already"):
        check_views("ten", True)
    for crops in ("centre", "ten"):
        with pytest.raises(ItemError, match="image 3 cannot be decoded: it is none of JPEG, PNG, WEBP"):
            views_of(b"no image", 3, HOW, crops, False)
        with pytest.raises(ItemError, match="image 3 must be a path"):
            views_of(None, 3, HOW, crops, False)
