from pathlib import Path

import numpy as np
import torch

from nativetok.config import RunConfig
from nativetok.data import load_images
from nativetok.model import NativeTok
from nativetok.stability import saved_again
from study.stability import CELL, COLUMNS, HEADER, MARGIN, draw

ROOT = Path(__file__).parents[3]
CONFIG = RunConfig.load(ROOT / "training/configs/smoke.yaml").model


def test_a_token_has_a_frame_if_it_changed() -> None:
    torch.manual_seed(0)
    model = NativeTok(CONFIG).eval()
    photo = load_images([ROOT / "test/fixtures/photos/buddha.webp"], CONFIG.image_size)[0]
    again = saved_again(photo[None], "JPEG", quality=1)[0]
    before, after = model.encode(torch.from_numpy(np.stack([photo, again])))
    assert 0 < (before == after).sum() < CONFIG.length
    size = CONFIG.image_size
    sheet = np.asarray(draw(model, photo, quality=1))
    top = HEADER + size + MARGIN
    np.testing.assert_array_equal(sheet[HEADER:, :size][:size], photo)
    np.testing.assert_array_equal(sheet[top + HEADER :, :size][:size], again)
    assert sheet.shape == (2 * top, 2 * (size + MARGIN) + COLUMNS * CELL, 3)
    for i, (a, b) in enumerate(zip(before, after, strict=True)):
        x, y = 2 * (size + MARGIN) + i * CELL, HEADER
        assert sheet[y, x].any()
        assert sheet[top + y, x].any() == (a == b)
        assert (sheet[y + 8, x + 8] == sheet[top + y + 8, x + 8]).all() or a != b
