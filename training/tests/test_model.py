"""Parts of the model, compared with plain forms of the same computation."""

from pathlib import Path

import torch
from torch.nn import functional as F

from nativetok.config import RunConfig
from nativetok.model import Decoder

ROOT = Path(__file__).parents[2]


def test_decoder_sums_drawn_patches_as_fold_does() -> None:
    torch.manual_seed(0)
    config = RunConfig.load(ROOT / "training/configs/smoke.yaml").model
    decoder = Decoder(config)
    grid, size, width = decoder.grid, decoder.patch_size, config.decoder_width
    x, weight = torch.randn(2, grid**2, width), torch.randn(3 * (2 * size) ** 2, width)
    drawn = (x @ weight.T).transpose(1, 2)
    folded = F.fold(drawn, (grid * size, grid * size), kernel_size=2 * size, stride=size, padding=size // 2)
    torch.testing.assert_close(decoder._blend(x, weight), folded, rtol=1e-4, atol=1e-4)
