import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from nativetok.data import load_images
from nativetok.model import load_weights, to_pixels
from nativetok.shrink import shrink

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "training/weights/nativetok-128.safetensors"


@torch.no_grad()
def test_what_is_left_works_as_the_same_layers_did() -> None:
    model, kept = load_weights(WEIGHTS), {"encoder": [0, 2, 3], "decoder": [0, 2, 3, 5]}
    smaller = shrink(model, **kept, feedback=8)
    assert (smaller.config.encoder_depth, smaller.config.decoder_depth, smaller.config.feedback) == (3, 4, 8)

    images = torch.from_numpy(load_images([ROOT / "test/fixtures/photos"], model.config.image_size)[:8])
    full_tokens = model.encode(images)
    pictures, pixels = smaller.decode(smaller.encode(images)), to_pixels(images)
    error = (to_pixels(pictures) - pixels).square().mean()
    assert error < 0.5 * pixels.square().mean(), "nothing of the pictures is left"

    for part, layers in kept.items():
        module = getattr(model, part)
        module.blocks = nn.Sequential(*[module.blocks[layer] for layer in layers])
    torch.testing.assert_close(smaller.encoder(pixels), model.encoder(pixels))
    assert torch.equal(smaller.decode(full_tokens), model.decode(full_tokens))


def test_wrong_layers_are_named() -> None:
    model = load_weights(WEIGHTS)
    for layers in ([], [4], [1, 0], [0, 0], [-1]):
        with pytest.raises(ValueError, match="layers of the encoder are some of 0 to 3 in ascending order"):
            shrink(model, encoder=layers)


def test_the_command_writes_weights_that_training_takes(tmp_path: Path) -> None:
    out = tmp_path / "smaller.safetensors"
    command = [sys.executable, "-m", "nativetok.shrink", str(WEIGHTS), "--decoder", "0,5", "--out", str(out)]
    subprocess.run(command, check=True)
    assert load_weights(out).config.decoder_depth == 2
    failed = subprocess.run([*command[:-3], "0,9", *command[-2:]], capture_output=True, text=True)
    assert failed.returncode == 1
    assert failed.stderr.startswith("nativetok.shrink: layers of the decoder are some of 0 to 5")
