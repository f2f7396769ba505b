import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nativetok.classifier import Classifier, embed, load_classifier, save_classifier
from nativetok.config import ModelConfig
from nativetok.evaluate import contact_sheet, main, measure
from nativetok.metrics import codebook_use, frechet_distance, psnr
from nativetok.model import NativeTok, load_weights, save_weights

PHOTOS = Path(__file__).parents[2] / "test" / "fixtures" / "photos"
CLASSIFIER = Path(__file__).parents[1] / "weights" / "classifier.safetensors"


@pytest.fixture(scope="module")
def photos() -> np.ndarray:
    """All 128x128 fixture photos, uint8 [N,128,128,3]."""
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in sorted(PHOTOS.glob("*.webp"))])


def thumbnails(photos: np.ndarray, side: int) -> np.ndarray:
    """What a coarse code would give: every photo by way of a side x side thumbnail."""
    small = [Image.fromarray(photo).resize((side, side), Image.Resampling.BOX) for photo in photos]
    return np.stack([np.asarray(image.resize((128, 128), Image.Resampling.BICUBIC)) for image in small])


def test_every_length_has_the_mean_over_its_own_images(photos: np.ndarray) -> None:
    decoded = {32: thumbnails(photos, 4), 64: thumbnails(photos, 8)}
    tokens = np.tile(np.arange(64), (len(photos), 1))
    tokens[:, 0] = np.arange(len(photos)) % 2
    figures = measure(photos, tokens, decoded, 4096)
    assert figures["images"] == len(photos)
    assert figures["lengths"]["32"]["psnr"] == pytest.approx(psnr(photos, decoded[32]).mean())
    assert 10 < figures["lengths"]["32"]["psnr"] < figures["lengths"]["64"]["psnr"] < 30
    assert 0 < figures["lengths"]["32"]["ssim"] < figures["lengths"]["64"]["ssim"] < 1
    assert figures["lengths"]["32"]["frechet"] is None
    assert [figures["lengths"][length]["bytes"] for length in ("32", "64")] == [48, 96]
    assert figures["codebook"] == {"size": 4096, "used": 64 / 4096, "used_by_1000_images": None}
    assert figures["entropy"]["bits_by_position"] == [1.0] + [0.0] * 63
    assert figures["entropy"]["mean_bits"] == pytest.approx(1 / 64)


def test_a_finer_code_is_nearer_by_the_released_classifier(photos: np.ndarray) -> None:
    decoded = {side: thumbnails(photos, side) for side in (4, 8, 16, 32)} | {128: photos}
    figures = measure(photos, np.zeros((len(photos), 128), np.int64), decoded, 4096, load_classifier(CLASSIFIER))
    distances = [figure["frechet"] for figure in figures["lengths"].values()]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] == pytest.approx(0, abs=1e-6)
    assert distances[0] > 1.5 * distances[2]


def test_the_sheet_shows_twelve_photos_above_their_reconstructions(photos: np.ndarray) -> None:
    decoded = {32: thumbnails(photos, 4), 128: thumbnails(photos, 16)}
    sheet = np.asarray(contact_sheet(photos, decoded))
    assert sheet.shape == (3 * 132 - 4, 96 + 12 * 132, 3)
    np.testing.assert_array_equal(sheet[:128, 96:224], photos[0])
    np.testing.assert_array_equal(sheet[264:, 96 + 11 * 132 :][:, :128], decoded[128][-1])
    assert (sheet[:, :96] < 128).any(), "the rows are labelled"


def test_a_sheet_of_few_photos_shows_each_once(photos: np.ndarray) -> None:
    assert contact_sheet(photos[:3], {32: photos[:3]}).width == 96 + 3 * 132


def test_the_command_measures_what_the_weights_do_to_the_photos(photos: np.ndarray, tmp_path: Path) -> None:
    config = ModelConfig(
        image_size=64, stages=(4, 8), codebook_size=64, encoder_width=32, encoder_depth=1, expert_width=32,
        expert_mlp=32, token_width=16, decoder_width=32, decoder_depth=1,
    )  # fmt: skip
    torch.manual_seed(0)
    save_weights(NativeTok(config), tmp_path / "weights.safetensors")
    save_classifier(Classifier("ab", widths=(8, 8, 8, 8)), tmp_path / "classifier.safetensors")
    main([
        "--weights", str(tmp_path / "weights.safetensors"), "--data", str(PHOTOS), "--out", str(tmp_path / "out"),
        "--classifier", str(tmp_path / "classifier.safetensors"), "--batch", "7", "--device", "cpu",
    ])  # fmt: skip
    figures = json.loads((tmp_path / "out" / "evaluation.json").read_text())

    small = np.stack(
        [np.asarray(Image.fromarray(photo).resize((64, 64), Image.Resampling.LANCZOS)) for photo in photos]
    )
    model = load_weights(tmp_path / "weights.safetensors")
    tokens = model.encode(torch.from_numpy(small), 8)
    classifier = load_classifier(tmp_path / "classifier.safetensors")
    assert figures["images"] == len(photos)
    assert figures["codebook"]["used"] == codebook_use(tokens.numpy(), 64)
    for length in (4, 8):
        decoded = model.decode(tokens[:, :length]).numpy()
        figure = figures["lengths"][str(length)]
        assert figure["psnr"] == pytest.approx(psnr(small, decoded).mean(), abs=1e-3)
        distance = frechet_distance(embed(classifier, small), embed(classifier, decoded))
        assert figure["frechet"] == pytest.approx(distance, rel=1e-3)
    assert Image.open(tmp_path / "out" / "contact-sheet.png").size == (96 + 12 * 68, 3 * 68 - 4)

    weights, out = str(tmp_path / "weights.safetensors"), str(tmp_path / "out")
    main(["--weights", weights, "--data", str(PHOTOS), "--out", out, "--lengths", "1", "8"])
    lengths = json.loads((tmp_path / "out" / "evaluation.json").read_text())["lengths"]
    assert list(lengths) == ["1", "8"]
    assert lengths["1"]["psnr"] == pytest.approx(psnr(small, model.decode(tokens[:, :1]).numpy()).mean(), abs=1e-3)
    with pytest.raises(SystemExit):
        main(["--weights", weights, "--data", str(PHOTOS), "--out", out, "--lengths", "9"])
