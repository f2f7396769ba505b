"""What every tokenizer offers, wherever its model runs."""

import os
from abc import ABC, abstractmethod
from collections.abc import Generator
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nativetok_client.aio import CONCURRENCY, PATIENCE
from nativetok_client.extras import needs
from nativetok_client.info import Info
from nativetok_client.items import Images, Pixels, Rows, Tokens, images_in, rows_in
from nativetok_client.progress import progress_bar

if TYPE_CHECKING:
    from nativetok_client.local import LocalTokenizer
    from nativetok_client.remote import RemoteTokenizer


class Tokenizer(ABC):
    """Images to ordered tokens and back.

    `Tokenizer.connect(url)` uses a running service, `Tokenizer.open(folder)` runs a bundle in this process. Either is a
    context manager. Tokens of one model mean nothing to another; `info().model` names it.
    """

    @staticmethod
    def connect(
        url: str, api_key: str | None = None, *, concurrency: int = CONCURRENCY, patience: float = PATIENCE
    ) -> "RemoteTokenizer":
        """Connects to a service, whose model is from then on the only one that this tokenizer accepts.

        Long lists are cut into requests within the service's limits, at most `concurrency` of them in flight. A request
        that is turned away (429, 503) is sent again when the service says so, one whose connection failed after a short
        while; after `patience` seconds of that its error is raised. Nothing that was answered is sent again.

        Raises UnreachableError at once where no service answers, ProblemError where it refuses (a wrong API key).
        """
        from nativetok_client.remote import RemoteTokenizer

        return RemoteTokenizer(url, api_key, concurrency=concurrency, patience=patience)

    @staticmethod
    def open(folder: str | os.PathLike[str], *, threads: int | None = None) -> "LocalTokenizer":
        """Opens a bundle and runs it in this process, on the CPU. Needs the extra `local`.

        Args:
            folder: a bundle, as in `models/nativetok-128`
            threads: threads for a graph; by default as many as there are cores for this process

        Raises BundleError where a file is not what the manifest says.
        """
        with needs("local"):
            from nativetok_client.local import LocalTokenizer

        return LocalTokenizer(folder, threads)

    @abstractmethod
    def encode_stream(self, images: Images, length: int | None = None) -> Generator[Tokens, None, None]:
        """Like `encode`, for lists that do not fit into memory: yields uint16 [n, length], in order, n as it suits.

        Images are taken from the iterable only a little ahead of what is yielded.
        """

    @abstractmethod
    def decode_stream(self, tokens: Rows) -> Generator[Pixels, None, None]:
        """Like `decode`, for lists that do not fit into memory: yields uint8 [n, H, W, 3], in order, n as it suits."""

    @abstractmethod
    def codebook(self) -> NDArray[np.float32]:
        """The vectors float32 [size, dimension] that ids stand for, to initialise an embedding."""

    @abstractmethod
    def info(self) -> Info:
        """The model, its sizes and, of a service, its limits."""

    @abstractmethod
    def close(self) -> None:
        """Releases everything. The tokenizer cannot be used any more."""

    def encode(self, images: Images, length: int | None = None, *, progress: bool | None = None) -> Tokens:
        """Tokens uint16 [N, length] of N images, in their order.

        Args:
            images: paths, contents of files, arrays uint8 [H, W, 3] or Pillow images, in any mixture; or one array
                uint8 [N, H, W, 3]; or one image, which counts as a list of one. JPEG, PNG, WebP, AVIF, GIF and TIFF.
            length: tokens an image, by default the model's whole sequence. Of a causal model they are the first ones of
                the whole sequence.
            progress: whether to show a bar; by default on a terminal, when it takes long.

        Raises ProblemError (of a service) or ItemError, whose `item` is the index of the image at fault; ValueError for
        a length that the model does not have.
        """
        length = self._known.check_length(length)
        rows: list[Tokens] = [np.empty((0, length), np.uint16)]
        with progress_bar(images_in(images), "image", progress) as bar:
            for tokens in self.encode_stream(images, length):
                rows.append(tokens)
                bar.update(len(tokens))
        return np.concatenate(rows)

    def decode(self, tokens: Rows, *, progress: bool | None = None) -> Pixels:
        """Images uint8 [N, H, W, 3] of N rows of tokens, in their order.

        Args:
            tokens: integers [N, length], or rows of any lengths from 1 to the model's; one row counts as a list of one
            progress: whether to show a bar; by default on a terminal, when it takes long

        Raises ProblemError (of a service) or ItemError, whose `item` is the index of the row at fault.
        """
        size = self._known.image_size
        images: list[Pixels] = [np.empty((0, size, size, 3), np.uint8)]
        with progress_bar(rows_in(tokens), "image", progress) as bar:
            for pixels in self.decode_stream(tokens):
                images.append(pixels)
                bar.update(len(pixels))
        return np.concatenate(images)

    @property
    @abstractmethod
    def _known(self) -> Info:
        """The model as it was when this tokenizer was made."""

    def __enter__(self) -> "Tokenizer":
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Releases everything."""
        self.close()
