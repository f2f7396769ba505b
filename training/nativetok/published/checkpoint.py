"""Reads checkpoints: `.safetensors`, or PyTorch's own files, of which nothing but tensors is taken."""

import hashlib
import re
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor


class CheckpointError(ValueError):
    """A checkpoint cannot be converted; the message is one sentence that says why."""


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by their published names, and where they came from."""

    path: Path
    tensors: dict[str, Tensor]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; tensors stay in the file until they are used, where its form allows.

    Takes tensors as they are or inside `{"model": ...}`, drops one leading `module.` of every name and the weights of
    the training loss (`loss.*`). Raises CheckpointError for what is no checkpoint, is damaged, or holds code.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file")
    content = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    if isinstance(content, dict) and "model" in content and not isinstance(content["model"], Tensor):
        content = content["model"]
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path.name} holds no weights")
    tensors: dict[str, Tensor] = {}
    for key, tensor in content.items():
        name = str(key).removeprefix("module.")
        if name.startswith("loss."):
            continue
        if not isinstance(tensor, Tensor):
            raise CheckpointError(f'{path.name} is not a file of weights: "{name}" is not a tensor')
        if name in tensors:
            raise CheckpointError(f'{path.name} has "{name}" twice, with and without "module."')
        tensors[name] = tensor.detach()
    if not tensors:
        raise CheckpointError(f"{path.name} holds no weights")
    return Checkpoint(path, tensors)


def sha256(path: Path) -> str:
    """Return a file's sha256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, as it is not a dictionary
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path.name} is damaged or not a .safetensors file: {_first_line(error)}") from None


def _pickled(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns of pickles that it then refuses
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # what a damaged file raises depends on where the damage is
        if asked := re.search(r"GLOBAL (\S+)", str(error)):
            raise CheckpointError(f"{path.name} is refused: it holds more than tensors ({asked[1]})") from None
        raise CheckpointError(f"{path.name} is damaged or not a PyTorch checkpoint") from None


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
