"""A small image classifier whose features compare images by content rather than pixel by pixel.

The Fréchet distance uses its pooled features, a perceptual loss its feature maps.

python -m nativetok.classifier --data FOLDER --out training/weights/classifier.safetensors
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from nativetok.data import find_split, load_keyed_images, load_labels
from nativetok.model import to_pixels

IMAGE_SIZE = 128
WIDTHS = (32, 64, 128, 192)
SIDES = (64, 64, 64, 64, 96, 96, 128, 128)
"""Image side in pixels, for each epoch of training: small images teach the most per second."""
BATCH = 64
RATE = 4e-3
"""The peak learning rate."""
WARMUP = 0.2
"""The share of the steps in which the learning rate rises."""
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.1
SHIFT = 8
"""The largest random shift of images, in pixels."""


class Classifier(nn.Module):
    """A residual network of four stages (arXiv 1512.03385), each at half the resolution of the one before.

    The first stage has a quarter of the image's resolution: full resolution would cost more than all stages together.
    """

    def __init__(self, labels: Sequence[str], widths: Sequence[int] = WIDTHS) -> None:
        """Build an untrained network for these labels; `widths` are the channels of its stages."""
        super().__init__()
        self.labels, self.widths = tuple(labels), tuple(widths)
        stems = [_convolution(3, widths[0], kernel=7, stride=4)]
        stems += [_convolution(w, v, kernel=3, stride=2) for w, v in pairwise(widths)]
        self.stages = nn.ModuleList(
            nn.Sequential(stem, nn.ReLU(), Residual(w)) for stem, w in zip(stems, widths, strict=True)
        )
        self.head = nn.Linear(widths[-1], len(labels))

    def feature_maps(self, pixels: Tensor) -> list[Tensor]:
        """Feature maps of pixels [B, 3, H, W] in -1..1, for a perceptual loss.

        Returns:
            For each stage a map [B, width, H/s, W/s] with s = 4, 8, 16 and 32; values are at least 0.
        """
        maps, x = [], pixels.contiguous(memory_format=torch.channels_last)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def features(self, pixels: Tensor) -> Tensor:
        """Features [B, F] of pixels [B, 3, H, W] in -1..1: the mean over the last stage's map."""
        return self.feature_maps(pixels)[-1].mean((2, 3))

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [B, labels] of pixels [B, 3, H, W] in -1..1."""
        return self.head(self.features(pixels))


class Residual(nn.Module):
    """Two convolutions with a shortcut, initialised as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(_convolution(width, width, 3), nn.ReLU(), _convolution(width, width, 3))
        nn.init.zeros_(self.inner.get_parameter("2.1.weight"))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, width, H, W] to the same."""
        return F.relu(x + self.inner(x))


def _convolution(width: int, out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(width, out, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out))


def save_classifier(model: Classifier, path: Path) -> None:
    """Write a classifier in its released form: fp16 safetensors with labels and widths in the metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        name: tensor.half().contiguous() for name, tensor in model.state_dict().items() if tensor.is_floating_point()
    }
    metadata = {"labels": json.dumps(model.labels), "config": json.dumps({"widths": model.widths})}
    save_file(state, path, metadata=metadata)


def load_classifier(path: Path) -> Classifier:
    """Read a released classifier: float32, in evaluation mode, with frozen weights."""
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    model = Classifier(json.loads(metadata["labels"]), **json.loads(metadata["config"]))
    # not strict: batch norm's count of batches, used only in training, is not among the released weights
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()}, strict=False)
    return model.eval().requires_grad_(False)


@torch.inference_mode()
def embed(model: Classifier, images: NDArray[np.uint8], batch: int = 64) -> NDArray[np.float32]:
    """Compute features float32 [N, F] of images uint8 [N, H, W, 3] on the model's device."""
    device = model.head.weight.device
    batches = torch.from_numpy(images).split(batch)
    return np.concatenate([model.features(to_pixels(part.to(device))).cpu().numpy() for part in batches])


