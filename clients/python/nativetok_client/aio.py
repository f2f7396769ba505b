"""The service for asyncio."""

import io
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from types import TracebackType
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from nativetok_client.errors import ProblemError
from nativetok_client.info import Info
from nativetok_client.items import Images, Pixels, Rows, Tokens, images_in, rows_in
from nativetok_client.pipeline import in_order
from nativetok_client.progress import progress_bar
from nativetok_client.requests import Request, decode_requests, encode_requests, most_items
from nativetok_client.service import Service

CONCURRENCY = 4
PATIENCE = 120.0
NPY = {"Accept": "application/x-npy"}


class AsyncTokenizer:
    """A NativeTok service, for asyncio. `Tokenizer` says what its methods take and give; here they are awaited."""

    def __init__(self, service: Service, info: Info, concurrency: int):
        """Use `AsyncTokenizer.connect`."""
        self._service = service
        self.known = info
        """The model as it was when this tokenizer connected."""
        self._concurrency = concurrency

    @classmethod
    async def connect(
        cls, url: str, api_key: str | None = None, *, concurrency: int = CONCURRENCY, patience: float = PATIENCE
    ) -> "AsyncTokenizer":
        """Connects to a service, as `Tokenizer.connect` does."""
        if concurrency < 1:
            raise ValueError(f"concurrency is {concurrency}; it must be 1 or more")
        service = Service(url, api_key, concurrency, patience)
        try:
            return cls(service, await service.info(patient=False), concurrency)
        except BaseException:
            await service.close()
            raise

    async def encode(self, images: Images, length: int | None = None, *, progress: bool | None = None) -> Tokens:
        """Tokens uint16 [N, length] of N images, in their order."""
        length = self.known.check_length(length)
        rows: list[Tokens] = [np.empty((0, length), np.uint16)]
        with progress_bar(images_in(images), "image", progress) as bar:
            async with aclosing(self.encode_stream(images, length)) as stream:
                async for tokens in stream:
                    rows.append(tokens)
                    bar.update(len(tokens))
        return np.concatenate(rows)

    async def decode(self, tokens: Rows, *, progress: bool | None = None) -> Pixels:
        """Images uint8 [N, H, W, 3] of N rows of tokens, in their order. Rows may differ in length."""
        size = self.known.image_size
        images: list[Pixels] = [np.empty((0, size, size, 3), np.uint8)]
        with progress_bar(rows_in(tokens), "image", progress) as bar:
            async with aclosing(self.decode_stream(tokens)) as stream:
                async for pixels in stream:
                    images.append(pixels)
                    bar.update(len(pixels))
        return np.concatenate(images)

    def encode_stream(self, images: Images, length: int | None = None) -> AsyncGenerator[Tokens, None]:
        """Tokens uint16 [n, length] of one request after the other."""
        length = self.known.check_length(length)
        most = most_items(self.known, self._concurrency)
        requests = encode_requests(images_in(images), self.known, most)
        return self._stream("encode", {"length": length}, requests)

    def decode_stream(self, tokens: Rows) -> AsyncGenerator[Pixels, None]:
        """Images uint8 [n, H, W, 3] of one request after the other."""
        most = most_items(self.known, self._concurrency)
        requests = decode_requests(rows_in(tokens), self.known, most)
        return self._stream("decode", {"model": self.known.model}, requests)

    async def codebook(self) -> NDArray[np.float32]:
        """The vectors float32 [size, dimension] that ids stand for."""
        answer = await self._service.send("GET", "codebook", headers=NPY)
        await self.info()  # the answer does not say whose codebook it is
        return _array(answer)

    async def info(self) -> Info:
        """The current model and limits of the service."""
        return await self._service.info()

    async def close(self) -> None:
        """Closes all connections."""
        await self._service.close()

    async def __aenter__(self) -> "AsyncTokenizer":
        """Itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes all connections."""
        await self.close()

    async def _stream(
        self, path: str, params: dict[str, Any], requests: Iterator[Request]
    ) -> AsyncGenerator[NDArray[Any], None]:
        async def work(request: Request) -> NDArray[Any]:
            body = {**request.body, "headers": {**request.body.get("headers", {}), **NPY}}
            try:
                return _array(await self._service.send("POST", path, params=params, **body))
            except ProblemError as error:
                error.item = _item_in_list(error, request)
                if error.item is not None:
                    error.args = (f"{error} (item {error.item} of the list)",)
                raise

        # Twice the number in flight, so that a slow request does not delay the others.
        async with aclosing(in_order(requests, work, 2 * self._concurrency)) as results:
            async for result in results:
                yield result


def _item_in_list(error: ProblemError, request: Request) -> int | None:
    """Where in the caller's list the item is that the service found at fault in a request."""
    item = error.problem.get("item")
    if isinstance(item, int):
        return request.first + item
    # What is said of a request's bytes, pixels or engine is said of its only item.
    return request.first if request.count == 1 and error.status in (413, 415, 422, 500) else None


def _array(answer: httpx.Response) -> NDArray[Any]:
    array: NDArray[Any] = np.load(io.BytesIO(answer.content), allow_pickle=False)
    return array
