"""The service for code without asyncio: an event loop in a thread of its own does the work."""

import asyncio
import os
import sys
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nativetok_client.aio import AsyncTokenizer
from nativetok_client.info import Info
from nativetok_client.items import Images, Pixels, Rows, Tokens
from nativetok_client.service import tls
from nativetok_client.tokenizer import Tokenizer

T = TypeVar("T")
ENDING_SECONDS = 5
"""For what was interrupted to close its connections."""


class RemoteTokenizer(Tokenizer):
    """A NativeTok service. Threads may share it; processes may not."""

    def __init__(self, url: str, api_key: str | None, *, concurrency: int, patience: float):
        """Use `Tokenizer.connect`."""
        tls()  # here, so that the thread has nothing of OpenSSL's to give back when it ends
        self._loop = _Loop()
        try:
            connecting = AsyncTokenizer.connect(url, api_key, concurrency=concurrency, patience=patience)
            self._tokenizer = self._loop.run(connecting)
        except BaseException:
            self._loop.stop()
            raise

    def encode_stream(self, images: Images, length: int | None = None) -> Generator[Tokens, None, None]:
        """As `Tokenizer` says. Requests go on while the caller is busy with what was yielded."""
        return self._loop.iterate(self._tokenizer.encode_stream(images, length))

    def decode_stream(self, tokens: Rows) -> Generator[Pixels, None, None]:
        """As `Tokenizer` says. Requests go on while the caller is busy with what was yielded."""
        return self._loop.iterate(self._tokenizer.decode_stream(tokens))

    def codebook(self) -> NDArray[np.float32]:
        """As `Tokenizer` says."""
        return self._loop.run(self._tokenizer.codebook())

    def info(self) -> Info:
        """As `Tokenizer` says; asks the service again."""
        return self._loop.run(self._tokenizer.info())

    def close(self) -> None:
        """Closes all connections."""
        if not self._loop.stopped:
            self._loop.run(self._tokenizer.close())
            self._loop.stop()

    @property
    def _known(self) -> Info:
        return self._tokenizer.known


async def _cancel_others() -> None:
    """Ends the loop's remaining work, such as a stream that is no longer read."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    loop = asyncio.get_running_loop()
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()


class _Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="nativetok-client", daemon=True)
        self._thread.start()
        self.stopped = False

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine to its end. Whatever interrupts the caller, as Ctrl-C does, cancels it."""
        if self.stopped or os.getpid() != self._process:
            coroutine.close()
            reason = "is closed" if self.stopped else "belongs to another process; open one in each"
            raise RuntimeError(f"the tokenizer {reason}")
        ended = threading.Event()

        async def work() -> T:
            try:
                return await coroutine
            finally:
                ended.set()

        future = asyncio.run_coroutine_threadsafe(work(), self._loop)
        try:
            return future.result()
        except BaseException:
            if not future.done():
                future.cancel()
                ended.wait(ENDING_SECONDS)
            raise

    def iterate(self, stream: AsyncGenerator[T, None]) -> Generator[T, None, None]:
        """Yields what an asynchronous generator yields."""
        done = object()

        async def step() -> Any:
            return await anext(stream, done)

        try:
            while (value := self.run(step())) is not done:
                yield value
        finally:
            # When the interpreter ends, the thread is gone and there would be no answer.
            if not self.stopped and not sys.is_finalizing():
                self.run(stream.aclose())

    def stop(self) -> None:
        """Ends the thread."""
        self.run(_cancel_others())
        self.stopped = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
