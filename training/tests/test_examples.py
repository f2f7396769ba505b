import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nativetok.data import load_images
from nativetok.model import NativeTok, load_weights
from study.generator import load_generator

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "generator"
PHOTOS = ROOT / "test" / "fixtures" / "photos"
NODE = ROOT / "node_modules" / ".bin" / "node"
LENGTH = 32


@pytest.fixture(scope="module")
def tokenizer() -> NativeTok:
    return load_weights(ROOT / "training" / "weights" / "nativetok-128.safetensors")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The service with the default bundle."""
    assert NODE.exists(), "the service is not installed: npm ci"
    command = [str(NODE), "src/server.ts", "--port", "0", "--provider", "cpu", "--drain-delay", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout
        said = (json.loads(line)["msg"] for line in service.stdout)
        address = next(line.removeprefix("listening on ") for line in said if line.startswith("listening on "))
        next(line for line in said if line.startswith("try: "))
        yield address
        service.terminate()


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLE / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_released_generator_has_learned_the_released_tokens(tokenizer: NativeTok) -> None:
    model = load_generator(EXAMPLE / "generator.safetensors")
    tokens = tokenizer.encode(torch.from_numpy(load_images([PHOTOS], tokenizer.config.image_size)), LENGTH)
    with torch.inference_mode():
        bits = model.bits(torch.full((len(tokens),), model.unlabelled), tokens).mean(0)
    uniform = np.log2(tokenizer.config.codebook_size)
    assert bits[0] < uniform - 0.5
    assert bits.mean() < uniform - 0.2
    with torch.inference_mode():  # the same ids in another order are not predicted
        assert model.bits(torch.full((len(tokens),), model.unlabelled), tokens.flip(1)).mean() > bits.mean() + 0.2


def test_the_animation_shows_the_sequence_as_it_grows(url: str, tokenizer: NativeTok, tmp_path: Path) -> None:
    out = tmp_path / "sea.webp"
    ended = run("sample.py", "--label", "sea", "--seed", "3", "--url", url, "--out", str(out))
    assert ended.returncode == 0, ended.stderr
    model = load_generator(EXAMPLE / "generator.safetensors")
    sea = torch.tensor([model.config.labels.index("sea")])
    tokens = model.sample(sea, 0.8, torch.Generator().manual_seed(3))
    drawn = [tokenizer.decode(tokens[:, :length])[0].numpy() for length in range(1, LENGTH + 1)]
    with Image.open(out) as animation:
        assert animation.n_frames == LENGTH
        for i in (0, 1, 3, 7, 15, 31):  # between these, late tokens change less than the animation's compression
            animation.seek(i)
            shown = np.asarray(animation.convert("RGB"), np.int64)
            distances = [np.abs(shown - image).mean() for image in drawn]
            assert np.argmin(distances) == i, "a frame shows another prefix than its own"
            assert distances[i] < 4, "it differs by more than the animation's compression"


def test_the_dataset_holds_the_tokens_of_the_photos_and_keeps_them(
    url: str, tokenizer: NativeTok, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    names = sorted(path.name for path in PHOTOS.glob("*.webp"))[:3]
    for name in names:
        shutil.copy(PHOTOS / name, folder)
    arguments = [str(folder), "--length", str(LENGTH), "--cache", str(tmp_path / "cache")]
    assert "3 photos" in run("dataset.py", *arguments, "--url", url).stdout
    (kept,) = (tmp_path / "cache").iterdir()
    images = np.stack([np.asarray(Image.open(folder / name).convert("RGB")) for name in names])
    assert np.array_equal(np.load(kept), tokenizer.encode(torch.from_numpy(images), LENGTH).numpy())

    (folder / names[0]).write_bytes(b"no image")
    kept.unlink()
    refused = run("dataset.py", *arguments, "--url", url)
    assert refused.returncode != 0
    assert "image 0" in refused.stderr


def test_a_label_that_is_not_there_is_refused_with_those_that_are() -> None:
    ended = run("sample.py", "--label", "unicorn")
    assert ended.returncode == 2
    assert "sunflower" in ended.stderr
