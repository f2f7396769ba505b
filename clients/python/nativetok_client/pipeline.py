"""Work on many things at once whose results come in order."""

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def in_order(things: Iterator[T], work: Callable[[T], Awaitable[R]], ahead: int) -> AsyncGenerator[R, None]:
    """Works on things as they come, at most `ahead` further than what was taken, and yields results in their order.

    Things are fetched in a thread, since fetching may read files. Whatever ends it, what is under way is cancelled. An
    error is raised when its turn has come, so that of several the first in the list is heard of.
    """
    under_way: deque[asyncio.Task[R]] = deque()
    failure: Exception | None = None
    more = True

    def fetch() -> list[T]:
        return list(itertools.islice(things, 1))

    try:
        while True:
            while more and len(under_way) < ahead:
                try:
                    fetched = await asyncio.to_thread(fetch)
                except Exception as error:
                    failure, fetched = error, []
                more = bool(fetched)
                under_way.extend(asyncio.ensure_future(work(thing)) for thing in fetched)
            if not under_way:
                break
            yield await under_way[0]
            under_way.popleft()
        if failure:
            raise failure
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