@torch.inference_mode()
def classify(model: Classifier, images: NDArray[np.uint8], batch: int = 64) -> NDArray[np.int64]:
    """The index int64 [N] of the most likely label of each image uint8 [N, H, W, 3]."""
    features = torch.from_numpy(embed(model, images, batch)).to(model.head.weight.device)
    return model.head(features).argmax(1).cpu().numpy()


def accuracy(targets: NDArray[np.int64], predicted: NDArray[np.int64]) -> tuple[float, float]:
    """Accuracy over all images [N], and its mean over the labels that occur (balanced accuracy); both 0..1."""
    right = targets == predicted
    return float(right.mean()), float(np.mean([right[targets == label].mean() for label in np.unique(targets)]))


def train(
    model: Classifier, images: NDArray[np.uint8], targets: NDArray[np.int64], sides: Sequence[int] = SIDES
) -> None:
    """Train a classifier in place on its device: AdamW, one-cycle learning rate, random mirroring and shifts.

    Args:
        model: in evaluation mode afterwards.
        images: uint8 [N, H, W, 3].
        targets: label indices int64 [N].
        sides: image side in each epoch; multiples of 32 up to H.
    """
    device = model.head.weight.device
    photos, labels = torch.from_numpy(images), torch.from_numpy(targets)
    steps = len(sides) * math.ceil(len(photos) / BATCH)
    kernels = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim == 1]
    optimiser = torch.optim.AdamW(
        [{"params": kernels, "weight_decay": WEIGHT_DECAY}, {"params": rest, "weight_decay": 0.0}], lr=RATE
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=WARMUP)
    model.train()
    started = time.monotonic()
    for epoch, side in enumerate(sides):
        total = 0.0
        for pick in torch.randperm(len(photos)).split(BATCH):
            pixels = _varied(to_pixels(photos[pick].to(device)))
            if side != pixels.shape[-1]:
                pixels = F.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True)
            loss = F.cross_entropy(model(pixels), labels[pick].to(device), label_smoothing=LABEL_SMOOTHING)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * len(pick)
        minutes = (time.monotonic() - started) / 60
        print(f"epoch {epoch + 1}/{len(sides)}  loss {total / len(photos):.3f}  {minutes:.1f} min", flush=True)
    model.eval()


def _varied(pixels: Tensor) -> Tensor:
    """Mirror each image of pixels [B, 3, H, W] at random and shift the batch by up to `SHIFT` pixels."""
    mirrored = torch.rand(len(pixels), 1, 1, 1, device=pixels.device) < 0.5
    padded = F.pad(torch.where(mirrored, pixels.flip(3), pixels), [SHIFT] * 4, mode="reflect")
    top, left = torch.randint(2 * SHIFT + 1, (2,)).tolist()
    return padded[:, :, top : top + pixels.shape[2], left : left + pixels.shape[3]]


def _labelled(root: Path, split: str, labels: dict[str, str]) -> tuple[NDArray[np.uint8], list[str]]:
    """The photos of a split that have a label, uint8 [N, H, W, 3], and their labels."""
    keys, images = load_keyed_images(find_split(root, split), IMAGE_SIZE)
    known = [i for i, key in enumerate(keys) if key in labels]
    return images[known], [labels[keys[i]] for i in known]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: train on the labelled train photos, report on the labelled val photos, write `--out`."""
    parser = argparse.ArgumentParser(prog="python -m nativetok.classifier", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="data set with train and val splits and labels.csv")
    parser.add_argument("--out", type=Path, required=True, help="file for the weights, .safetensors")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=device, help=f"cpu, cuda, cuda:1, ... (default {device})")
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    labels = load_labels(options.data / "labels.csv")
    names = sorted(set(labels.values()))
    images, named = _labelled(options.data, "train", labels)
    model = Classifier(names).to(options.device)
    train(model, images, np.array([names.index(label) for label in named]))
    save_classifier(model, options.out)

    images, named = _labelled(options.data, "val", labels)
    targets = np.array([names.index(label) for label in named])
    plain, balanced = accuracy(targets, classify(load_classifier(options.out), images))
    print(f"{len(images)} val photos: accuracy {plain:.1%}, balanced over labels {balanced:.1%}")


if __name__ == "__main__":
    main()
