"""The probe finds what no file says where a checkpoint reconstructs photos, and refuses to guess where it does not."""

import json
from pathlib import Path

import numpy as np
import pytest

from nativetok.convert import convert
from nativetok.published.checkpoint import CheckpointError, read_checkpoint
from nativetok.published.photos import load_photos
from nativetok.published.probe import Candidate, ProbeResult, heads_of, mean_psnr, probe, settled
from nativetok.published.recognise import Options, recognise

from .fixtures import CHECKPOINTS, HEADS, PHOTOS, path_of

TRAINED = CHECKPOINTS / "titok-trained/tokenizer.bin"


def test_a_trained_tokenizer_stands_out_under_its_own_heads_and_norm(tmp_path: Path) -> None:
    recognised = convert(TRAINED, tmp_path / "out", photos=PHOTOS)
    sizes = recognised.sizes
    assert (sizes.encoder.heads, sizes.decoder.heads, sizes.normalised, sizes.signed) == (4, 2, True, False)
    assert set(recognised.origins.values()) == {"probe"}
    card = (tmp_path / "out/MODEL_CARD.md").read_text()
    assert "| encoder's heads | 4 | probe |" in card
    for like_it in (  # in all but one thing
        *("encoder 1 heads, L2 on, pixels 0..1, decoder 2", "encoder 2 heads, L2 on, pixels 0..1, decoder 2"),
        *("encoder 4 heads, L2 on, pixels 0..1, decoder 1", "encoder 4 heads, L2 on, pixels 0..1, decoder 4"),
        *("encoder 4 heads, L2 off, pixels 0..1, decoder 2", "encoder 4 heads, L2 on, pixels -1..1, decoder 2"),
    ):
        assert f"| {like_it} heads |" in card
    assert card.count(" heads, L2 o") < 3 * 3 * 2 * 2
    probed = json.loads((tmp_path / "out/manifest.json").read_text())["quality"]["probe"]
    assert probed["psnr"] > probed["mean_colour_psnr"] + 3


def test_what_is_said_is_not_probed() -> None:
    checkpoint = read_checkpoint(TRAINED)
    recognised = recognise(checkpoint, None, Options(heads={"decoder": 2}, normalised=True, signed=False))
    result = probe(recognised, checkpoint, load_photos(PHOTOS, 16, 3))
    assert [set(candidate.values) for candidate in result.candidates] == [{"encoder"}] * 3
    assert settled(recognised, result.winner()).sizes.encoder.heads == 4
    wrong = recognise(checkpoint, None, Options(heads={"decoder": 1}))
    found = probe(wrong, checkpoint, load_photos(PHOTOS, 16, 3))
    assert len(found.candidates) == 3 * 2 * 2  # none shows photos, so all are tried
    with pytest.raises(CheckpointError, match="no candidate"):
        found.winner()


@pytest.mark.parametrize("name", ["titok-newer", "nativetok-a"])
def test_random_weights_are_no_guess(name: str, tmp_path: Path) -> None:
    known = {part: heads for part, heads in HEADS[name].items() if part != "decoder"}
    with pytest.raises(CheckpointError, match=r"no candidate reconstructs the photos: the best \(.*\) has .* dB"):
        convert(path_of(name), tmp_path / "out", options=Options(heads=known), photos=PHOTOS)
    assert list(tmp_path.iterdir()) == []


def test_two_that_are_alike_are_no_guess() -> None:
    candidates = [Candidate({"encoder": 4}, 20.0), Candidate({"encoder": 8}, 19.5)]
    with pytest.raises(
        CheckpointError, match=r"stands out: encoder 4 heads has 20\.00 dB and encoder 8 heads 19\.50 dB"
    ):
        ProbeResult(candidates, 3, 12.0).winner()
    assert ProbeResult(candidates, 3, 12.0).candidates[0].label == "encoder 4 heads"


def test_published_numbers_of_heads_are_among_those_tried() -> None:
    assert {4, 16} <= set(heads_of(1024))
    assert {4, 16} <= set(heads_of(256))
    assert 8 in heads_of(512)
    assert 12 in heads_of(768)
    assert [heads_of(width)[0] for width in (1024, 768, 512, 256)] == [16, 12, 8, 4]


def test_psnr_is_the_mean_over_images() -> None:
    black, grey = np.zeros((2, 4, 4, 3), np.uint8), np.zeros((2, 4, 4, 3), np.uint8)
    grey[0] += 16
    grey[1] += 64
    assert mean_psnr(grey, black) == pytest.approx((20 * np.log10(255 / 16) + 20 * np.log10(255 / 64)) / 2)
