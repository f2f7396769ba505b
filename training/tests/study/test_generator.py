import csv
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nativetok.model import load_weights
from study.generator import (
    Generator,
    GeneratorConfig,
    Split,
    bits_by_position,
    draw,
    load_generator,
    load_split,
    main,
    save_generator,
    train,
)

ROOT = Path(__file__).parents[3]
PHOTOS = ROOT / "test" / "fixtures" / "photos"
WEIGHTS = ROOT / "training" / "weights"
ROW = re.compile(r"^\| `([\w-]+)\.webp` *\| \d{6} \| [^|]*`(\w+)`", re.MULTILINE)
CONFIG = GeneratorConfig(labels=("a", "b"), codebook_size=16, length=6, width=32, depth=2, heads=2)


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(0)
    model = Generator(CONFIG).eval()
    for p in model.parameters():  # at its start it says the same of everything
        torch.nn.init.normal_(p, std=0.3)
    return model


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fixture photos as a data set: some to train on, some held out, labels for those that have one."""
    root = tmp_path_factory.mktemp("data")
    labels = dict(ROW.findall((PHOTOS / "SOURCES.md").read_text()))
    with (root / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["key", "label"])
        rows.writerows(labels.items())
    for i, photo in enumerate(sorted(PHOTOS.glob("*.webp"))):
        folder = root / ("val" if i % 4 == 0 else "train")
        folder.mkdir(exist_ok=True)
        shutil.copy(photo, folder)
    return root


def test_tokens_of_like_codes_start_alike() -> None:
    torch.manual_seed(0)
    codes = torch.nn.functional.normalize(torch.randn(16, 3), dim=-1)
    codes[5] = codes[9]
    model = Generator(CONFIG).eval()
    model.start_from(codes)
    classes, tokens = torch.tensor([1]), torch.tensor([[5, 1, 2, 3, 4, 5]])
    logits, others = model(classes, tokens), model(classes, torch.where(tokens == 5, 9, tokens))
    assert torch.allclose(logits, others), "as input"
    assert torch.allclose(logits[..., 5], logits[..., 9]), "as output"
    assert not torch.allclose(logits[..., 5], logits[..., 1], atol=1e-4)


def test_a_token_costs_what_it_does_given_those_before_it_alone(generator: Generator) -> None:
    classes, tokens = torch.tensor([0, 2]), torch.randint(16, (2, 6))
    bits = generator.bits(classes, tokens)
    changed = tokens.clone()
    changed[:, 3] = (tokens[:, 3] + 1) % 16
    again = generator.bits(classes, changed)
    torch.testing.assert_close(again[:, :3], bits[:, :3])
    assert not torch.isclose(again[:, 3:], bits[:, 3:]).any()
    assert not torch.isclose(generator.bits(1 - classes.clamp(max=1), tokens), bits).all()


def test_samples_follow_the_odds(generator: Generator) -> None:
    drawn = generator.sample(torch.zeros(4000, dtype=torch.long), generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (4000, 6)
    # what the sequences cost on average is their entropy, so costs under the model and under chance tell them apart
    bits = generator.bits(torch.zeros(4000, dtype=torch.long), drawn)
    odds = generator(torch.zeros(4000, dtype=torch.long), drawn).softmax(-1)
    entropy = -(odds * odds.log2()).sum(-1)
    torch.testing.assert_close(bits.mean(0), entropy.mean(0), atol=0.1, rtol=0)
    first = torch.bincount(drawn[:, 0], minlength=16) / 4000
    torch.testing.assert_close(first, odds[0, 0], atol=0.04, rtol=0)
    coldest = generator.sample(torch.zeros(2, dtype=torch.long), temperature=1e-4)
    assert coldest[0].tolist() == coldest[1].tolist()
    assert coldest[0, 0] == odds[0, 0].argmax()


def test_training_learns_a_rule_between_tokens() -> None:
    torch.manual_seed(0)
    first = torch.randint(16, (512, 1))
    classes = torch.randint(2, (512,))
    # a token is the one before plus 1 or 2, by the class
    tokens = (first + torch.arange(6) * (classes[:, None] + 1)) % 16
    model = Generator(CONFIG)
    log = train(model, tokens, classes, 40_000, Split(np.empty(0, np.uint8), tokens[:64], classes[:64]))
    bits = bits_by_position(model, Split(np.empty(0, np.uint8), tokens[:64], classes[:64]))
    assert bits[0] == pytest.approx(math.log2(16), abs=0.5)
    assert bits[1:].max() < 0.5
    assert log[-1]["val_bits"] < log[0]["val_bits"]


def test_released_form_says_the_same(generator: Generator, tmp_path: Path) -> None:
    save_generator(generator, tmp_path / "generator.safetensors")
    loaded = load_generator(tmp_path / "generator.safetensors")
    assert loaded.config == CONFIG
    classes, tokens = torch.tensor([0, 1]), torch.randint(16, (2, 6))
    torch.testing.assert_close(loaded(classes, tokens), generator(classes, tokens), atol=0.05, rtol=0.05)


def test_a_split_has_tokens_and_classes_of_its_photos(data: Path) -> None:
    tokenizer = load_weights(WEIGHTS / "nativetok-128.safetensors")
    split = load_split(data, "val", tokenizer, 8, ["airplanes", "rose"])
    assert len(split.photos) == len(split.tokens) == len(split.classes)
    assert split.tokens[:2].equal(tokenizer.encode(torch.from_numpy(split.photos[:2]), 8))
    assert set(split.classes.tolist()) <= {0, 1, 2}
    assert 2 in split.classes


def test_the_command_writes_figures_and_samples(data: Path, tmp_path: Path) -> None:
    main(
        [
            *("--weights", str(WEIGHTS / "nativetok-128.safetensors")),
            *("--classifier", str(WEIGHTS / "classifier.safetensors")),
            *("--data", str(data), "--out", str(tmp_path), "--length", "32", "--sequences", "64", "--samples", "24"),
        ]
    )
    figures = json.loads((tmp_path / "generator.json").read_text())
    assert len(figures["bits_by_position"]) == 32
    prefixes = figures["prefixes"]
    assert list(prefixes) == ["1", "2", "4", "8", "16", "32"]
    assert prefixes["32"]["bits"] == pytest.approx(sum(figures["bits_by_position"]), abs=0.1)
    assert prefixes["32"]["psnr"] > prefixes["8"]["psnr"] > prefixes["1"]["psnr"]
    # hardly trained, a token costs about what chance does, and samples are further from photos than reconstructions
    assert prefixes["32"]["bits"] / 32 == pytest.approx(12, abs=1)
    assert figures["frechet"] > figures["frechet_reconstructions"]
    assert Image.open(tmp_path / "samples.jpg").size == (12 * 128, 2 * 128)
    model = load_generator(tmp_path / "generator.safetensors")
    shown = draw(model, load_weights(WEIGHTS / "nativetok-128.safetensors"), torch.tensor([0, model.unlabelled]), 1.0)
    assert shown.shape == (2, 128, 128, 3)
