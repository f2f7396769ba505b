"""Finds what no file says by reconstructing photos under candidates, the likeliest first.

A trained tokenizer under wrong heads or a wrong norm draws noise, so the right candidate stands out.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from nativetok.published.checkpoint import Checkpoint, CheckpointError
from nativetok.published.recognise import Recognised, load
from nativetok.published.tokenizer import Tokenizer, to_uint8

MARGIN = 1.0
"""The margin in dB by which a candidate must beat all others and each photo's mean colour."""
CLEAR = 3.0
"""Margin in dB over each photo's mean colour at which a candidate shows photos; then only those like it are tried."""
USUAL = 64
"""The width of most heads."""
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
    """The candidates that were tried, the best first."""

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
    """Reconstruct photos uint8 [B, S, S, 3] under candidates for what is open.

    From the first that shows photos it goes on to the best of those that differ from it in one thing, and ends where
    none of these is better. So it tries a few dozen of several hundred. If none shows photos, it tries all.
    """
    blank = np.broadcast_to(photos.mean(axis=(1, 2), keepdims=True).round(), photos.shape)
    blank_psnr = mean_psnr(blank, photos)
    search = _Search(recognised, checkpoint, torch.from_numpy(photos))
    with search.bar:
        for values in search.likeliest_first():
            if search.psnr(values) > blank_psnr + CLEAR:
                search.climb(values)
                break
    return ProbeResult(search.candidates(), len(photos), blank_psnr)


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


class _Search:
    """Reconstructs photos under candidates, each once."""

    def __init__(self, recognised: Recognised, checkpoint: Checkpoint, images: torch.Tensor) -> None:
        self.model, self.images = load(recognised, checkpoint), images
        self.choices: dict[str, list[Any]] = {}
        for name in recognised.open:
            value = getattr(recognised.sizes, name)
            self.choices[name] = [False, True] if isinstance(value, bool) else heads_of(value.width)
        self.tried: dict[tuple[Any, ...], float] = {}
        self.codes: dict[tuple[Any, ...], torch.Tensor] = {}
        count = math.prod(map(len, self.choices.values()))
        self.bar = tqdm(total=count, desc="probe", unit=" candidates", disable=None)

    def likeliest_first(self) -> list[dict[str, Any]]:
        """Return all candidates; those whose choices are all near the beginning come first."""
        places = itertools.product(*(range(len(choices)) for choices in self.choices.values()))
        return [
            {name: self.choices[name][place] for name, place in zip(self.choices, combination, strict=True)}
            for combination in sorted(places, key=sum)
        ]

    @torch.no_grad()
    def psnr(self, values: dict[str, Any]) -> float:
        """Return how well a candidate reconstructs the photos, in dB."""
        key = tuple(values.values())
        if key not in self.tried:
            for name, value in values.items():
                _put(self.model, name, value)
            encoding = tuple(values.get(name) for name in ("signed", "encoder", "experts"))
            if encoding not in self.codes:
                self.codes[encoding] = self.model.codes(self.images)
            ids = self.model.quantize.distances(self.codes[encoding]).argmin(-1)
            self.tried[key] = mean_psnr(to_uint8(self.model.draw(ids)).numpy(), self.images.numpy())
            self.bar.update()
        return self.tried[key]

    def climb(self, best: dict[str, Any]) -> None:
        """Go to the best of those that differ in one thing, until none is better."""
        while True:
            found = max(self._like(best), key=self.psnr, default=best)
            if self.psnr(found) <= self.psnr(best):
                return
            best = found

    def candidates(self) -> list[Candidate]:
        """Return what was tried, the best first."""
        found = [Candidate(dict(zip(self.choices, key, strict=True)), psnr) for key, psnr in self.tried.items()]
        return sorted(found, key=lambda candidate: -candidate.psnr)

    def _like(self, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for name, choices in self.choices.items():
            yield from (values | {name: choice} for choice in choices if choice != values[name])


def heads_of(width: int) -> list[int]:
    """Numbers of heads that a transformer of this width may have, those that make heads of the usual width first."""
    narrowest = NARROWEST if width >= 256 else NARROWEST // 2
    heads = [n for n in range(1, width + 1) if width % n == 0 and narrowest <= width // n <= max(WIDEST, narrowest)]
    return sorted(heads, key=lambda n: abs(math.log2(width / n / USUAL)))


def _put(model: Tokenizer, name: str, value: Any) -> None:
    if name == "signed":
        model.sizes = replace(model.sizes, signed=value)
    elif name == "normalised":
        model.quantize.normalised = value
    else:
        model.set_heads(name, value)
