import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nativetok.config import ModelConfig
from nativetok.data import load_images
from nativetok.metrics import psnr
from nativetok.model import NativeTok, save_weights
from study.order import (
    BAND_EDGES,
    add,
    cluster,
    coarse_content,
    corrected_information,
    decode_prefixes,
    draw_steps,
    encode,
    fine_content,
    load_some,
    main,
    mutual_information,
    spectrum,
    tell,
)
from study.prefixes import prefix_lengths

PHOTOS = Path(__file__).parents[3] / "test" / "fixtures" / "photos"
CONFIG = ModelConfig(
    image_size=64, stages=(4, 6), codebook_size=64, encoder_width=32, encoder_depth=1, expert_width=32,
    expert_mlp=32, token_width=16, decoder_width=32, decoder_depth=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def photos() -> np.ndarray:
    """All 128x128 fixture photos, uint8 [N,128,128,3]."""
    return load_images([PHOTOS], 128)


def test_a_token_equal_to_the_cluster_has_all_its_information_and_an_independent_one_none() -> None:
    rng = np.random.default_rng(0)
    content = np.arange(2000) % 16
    independent = rng.integers(0, 64, 2000)
    assert mutual_information(content, content) == pytest.approx(4)
    assert mutual_information(independent, content) > 0.2, "the bias that must be subtracted"
    information, noise = corrected_information(np.stack([content, independent, content // 4], axis=1), content)
    assert information == pytest.approx([4, 0, 2], abs=0.1)
    assert abs(information[1]) < 4 * noise < 0.1


def test_coarse_content_is_where_the_colours_are_and_fine_content_where_the_detail_is() -> None:
    flat = np.full((1, 64, 64, 3), 100, np.uint8)
    bright = flat.copy()
    bright[:, :16, :16] = 200
    rough = flat.copy()
    rough[:, 48:, 48::2] = 0
    rough[:, 48:, 49::2] = 200
    assert np.flatnonzero(coarse_content(bright) - coarse_content(flat)).tolist() == [0, 1, 2]
    np.testing.assert_array_equal(coarse_content(rough), coarse_content(flat))
    assert not fine_content(bright).any()
    assert np.flatnonzero(fine_content(rough)).tolist() == [15]


def test_clusters_are_what_lies_together() -> None:
    vectors = np.repeat([[0.0, 0], [0, 9], [9, 0]], 5, axis=0) + np.random.default_rng(0).normal(0, 0.1, (15, 2))
    found = cluster(vectors, 3)
    assert [len(set(found[start : start + 5])) for start in (0, 5, 10)] == [1, 1, 1]
    assert set(found) == {0, 1, 2}


def test_what_tokens_tell_is_found_in_photos(photos: np.ndarray) -> None:
    images = np.concatenate([photos, photos[:, :, ::-1]])
    brightness = images.mean(axis=(1, 2, 3)).argsort().argsort() * 4 // len(images)
    noise = np.random.default_rng(0).integers(0, 4, len(images))
    figures = tell(images, np.stack([brightness, noise], axis=1), np.eye(4))
    assert figures["entropy"][0] == pytest.approx(2, abs=0.01)
    informative, uninformative = figures["coarse"]["information"]
    assert informative > 0.3 > abs(uninformative)
    assert informative > figures["fine"]["information"][0]
    assert figures["coarse"]["entropy"] <= 4


@pytest.mark.parametrize(("cycles", "band"), [(0, 0), (1.5, 1), (3, 2), (6, 3), (12, 4), (24, 5), (40, 6)])
def test_a_wave_has_its_energy_in_the_band_of_its_frequency(cycles: float, band: int) -> None:
    wave = 10 * np.cos(2 * np.pi * cycles * (np.arange(128) + 0.5) / 128)
    pictures = np.tile(wave[:, None, None], (2, 1, 128, 3))
    bands, frequency = spectrum(pictures)
    assert bands.argmax() == band
    assert bands[band] == pytest.approx(bands.sum())
    assert bands.sum() == pytest.approx(np.square(pictures).mean())
    assert frequency == pytest.approx(cycles)


def test_prefixes_double_up_to_the_whole() -> None:
    assert prefix_lengths(128) == [1, 2, 4, 8, 16, 32, 64, 128]
    assert prefix_lengths(6) == [1, 2, 4, 6]
    assert prefix_lengths(1) == [1]


def test_pictures_that_sharpen_add_ever_finer_detail(photos: np.ndarray) -> None:
    def blurred(side: int) -> np.ndarray:
        small = [Image.fromarray(photo).resize((side, side), Image.Resampling.LANCZOS) for photo in photos]
        return np.stack([np.asarray(image.resize((128, 128), Image.Resampling.BICUBIC)) for image in small])

    decoded = {0: np.full_like(photos, 128), 1: blurred(2), 2: blurred(8), 4: blurred(32)}
    figures = add(photos, decoded)
    prefixes = figures["prefixes"]
    assert list(prefixes) == ["1", "2", "4"]
    frequencies = [prefix["mean_frequency"] for prefix in prefixes.values()]
    assert frequencies == sorted(frequencies)
    assert prefixes["4"]["psnr"] == pytest.approx(psnr(photos, decoded[4]).mean())
    assert prefixes["1"]["added"] == pytest.approx(np.square(decoded[1].astype(float) - decoded[0]).mean(), rel=1e-4)
    for change in (*prefixes.values(), figures["photos"]):
        assert len(change["shares"]) == len(BAND_EDGES) + 1
        assert sum(change["shares"]) == pytest.approx(1, abs=1e-3)


def test_the_picture_has_prefixes_above_what_they_add(photos: np.ndarray) -> None:
    decoded = {0: np.full_like(photos, 128), 1: photos // 2, 2: photos}
    sheet = np.asarray(draw_steps(photos, decoded))
    assert sheet.shape == (24 + 8 * 132 - 4, 3 * 132 - 4, 3)
    np.testing.assert_array_equal(sheet[24:152, :128], photos[0] // 2)
    np.testing.assert_array_equal(sheet[24:152, 264:], photos[0])
    assert (sheet[156:284, 264:] == 128).all(), "the photo adds nothing to itself"


def test_a_prefix_is_drawn_of_its_own_tokens_alone(photos: np.ndarray) -> None:
    torch.manual_seed(0)
    model = NativeTok(CONFIG).eval()
    torch.nn.init.normal_(model.decoder.token_embedding)
    images = load_images([PHOTOS], 64)[:5]
    tokens = encode(model, images, batch=2)
    decoded = decode_prefixes(model, tokens, batch=2)
    assert list(decoded) == [0, 1, 2, 4, 6]
    assert (decoded[0] == decoded[0][0]).all(), "no token: the same picture whatever the photo"
    # in the same batches: another size of batch may round a pixel differently
    alone = np.concatenate([model.decode(torch.from_numpy(tokens[i : i + 2, :4])).numpy() for i in (0, 2, 4)])
    np.testing.assert_array_equal(decoded[4], alone)
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(decoded[4], decoded[6])


def test_no_more_is_opened_than_needed(tmp_path: Path, photos: np.ndarray) -> None:
    (paths := sorted(PHOTOS.glob("*.webp"))[:2]).append(tmp_path / "missing.webp")
    np.testing.assert_array_equal(load_some(paths, 128, 2), photos[:2])
    assert load_some([], 128, 2).shape == (0, 128, 128, 3)


def test_the_command_measures_val_and_says_what_it_took_of_train(tmp_path: Path) -> None:
    names = sorted(PHOTOS.glob("*.webp"))
    for split, paths in (("val", names[:6]), ("train", names[6:])):
        (tmp_path / split).mkdir()
        for path in paths:
            (tmp_path / split / path.name).symlink_to(path)
    torch.manual_seed(0)
    save_weights(NativeTok(CONFIG), tmp_path / "weights.safetensors")
    main([
        "--weights", str(tmp_path / "weights.safetensors"), "--data", str(tmp_path), "--images", "5",
        "--train-images", "20", "--out", str(tmp_path / "a" / "order.json"),
        "--picture", str(tmp_path / "b" / "order.png"),
    ])  # fmt: skip
    figures = json.loads((tmp_path / "a" / "order.json").read_text())
    assert figures["images"] == {"val": 5, "train": 20}
    assert len(figures["tell"]["entropy"]) == len(figures["tell"]["fine"]["information"]) == 6
    assert list(figures["add"]["prefixes"]) == ["1", "2", "4", "6"]
    assert Image.open(tmp_path / "b" / "order.png").size == (5 * 68 - 4, 24 + 8 * 68 - 4)
