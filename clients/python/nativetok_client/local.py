"""A bundle in this process."""

import os
from collections.abc import Generator, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nativetok_client.bundle import read_bundle
from nativetok_client.errors import ItemError
from nativetok_client.graphs import Graphs
from nativetok_client.info import Info
from nativetok_client.items import Images, Pixels, Row, Rows, Tokens, images_in, row_of, rows_in
from nativetok_client.photos import pixels_of
from nativetok_client.tokenizer import Tokenizer

T = TypeVar("T")
BATCH = 32
"""Items of a run: with more, a CPU gains nothing and memory grows."""


class LocalTokenizer(Tokenizer):
    """A bundle that this process runs. Threads may share it."""

    def __init__(self, folder: str | os.PathLike[str], threads: int | None):
        """Use `Tokenizer.open`."""
        self._bundle = read_bundle(Path(folder))
        self._graphs: Graphs | None = Graphs(self._bundle, threads)

    def encode_stream(self, images: Images, length: int | None = None) -> Generator[Tokens, None, None]:
        """As `Tokenizer` says, 32 images at once."""
        length = self._known.check_length(length)
        if self._known.kind == "parallel" and length != self._known.length:
            raise ValueError(f"{self._known.name} has no order of tokens; length must be {self._known.length}")
        how = self._known.preparation
        pixels = (pixels_of(image, item, how) for item, image in enumerate(images_in(images)))
        for batch in _batches(pixels):
            yield self._open.encode(np.stack(batch), length)

    def decode_stream(self, tokens: Rows) -> Generator[Pixels, None, None]:
        """As `Tokenizer` says, 32 rows at once."""
        for batch in _batches(self._whole(row, item) for item, row in enumerate(rows_in(tokens))):
            yield self._open.decode(np.stack(batch))

    def codebook(self) -> NDArray[np.float32]:
        """As `Tokenizer` says."""
        return self._bundle.codebook.copy()

    def info(self) -> Info:
        """As `Tokenizer` says."""
        return self._known

    def close(self) -> None:
        """Unloads the graphs."""
        self._graphs = None

    @property
    def _known(self) -> Info:
        return self._bundle.info

    @property
    def _open(self) -> Graphs:
        if self._graphs is None:
            raise RuntimeError("the tokenizer is closed")
        return self._graphs

    def _whole(self, row: Row, item: int) -> NDArray[np.int32]:
        """A row int32 [L], filled up with the id that means absent. Raises ItemError for ids that do not exist."""
        ids: NDArray[Any] = row_of(row, item)
        info = self._known
        least = 1 if info.prefixes else info.length
        if not least <= len(ids) <= info.length:
            allowed = f"1 to {info.length}" if info.prefixes else f"exactly {info.length}"
            raise ItemError(f"row {item} has {len(ids)} tokens; it must have {allowed}", item)
        wrong = np.flatnonzero((ids < 0) | (ids >= info.codebook_size))
        if len(wrong) > 0:
            said = f"row {item} has {ids[wrong[0]]} at position {wrong[0]}"
            raise ItemError(f"{said}; tokens are from 0 to {info.codebook_size - 1}", item)
        whole = np.full(info.length, info.codebook_size, np.int32)
        whole[: len(ids)] = ids
        return whole


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, BATCH)):
        yield batch
