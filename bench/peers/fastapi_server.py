"""FastAPI with onnxruntime; the environment's MODEL is the bundle's folder.

`plain_app` is its usual form: blocking work in plain `def` endpoints, which FastAPI runs in its thread pool.
`batching_app` has asynchronous endpoints, and a queue from which whatever waits, up to 32, is run as one batch.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from model import Model, to_png
from pydantic import BaseModel

MAX_BATCH = 32


class Tokens(BaseModel):
    tokens: list[list[int]]


class Sequence(BaseModel):
    tokens: list[int]


async def body_of(request: Request) -> bytes:
    return await request.body()


Body = Annotated[bytes, Depends(body_of)]


class Batcher:
    """Gathers single items into batches: each holds what arrived while the one before ran."""

    def __init__(self, run: Callable[[list[Any]], Any]) -> None:
        self._run = run
        self._queue: asyncio.Queue[tuple[Any, asyncio.Future[Any]]] = asyncio.Queue()
        self._worker: asyncio.Task[None] | None = None

    def __call__(self, item: Any) -> Awaitable[Any]:
        self._worker = self._worker or asyncio.create_task(self._work())
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((item, future))
        return future

    async def _work(self) -> None:
        while True:
            batch = [await self._queue.get()]
            while len(batch) < MAX_BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            try:
                outputs = await run_in_threadpool(self._run, [item for item, _ in batch])
                for (_, future), output in zip(batch, outputs, strict=True):
                    future.set_result(output)
            except Exception as error:
                for _, future in batch:
                    future.set_exception(error)


def plain_app() -> FastAPI:
    app, model = start(1)

    @app.post("/encode")
    def encode(body: Body) -> Tokens:
        return Tokens(tokens=model.encode(model.pixels(body)[None]).tolist())

    @app.post("/decode")
    def decode(body: Sequence) -> Response:
        pixels = model.decode([np.array(body.tokens, np.int32)])[0]
        return Response(to_png(pixels), media_type="image/png")

    return app


def batching_app() -> FastAPI:
    app, model = start(MAX_BATCH)
    encode_batch = Batcher(lambda images: model.encode(np.stack(images)))
    decode_batch = Batcher(model.decode)

    @app.post("/encode")
    async def encode(body: Body) -> Tokens:
        row = await encode_batch(await run_in_threadpool(model.pixels, body))
        return Tokens(tokens=[row.tolist()])

    @app.post("/decode")
    async def decode(body: Sequence) -> Response:
        pixels = await decode_batch(np.array(body.tokens, np.int32))
        return Response(await run_in_threadpool(to_png, pixels), media_type="image/png")

    return app


def start(batch: int) -> tuple[FastAPI, Model]:
    """An application with a liveness route, and a model warmed up for batches of this size."""
    model = Model(Path(os.environ["MODEL"]))
    model.warm_up(batch)
    app = FastAPI()

    @app.get("/health/live")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    return app, model
