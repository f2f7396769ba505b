import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from nativetok.data import prepare

ROOT = Path(__file__).parents[2]
CROPS = sorted((ROOT / "test/fixtures/crops").glob("*.png"))
PHOTO = ROOT / "test/fixtures/photos/full/drum.jpg"
NODE = ROOT / "bin/node"
SERVICE = """
import { readFileSync } from 'node:fs'
import { decodeImage } from './src/formats/decode-image.ts'
process.stdout.write(await decodeImage(readFileSync(process.argv[1]), { size: 128, maxPixels: 1e8 }))
"""


def middle(width: int, height: int) -> Image.Image:
    """The middle of the photo that the crops in the fixtures show."""
    with Image.open(PHOTO) as photo:
        left, top = (photo.width - width) // 2, (photo.height - height) // 2
        return photo.crop((left, top, left + width, top + height))


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference in grey levels."""
    return float(np.abs(a.astype(float) - b).mean())


@pytest.mark.parametrize("path", CROPS, ids=lambda path: path.stem)
def test_crops_are_those_that_the_service_is_tested_with(path: Path) -> None:
    width, height = map(int, path.stem.split("x"))
    expected = np.asarray(Image.open(path))
    pixels = prepare(middle(width, height), 128)
    assert np.abs(pixels.astype(int) - expected).max() <= 1
    if (round(128 * max(width, height) / min(width, height)) - 128) % 2:
        centred = ImageOps.fit(middle(width, height), (128, 128), Image.Resampling.LANCZOS)
        assert difference(np.asarray(centred), expected) > 0.8, "half a pixel beside it would not be seen"


@pytest.mark.parametrize("size", [(533, 800), (401, 300), (131, 200), (128, 129), (60, 59)], ids=str)
def test_crops_equal_the_service_s(size: tuple[int, int], tmp_path: Path) -> None:
    middle(*size).save(tmp_path / "photo.png")
    command = [NODE, "--input-type=module", "--eval", SERVICE, tmp_path / "photo.png"]
    pixels = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    service = np.frombuffer(pixels, np.uint8).reshape(128, 128, 3)
    assert difference(prepare(middle(*size), 128), service) < 0.8


def test_an_image_of_the_right_size_keeps_its_pixels() -> None:
    image = middle(128, 128)
    assert np.array_equal(prepare(image, 128), np.asarray(image))
    assert np.array_equal(prepare(image, 128, "bicubic", "floor", "half-even"), np.asarray(image))


@pytest.mark.parametrize(("width", "height"), [(400, 300), (300, 401), (513, 769), (50, 70)])
def test_titok_s_rule_resizes_the_image_and_crops_at_a_whole_pixel(width: int, height: int) -> None:
    image = middle(width, height)
    long, short = max(width, height), min(width, height)
    longer = int(64 * long / short)
    whole = image.resize((longer, 64) if width > height else (64, longer), Image.Resampling.BICUBIC)
    start = round((longer - 64) / 2)
    box = (start, 0, start + 64, 64) if width > height else (0, start, 64, start + 64)
    assert np.array_equal(prepare(image, 64, "bicubic", "floor", "half-even"), np.asarray(whole.crop(box)))


def test_an_odd_excess_is_rounded_as_asked() -> None:
    image = middle(131, 128)
    pixels = np.asarray(image)
    starts = {"floor": 1, "ceil": 2, "half-even": 2}
    for crop_offset, start in starts.items():
        for longer_side in ("round", "floor"):
            shown = prepare(image, 128, longer_side=longer_side, crop_offset=crop_offset)  # type: ignore[arg-type]
            assert np.array_equal(shown, pixels[:, start : start + 128])


def test_what_is_transparent_becomes_white_and_what_is_turned_upright() -> None:
    clear = middle(200, 150).convert("RGBA")
    clear.putalpha(0)
    assert (prepare(clear, 64) == 255).all()
    turned = middle(200, 150).transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6
    assert np.array_equal(prepare(turned, 64), prepare(middle(200, 150), 64))
