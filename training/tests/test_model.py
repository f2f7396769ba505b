"""Parts of the model, compared with plain forms of the same computation."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from nativetok.config import RunConfig
from nativetok.model import Decoder, NativeTok

ROOT = Path(__file__).parents[2]
CONFIG = RunConfig.load(ROOT / "training/configs/smoke.yaml").model


def test_decoder_sums_drawn_patches_as_fold_does() -> None:
    torch.manual_seed(0)
    config = CONFIG
    decoder = Decoder(config)
    grid, size, width = decoder.grid, decoder.patch_size, config.decoder_width
    x, weight = torch.randn(2, grid**2, width), torch.randn(3 * (2 * size) ** 2, width)
    drawn = (x @ weight.T).transpose(1, 2)
    folded = F.fold(drawn, (grid * size, grid * size), kernel_size=2 * size, stride=size, padding=size // 2)
    torch.testing.assert_close(decoder._blend(x, weight), folded, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["cross", "self"])
@pytest.mark.parametrize("feedback", [0, 3, None])
def test_only_fed_back_codes_change_what_later_experts_say(kind: str, feedback: int | None) -> None:
    """An id that flips must change no later id, except those of experts that hear the code after quantisation."""
    torch.manual_seed(0)
    config = replace(CONFIG, expert_kind=kind, feedback=feedback)  # type: ignore[arg-type]
    model = NativeTok(config).eval()
    for parameter in model.mocet.parameters():  # predictions from earlier codes start at zero
        torch.nn.init.normal_(parameter, std=0.3) if not parameter.any() else None
    latents = torch.randn(2, config.latents, config.expert_width)
    said, _ = model.mocet.generate(latents, model.quantiser, config.length)
    model.quantiser.codebook.copy_(model.quantiser.codebook.flip(0).roll(1, dims=1))
    others, _ = model.mocet.generate(latents, model.quantiser, config.length)
    assert torch.equal(said, others) == (feedback == 0)
    assert torch.equal(said[:, 0], others[:, 0]) == (feedback == 0)
