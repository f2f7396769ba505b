"""Tokens for training loops in PyTorch, fetched ahead of the loop. Needs the extra `torch`."""

import os
import queue
import tarfile
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypedDict, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed
from torch.utils.data import IterableDataset, default_collate, get_worker_info

from nativetok_client.errors import ModelChangedError, NativetokError
from nativetok_client.info import Info
from nativetok_client.items import ImageLike, Tokens
from nativetok_client.opener import Opener
from nativetok_client.tokenizer import Tokenizer

T = TypeVar("T")
Listed: TypeAlias = "ImageLike | tuple[str, Path]"
"""An image or archive of a list, or a folder's file with its key."""
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".avif", ".gif", ".tif", ".tiff"}
BATCHES_AHEAD = 8
"""Of tokens that lie ready for the loop. A batch is at most 64 rows; those on their way come on top."""


class Sample(TypedDict):
    """One image of a `TokenDataset`."""

    key: str
    """Its path within the folder or archive, or its index in the list."""
    tokens: Tensor
    """int64 [length]."""


class TokenDataset(IterableDataset[Sample]):
    """The tokens of every image of a folder, of tar archives or of a list, made while the training loop runs.

    A thread keeps requests in flight ahead of the loop, so the loop waits only where it is faster than the tokenizer.
    Workers of a `DataLoader`, and the ranks of `torch.distributed` where it is in use, share the images out without
    duplicates. Order is that of the names or the list; shuffle the list, or what comes out, for training.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Sequence[ImageLike],
        tokenizer: str | os.PathLike[str],
        length: int | None = None,
        *,
        api_key: str | None = None,
    ):
        """Look at the source and the tokenizer; nothing is tokenized yet.

        Args:
            source: a folder, whose images are found at any depth; a .tar archive; or a list of images, in which an
                archive stands for all its images
            tokenizer: the address of a service, or a bundle's folder to be run in the loader's processes
            length: tokens an image, by default the model's whole sequence
            api_key: the service's, where it wants one

        Raises FileNotFoundError for a folder or list without images. Iterating raises what `Tokenizer.encode` raises,
        whose `item` then counts within the whole source.
        """
        super().__init__()
        self._source = _listed(source)
        self._tokenizer = Opener(tokenizer, api_key)
        with self._tokenizer.open(_threads()) as opened:
            self.info: Info = opened.info()
        self._length = self.info.check_length(length)

    def __iter__(self) -> Iterator[Sample]:
        """This worker's share of the samples, in order."""
        worker = get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        in_use = distributed.is_available() and distributed.is_initialized()
        ranks, rank = (distributed.get_world_size(), distributed.get_rank()) if in_use else (1, 0)
        keys: deque[str] = deque()

        def images() -> Iterator[ImageLike]:
            for index, (key, image) in enumerate(_images(self._source)):
                if index % (ranks * workers) == rank * workers + number:
                    keys.append(key)
                    yield image() if callable(image) else image

        def batches() -> Iterator[Tokens]:
            with self._tokenizer.open(_threads(workers)) as tokenizer:
                if tokenizer.info().model != self.info.model:
                    raise ModelChangedError(f"the tokenizer is no longer {self.info.model[:16]}…, as it was at first")
                yield from tokenizer.encode_stream(images(), self._length)

        done = 0
        try:
            for tokens in _ahead(batches(), BATCHES_AHEAD):
                for row in torch.from_numpy(tokens.astype(np.int64)):
                    done += 1
                    yield {"key": keys.popleft(), "tokens": row}
        except NativetokError as error:
            if error.item is not None:
                error.add_note(f"the image is {keys[error.item - done]}")
                error.item = error.item * ranks * workers + rank * workers + number
            raise


class TokenCollate:
    """A `collate_fn` that turns the images of a batch into tokens int64 [B, length].

    For data sets that exist already, with samplers and labels: a sample is an image (`ImageLike`), or a tuple that
    begins with one, whose rest is collated as usual. Give the loader workers; without them the loop waits for every
    batch.
    """

    def __init__(self, tokenizer: str | os.PathLike[str], length: int | None = None, *, api_key: str | None = None):
        """Open nothing yet: every worker process opens the tokenizer for itself. Arguments as in `TokenDataset`."""
        self._opener = Opener(tokenizer, api_key)
        self._length = length
        self._opened: tuple[int, Tokenizer] | None = None

    def __call__(self, samples: Sequence[Any]) -> Any:
        """Tokens, or a tuple of tokens and the rest."""
        if self._opened is None or self._opened[0] != os.getpid():
            worker = get_worker_info()
            self._opened = os.getpid(), self._opener.open(_threads(worker.num_workers if worker else 1))
        tuples = isinstance(samples[0], tuple)
        images = [sample[0] for sample in samples] if tuples else samples
        rows = self._opened[1].encode(images, self._length, progress=False)
        tokens = torch.from_numpy(rows.astype(np.int64))
        return (tokens, *default_collate([sample[1:] for sample in samples])) if tuples else tokens

    def __getstate__(self) -> dict[str, Any]:
        """Without what belongs to this process."""
        return {**self.__dict__, "_opened": None}


def _threads(processes: int = 1) -> int:
    """This process's share of the cores."""
    return max(1, len(os.sched_getaffinity(0)) // processes)


def _listed(source: str | os.PathLike[str] | Sequence[ImageLike]) -> Sequence[Listed]:
    """The images and archives of a source; those of a folder with their keys."""
    if not isinstance(source, str | os.PathLike):
        found: Sequence[Listed] = list(source)
    elif Path(source).suffix == ".tar":
        found = [source]
    else:
        folder = Path(source)
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        found = [(path.relative_to(folder).as_posix(), path) for path in paths]
    if len(found) == 0:
        raise FileNotFoundError(f"no image in {source}")
    return found


def _images(listed: Sequence[Listed]) -> Iterator[tuple[str, Any]]:
    """The key of each image, and the image or what reads it."""
    for index, image in enumerate(listed):
        if isinstance(image, tuple):
            yield image
        elif isinstance(image, str | os.PathLike) and Path(image).suffix == ".tar":
            yield from _members(image)
        else:
            yield str(image) if isinstance(image, str | os.PathLike) else str(index), image


def _members(archive: str | os.PathLike[str]) -> Iterator[tuple[str, Any]]:
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and Path(member.name).suffix.lower() in SUFFIXES:
                file = tar.extractfile(member)
                assert file
                yield member.name, file.read


def _ahead(things: Iterable[T], most: int) -> Iterator[T]:
    """Runs an iterator in a thread, at most `most` things ahead of what is taken."""
    ready: queue.Queue[tuple[bool, Any]] = queue.Queue(most)
    stopped = threading.Event()

    def put(last: bool, value: Any) -> bool:
        while not stopped.is_set():
            try:
                ready.put((last, value), timeout=0.1)
                return True
            except queue.Full:
                pass
        return False

    def work() -> None:
        try:
            iterator = iter(things)
            for thing in iterator:
                if not put(False, thing):
                    break
            close = getattr(iterator, "close", None)
            if close:
                close()
            put(True, None)
        except BaseException as error:
            put(True, error)

    thread = threading.Thread(target=work, name="nativetok-ahead", daemon=True)
    thread.start()
    try:
        while True:
            last, value = ready.get()
            if not last:
                yield value
            elif value is not None:
                raise value
            else:
                return
    finally:
        stopped.set()
        thread.join()
