"""The fixtures, and what tests do with them."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nativetok.published.checkpoint import Checkpoint, read_checkpoint
from nativetok.published.recognise import Options, load, read_config, recognise
from nativetok.published.tokenizer import Tokenizer

ROOT = Path(__file__).parents[3]
CHECKPOINTS, BUNDLES = ROOT / "test/fixtures/checkpoints", ROOT / "test/fixtures/bundles"
PHOTOS = ROOT / "test/fixtures/photos"

NAMES = ["titok-legacy", "titok-newer", "nativetok-b", "nativetok-a"]
CAUSAL = ["nativetok-b", "nativetok-a"]
TITOK_HEADS = {"encoder": 4, "decoder": 2}
HEADS = {name: TITOK_HEADS | ({"experts": 2} if name in CAUSAL else {}) for name in NAMES}


def path_of(name: str) -> Path:
    """The checkpoint of a fixture."""
    (path,) = (p for p in (CHECKPOINTS / name).iterdir() if p.suffix in (".bin", ".safetensors"))
    return path


def tensors_of(name: str) -> dict[str, Tensor]:
    """A fixture's weights, copied."""
    return {key: tensor.clone() for key, tensor in read_checkpoint(path_of(name)).tensors.items()}


def expected(name: str) -> dict[str, np.ndarray]:
    with np.load(CHECKPOINTS / name / "expected.npz") as file:
        return dict(file)


def model_of(name: str) -> Tokenizer:
    checkpoint, config = read_checkpoint(path_of(name)), CHECKPOINTS / name / "config.json"
    options = Options(heads=HEADS[name])
    return load(recognise(checkpoint, read_config(config) if config.exists() else None, options), checkpoint)


def checkpoint_of(tensors: dict[str, Tensor]) -> Checkpoint:
    return Checkpoint(Path("checkpoint.bin"), tensors)


def save(path: Path, tensors: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, path)
    return path
