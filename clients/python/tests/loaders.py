"""Readers as training code reads token data sets, written from descriptions of that code: see docs/formats.md."""

import io
import json
import linecache
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

Sample = tuple[Tensor, Tensor]
"""Ids and label, as the trainer gets them."""


class LlamaGen:
    """Numbered files; one random view where the path says so."""

    def __init__(self, code_path: str, image_size: int, length: int):
        self.codes = f"{code_path}/imagenet{image_size}_codes"
        self.labels = f"{code_path}/imagenet{image_size}_labels"
        self.one_view = "flip" in self.codes
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        codes = np.load(f"{self.codes}/{index}.npy")
        if self.one_view:
            codes = codes[:, random.randrange(codes.shape[1])]
        return torch.from_numpy(codes), torch.from_numpy(np.load(f"{self.labels}/{index}.npy"))


class RandAR:
    """A folder per class, in which every file is an image; all names go through integers."""

    def __init__(self, root: str):
        names = [str(label) for label in sorted(int(entry.name) for entry in Path(root).iterdir())]
        folders = [Path(root) / name for name in names]
        self.files = [(path, int(folder.name)) for folder in folders if folder.is_dir() for path in folder.iterdir()]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.files[index]
        codes = np.load(path)
        if codes.ndim not in (2, 3):
            raise ValueError(f"no picture has {codes.ndim} dimensions")
        # What turns pictures to tensors puts the axis that it takes for colours first.
        tensor = torch.from_numpy(codes[None] if codes.ndim == 2 else codes.transpose(2, 0, 1).copy())
        return tensor[:, random.randrange(tensor.shape[1])], label


class Jsonl1d:
    """A line per view, found by its number."""

    def __init__(self, path: str):
        self.path = path
        with open(path, "rb") as lines:
            self.length = sum(1 for _ in lines)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        line = json.loads(linecache.getline(self.path, index + 1))
        return torch.tensor(line["tokens"]), torch.tensor(line["class_id"])


def webdataset(shards: list[Path]) -> Iterator[dict[str, Any]]:
    """Members that follow each other and share what is before the first dot of the base name are a sample."""
    decoders = {"npy": lambda b: np.load(io.BytesIO(b)), "cls": lambda b: int(b), "json": json.loads}
    for shard in shards:
        sample: dict[str, Any] = {}
        with tarfile.open(shard) as tar:
            for member in tar:
                folder, _, base = member.name.rpartition("/")
                stem, dot, field = base.partition(".")
                if not member.isreg() or not dot or not stem:
                    continue
                if member.name.startswith("__") and "__" in member.name.split("/")[0][2:]:
                    continue
                key = f"{folder}/{stem}" if folder else stem
                if sample and sample["__key__"] != key:
                    yield sample
                    sample = {}
                if field in sample:
                    raise ValueError(f"{key} has two members {field}")
                content = tar.extractfile(member)
                assert content
                sample |= {"__key__": key, field: decoders[field.lower()](content.read())}
        if sample:
            yield sample


def train_step(ids: Tensor, labels: Tensor, codebook_size: int, sequence: int) -> None:
    """What every trainer does with a batch: raises where ids or labels are none for an embedding and a loss."""
    ids, labels = ids.reshape(ids.shape[0], -1), labels.reshape(-1)
    assert ids.shape[1] <= sequence, "longer than the model's sequence"
    condition = torch.nn.Embedding(13, 4)(labels)
    embedded = torch.nn.Embedding(codebook_size, 4)(ids) + condition[:, None]
    logits = torch.nn.Linear(4, codebook_size)(embedded)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())
