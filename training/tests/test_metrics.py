from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy.linalg import sqrtm
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio

from nativetok.metrics import codebook_use, frechet_distance, position_entropy, psnr, ssim

PHOTOS = Path(__file__).parents[2] / "test" / "fixtures" / "photos"
Metric = Callable[[np.ndarray, np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def pairs() -> tuple[np.ndarray, np.ndarray]:
    """Three photos and blurred copies, uint8 [3,128,128,3] each."""
    photos = [Image.open(PHOTOS / f"{name}.webp").convert("RGB") for name in ("leopard", "rose", "pizza")]
    blurred = [photo.filter(ImageFilter.GaussianBlur(radius)) for photo, radius in zip(photos, (1, 2, 4), strict=True)]
    return np.stack([np.asarray(photo) for photo in photos]), np.stack([np.asarray(photo) for photo in blurred])


def test_psnr_of_a_constant_difference_is_its_closed_form() -> None:
    black = np.zeros((2, 16, 16, 3), np.uint8)
    grey = np.stack([np.full((16, 16, 3), 1, np.uint8), np.full((16, 16, 3), 255, np.uint8)])
    np.testing.assert_allclose(psnr(black, grey), [20 * np.log10(255), 0.0], atol=1e-12)
    np.testing.assert_allclose(psnr(grey, black), psnr(black, grey))


def test_psnr_is_infinite_for_equal_images(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    assert np.isposinf(psnr(pairs[0], pairs[0])).all()


def test_psnr_of_each_photo_is_scikit_images(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    expected = [peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(*pairs, strict=True)]
    np.testing.assert_allclose(psnr(*pairs), expected)


def test_ssim_is_one_for_equal_photos_and_falls_with_blur(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    photos, _ = pairs
    np.testing.assert_allclose(ssim(photos, photos), 1.0)
    leopard = Image.fromarray(photos[0])
    blurs = np.stack([np.asarray(leopard.filter(ImageFilter.GaussianBlur(radius))) for radius in (1, 2, 4, 8)])
    values = ssim(np.repeat(photos[:1], 4, axis=0), blurs)
    assert (np.diff(values) < 0).all()


def test_ssim_is_the_formula_of_wang_with_gaussian_weights(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    def mean(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, 1.5, truncate=3.5, axes=(0, 1))

    x, y = (array[0].astype(np.float64) for array in pairs)
    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    full = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    np.testing.assert_allclose(ssim(*pairs)[0], full[5:-5, 5:-5].mean(), rtol=1e-6)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_other_shapes_and_types_are_refused(metric: Metric, pairs: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="uint8"):
        metric(pairs[0], pairs[1][:2])
    with pytest.raises(ValueError, match="float32"):
        metric(pairs[0].astype(np.float32), pairs[1])


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    """Correlated features off the origin, float64 [50,8]."""
    random = np.random.default_rng(0)
    return random.normal(size=(50, 8)) @ random.normal(size=(8, 8)) + 3


def test_frechet_distance_of_a_set_from_itself_is_none(features: np.ndarray) -> None:
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(features, features[::-1]) >= 0


def test_frechet_distance_of_moved_and_stretched_sets_is_its_closed_form(features: np.ndarray) -> None:
    shift = np.arange(8.0)
    assert frechet_distance(features, features + shift) == pytest.approx(np.square(shift).sum())
    mean, variance = features.mean(axis=0), features.var(axis=0, ddof=1)
    assert frechet_distance(features, 3 * features) == pytest.approx(4 * (np.square(mean).sum() + variance.sum()))


def test_frechet_distance_of_unlike_sets_is_the_formula_of_heusel(features: np.ndarray) -> None:
    other = np.random.default_rng(1).normal(size=(70, 8)) * np.arange(1, 9)
    a, b = np.cov(features.T), np.cov(other.T)
    means = np.square(features.mean(axis=0) - other.mean(axis=0)).sum()
    expected = means + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet_distance(features, other) == pytest.approx(expected)
    assert frechet_distance(other, features) == pytest.approx(expected)


def test_frechet_distance_is_exact_for_fewer_samples_than_features() -> None:
    few = np.random.default_rng(0).normal(size=(6, 40)).astype(np.float32)
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-6)
    expected = np.square(few.mean(axis=0)).sum() + few.var(axis=0, ddof=1).sum()
    assert frechet_distance(few, 2 * few) == pytest.approx(expected, rel=1e-5)


def test_frechet_distance_falls_towards_its_value_with_more_samples() -> None:
    draws = np.random.default_rng(0).normal(size=(2, 4000, 16))
    distances = [frechet_distance(draws[0, :n], draws[1, :n]) for n in (40, 400, 4000)]
    assert distances[0] > 5 * distances[1] > 25 * distances[2] > 0


def test_sets_that_have_no_frechet_distance_are_refused(features: np.ndarray) -> None:
    with pytest.raises(ValueError, match="same number of features"):
        frechet_distance(features, features[:, :4])
    with pytest.raises(ValueError, match="two samples"):
        frechet_distance(features, features[:1])


def test_entropy_of_known_sequences() -> None:
    # Position 0 never changes, 1 has four ids equally often, 2 is 3/4 against 1/4.
    tokens = np.array([[7, 0, 5], [7, 1, 5], [7, 2, 5], [7, 4095, 6]])
    quarter = 0.25 * 2 + 0.75 * np.log2(4 / 3)
    np.testing.assert_allclose(position_entropy(tokens), [0, 2, quarter])
    assert not np.signbit(position_entropy(tokens)[0])


def test_codebook_use_counts_each_entry_once() -> None:
    assert codebook_use(np.array([[0, 0, 1], [1, 2, 0]]), 4) == 0.75
    assert codebook_use(np.arange(4096), 4096) == 1.0
