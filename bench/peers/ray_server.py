"""Ray Serve with dynamic batching by `@serve.batch`."""

import argparse
import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import ray
from model import Model, to_png
from numpy.typing import NDArray
from ray import serve
from ray.serve.schema import LoggingConfig
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

MAX_BATCH = 32
WAIT_SECONDS = 0.01


# More ongoing requests than a batch holds, as the documentation requires, and enough that none is refused.
@serve.deployment(max_ongoing_requests=512)
class NativeTok:
    def __init__(self, folder: Path) -> None:
        self._model = Model(folder)
        self._model.warm_up(MAX_BATCH)

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=WAIT_SECONDS)
    async def _encode(self, images: list[NDArray[np.uint8]]) -> list[NDArray[np.int32]]:
        return list(await asyncio.to_thread(self._model.encode, np.stack(images)))

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=WAIT_SECONDS)
    async def _decode(self, rows: list[NDArray[np.int32]]) -> list[NDArray[np.uint8]]:
        return list(await asyncio.to_thread(self._model.decode, rows))

    async def __call__(self, request: Request) -> Response:
        if request.url.path == "/encode":
            row: Any = await self._encode(await asyncio.to_thread(self._model.pixels, await request.body()))
            return JSONResponse({"tokens": [row.tolist()]})
        if request.url.path == "/decode":
            pixels: Any = await self._decode(np.array((await request.json())["tokens"], np.int32))
            return Response(await asyncio.to_thread(to_png, pixels), media_type="image/png")
        return JSONResponse({"status": "live"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="the bundle's folder")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--cores", type=int, required=True, help="replicas: one a core")
    options = parser.parse_args()
    ray.init(num_cpus=options.cores, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": options.port})
    app = NativeTok.options(num_replicas=options.cores).bind(options.model.resolve())
    serve.run(app, blocking=True, logging_config=LoggingConfig(enable_access_log=False))


main()
