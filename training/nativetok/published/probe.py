"""Finds what no file says by reconstructing photos under every candidate.

A trained tokenizer under wrong heads or a wrong norm draws noise, so the right candidate stands out.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nativetok.published.checkpoint import Checkpoint, CheckpointError
from nativetok.published.recognise import Recognised, load
from nativetok.published.tokenizer import Tokenizer, to_uint8

MARGIN = 1.0
"""The margin in dB by which a candidate must beat all others and each photo's mean colour."""
NARROWEST, WIDEST = 16, 256
"""Head widths to try; transformers under 256 wide may have narrower ones, down to half of that."""


@dataclass(frozen=True)
class Candidate:
    """What is tried, by name as in `Recognised.open`, and how well it reconstructs."""

    values: dict[str, Any]
    psnr: float

    @property
    def label(self) -> str:
        """The candidate in words."""
        words = {"normalised": ("L2 off", "L2 on"), "signed": ("pixels 0..1", "pixels -1..1")}
        return ", ".join(
            words[name][value] if name in words else f"{name} {value} heads" for name, value in self.values.items()
        )


@dataclass(frozen=True)
class ProbeResult:
    """All candidates, the best first."""

    candidates: list[Candidate]
    photos: int
    blank: float
    """The PSNR of each photo's mean colour."""

    def winner(self) -> Candidate:
        """The candidate that stands out. Raises CheckpointError where none does."""
        best, *others = self.candidates
        if best.psnr < self.blank + MARGIN:
            raise CheckpointError(
                f"no candidate reconstructs the photos: the best ({best.label}) has {best.psnr:.2f} dB, their mean "
                f"colour alone {self.blank:.2f} dB"
            )
        if others and best.psnr < others[0].psnr + MARGIN:
            raise CheckpointError(
                f"no candidate stands out: {best.label} has {best.psnr:.2f} dB and "
                f"{others[0].label} {others[0].psnr:.2f} dB"
            )
        return best


def probe(recognised: Recognised, checkpoint: Checkpoint, photos: NDArray[np.uint8]) -> ProbeResult:
    """Reconstruct photos uint8 [B, S, S, 3] under every candidate for what is open."""
    model, images = load(recognised, checkpoint), torch.from_numpy(photos)
    candidates = [Candidate(values, psnr) for values, psnr in _reconstructions(model, recognised, images)]
    blank = np.broadcast_to(photos.mean(axis=(1, 2), keepdims=True).round(), photos.shape)
    return ProbeResult(sorted(candidates, key=lambda c: -c.psnr), len(photos), mean_psnr(blank, photos))


def settled(recognised: Recognised, winner: Candidate) -> Recognised:
    """Return what was recognised with a probe's winner put in."""
    sizes = recognised.sizes
    for name, value in winner.values.items():
        trunk = getattr(sizes, name)
        changed: dict[str, Any] = {name: value if isinstance(value, bool) else replace(trunk, heads=value)}
        sizes = replace(sizes, **changed)
    origins = recognised.origins | dict.fromkeys(winner.values, "probe")
    return replace(recognised, sizes=sizes, origins=origins, open=(), unset=())


def mean_psnr(images: NDArray[Any], originals: NDArray[np.uint8]) -> float:
    """Return the mean over images of each image's PSNR in dB, for values of 0..255."""
    errors = np.square(images.astype(np.float64) - originals).reshape(len(images), -1).mean(axis=1)
    return float((20 * np.log10(255) - 10 * np.log10(np.maximum(errors, 1e-10))).mean())


@torch.no_grad()
def _reconstructions(
    model: Tokenizer, recognised: Recognised, images: torch.Tensor
) -> Iterator[tuple[dict[str, Any], float]]:
    """Every candidate and its PSNR; what candidates share is computed once."""
    tried: dict[str, list[Any]] = {}
    for name in recognised.open:
        value = getattr(recognised.sizes, name)
        tried[name] = [False, True] if isinstance(value, bool) else heads_of(value.width)
    first = [name for name in ("signed", "encoder", "experts") if name in tried]
    second = [name for name in ("normalised", "decoder") if name in tried]
    for encoding in itertools.product(*(tried[name] for name in first)):
        values = dict(zip(first, encoding, strict=True))
        _put(model, values)
        codes = model.codes(images)
        for decoding in itertools.product(*(tried[name] for name in second)):
            more = dict(zip(second, decoding, strict=True))
            _put(model, more)
            drawn = to_uint8(model.draw(model.quantize.distances(codes).argmin(-1)))
            yield values | more, mean_psnr(drawn.numpy(), images.numpy())


def heads_of(width: int) -> list[int]:
    """Numbers of heads that a transformer of this width may have."""
    narrowest = NARROWEST if width >= 256 else NARROWEST // 2
    return [n for n in range(1, width + 1) if width % n == 0 and narrowest <= width // n <= max(WIDEST, narrowest)]


def _put(model: Tokenizer, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if name == "signed":
            model.sizes = replace(model.sizes, signed=value)
        elif name == "normalised":
            model.quantize.normalised = value
        else:
            model.set_heads(name, value)
