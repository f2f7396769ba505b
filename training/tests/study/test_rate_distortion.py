import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nativetok.config import ModelConfig
from nativetok.metrics import psnr
from nativetok.model import NativeTok, save_weights
from study.rate_distortion import CODECS, codec_curve, codec_point, main, thumbnail_curve, token_curve

PHOTOS = Path(__file__).parents[3] / "test" / "fixtures" / "photos"


@pytest.fixture(scope="module")
def photos() -> np.ndarray:
    """Eight of the 128x128 fixture photos, uint8 [8,128,128,3]."""
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in sorted(PHOTOS.glob("*.webp"))[:8]])


@pytest.mark.parametrize("name", CODECS)
def test_bytes_are_those_of_the_files_that_give_the_quality(name: str, photos: np.ndarray) -> None:
    codec = CODECS[name]
    point = codec_point(photos, codec, 10, 128)
    files = [codec.compress(photo, 10, 128)[0] for photo in photos]
    assert [Image.open(io.BytesIO(file)).format for file in files] == [codec.format] * len(photos)
    assert point["bytes"] == np.mean([len(file) for file in files])
    pictures = np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])
    assert point["psnr"] == pytest.approx(psnr(photos, pictures).mean())


@pytest.mark.parametrize("name", CODECS)
def test_a_curve_starts_at_the_smallest_file_and_rises(name: str, photos: np.ndarray) -> None:
    qualities = CODECS[name].qualities
    curve = [codec_point(photos[:3], CODECS[name], quality, 128) for quality in qualities[:3]]
    for measure in ("bytes", "payload", "psnr", "ssim"):
        values = [point[measure] for point in curve]
        assert values == sorted(set(values)), measure
    (smallest, *_) = curve
    if (lowest := qualities[0]) > 0:
        assert codec_point(photos[:3], CODECS[name], lowest - 1, 128)["bytes"] >= smallest["bytes"]


@pytest.mark.parametrize(("name", "overhead"), [("JPEG", (600, 640)), ("WebP", (30, 31)), ("AVIF", (200, 320))])
def test_the_payload_is_the_file_less_what_files_share(
    name: str, overhead: tuple[int, int], photos: np.ndarray
) -> None:
    codec = CODECS[name]
    for photo in photos[:3]:
        file, payload = codec.compress(photo, 10, 128)
        if codec.payload_options:  # JPEG with the standard's Huffman tables: 623 bytes of header and tables
            buffer = io.BytesIO()
            options = codec.options | codec.payload_options
            Image.fromarray(photo).save(buffer, codec.format, quality=10, **options)
            assert np.array_equal(Image.open(buffer), Image.open(io.BytesIO(file))), "the same pixels"
            file = buffer.getvalue()
        assert overhead[0] <= len(file) - payload <= overhead[1]


def test_a_smaller_picture_takes_fewer_bytes_and_comes_back_at_full_size(photos: np.ndarray) -> None:
    curve = codec_curve(photos[:2], CODECS["WebP"])
    assert [point["side"] for point in curve[:5]] == [16, 32, 64, 96, 128]
    assert [point["bytes"] for point in curve[:4]] == sorted(point["bytes"] for point in curve[:4])
    assert curve[0]["psnr"] < curve[3]["psnr"]


def test_a_thumbnail_costs_its_pixels_and_is_exact_where_the_photo_is_flat(photos: np.ndarray) -> None:
    small, large = thumbnail_curve(photos)
    assert [point["bytes"] for point in (small, large)] == [48, 192]
    assert small["psnr"] < large["psnr"]
    flat = np.full((1, 128, 128, 3), 77, np.uint8)
    assert [point["psnr"] for point in thumbnail_curve(flat)] == [np.inf, np.inf]


def test_tokens_cost_their_packed_ids(photos: np.ndarray) -> None:
    points = token_curve(photos, {32: photos // 2, 128: photos}, 4096)
    assert [(point["tokens"], point["bytes"], point["payload"]) for point in points] == [(32, 48, 48), (128, 192, 192)]
    assert points[1]["ssim"] == pytest.approx(1)


def test_the_command_writes_a_curve_of_each_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig(
        image_size=64, stages=(4, 8), codebook_size=64, encoder_width=32, encoder_depth=1, expert_width=32,
        expert_mlp=32, token_width=16, decoder_width=32, decoder_depth=1,
    )  # fmt: skip
    torch.manual_seed(0)
    save_weights(NativeTok(config), tmp_path / "weights.safetensors")
    monkeypatch.delitem(CODECS, "AVIF")  # slow
    out = tmp_path / "new" / "figures.json"
    main([
        "--weights", str(tmp_path / "weights.safetensors"), "--data", str(PHOTOS), "--images", "2", "--out", str(out),
    ])  # fmt: skip
    figures = json.loads(out.read_text())
    assert figures["images"] == 2
    assert list(figures["curves"]) == ["NativeTok", "thumbnail", "JPEG", "WebP"]
    assert [point["bytes"] for point in figures["curves"]["NativeTok"]] == [3, 6]
    assert {point["side"] for point in figures["curves"]["WebP"]} == {16, 32, 64}
