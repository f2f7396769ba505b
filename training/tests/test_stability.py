from pathlib import Path

import numpy as np
import pytest
import torch

from nativetok.config import RunConfig
from nativetok.data import load_images
from nativetok.metrics import share_by_position
from nativetok.model import NativeTok
from nativetok.stability import CHANGES, measure_stability, one_level

ROOT = Path(__file__).parents[2]
CONFIG = RunConfig.load(ROOT / "training/configs/smoke.yaml").model


@pytest.fixture(scope="module")
def photos() -> np.ndarray:
    return load_images([ROOT / "test/fixtures/photos"], CONFIG.image_size)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_small_and_always_the_same(name: str, photos: np.ndarray) -> None:
    changed = CHANGES[name](photos)
    difference = np.abs(changed.astype(int) - photos)
    assert changed.shape == photos.shape
    assert 0 < difference.mean() < 5
    np.testing.assert_array_equal(changed, CHANGES[name](photos))


def test_no_value_moves_by_more_than_one_level(photos: np.ndarray) -> None:
    assert np.abs(one_level(photos).astype(int) - photos).max() == 1


def test_the_figures_are_those_of_the_changed_images(photos: np.ndarray) -> None:
    torch.manual_seed(0)
    model = NativeTok(CONFIG).eval()
    figures = measure_stability(model, photos, batch=7)
    before, after = (model.encode(torch.from_numpy(images)) for images in (photos, one_level(photos)))
    difference = model.decode(before).double() - model.decode(after).double()
    figure = figures["one level"]
    assert figure["images"] == len(photos)
    assert figure["equal"] == pytest.approx((before == after).double().mean().item(), abs=1e-3)
    assert len(figure["equal_by_position"]) == CONFIG.length
    assert figure["rms"] == pytest.approx(difference.square().mean().sqrt().item(), abs=0.05)


def test_a_position_counts_its_own_tokens_only() -> None:
    tokens = np.array([[1, 2, 3], [4, 5, 6]])
    others = np.array([[1, 2, 0], [4, 0, 0]])
    np.testing.assert_array_equal(share_by_position(tokens, others), [1, 0.5, 0])
