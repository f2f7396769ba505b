"""One service over HTTP: when a request is tried again, what its errors are, and which model its tokens belong to."""

import asyncio
import itertools
import json
import random
import ssl
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from importlib.metadata import version
from typing import Any

import httpx

from nativetok_client.errors import ModelChangedError, ProblemError, UnreachableError
from nativetok_client.info import Info

# Encode and decode are functions of what they are sent, so a request of which no answer came may be sent again.
BROKEN = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError, httpx.ProxyError)
TURNED_AWAY = (429, 502, 503)
"""Statuses that mean nothing was done; a proxy sends 502 when its connection to the service failed."""
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0
CONNECT_SECONDS = 10.0
SPARE_SECONDS = 15.0
"""Over the service's own deadline, which it keeps itself: who waits longer waits for nobody."""


@cache
def tls() -> ssl.SSLContext:
    """What connections by TLS trust; made once in a process and those forked from it.

    It takes OpenSSL's locks, which a thread that is just ending may hold when a process forks: a data loader's worker
    that made its own then waited for ever.
    """
    return httpx.create_ssl_context()


class Service:
    """Sends requests, a bounded number at once, again where they were turned away or broke off."""

    def __init__(self, url: str, api_key: str | None, concurrency: int, patience: float):
        """Connect to nothing yet."""
        headers = {"User-Agent": f"nativetok-client/{version('nativetok-client')}"}
        if api_key is not None:
            headers["Authorization"] = f"Bearer {api_key}"
        self._url = url
        self._patience = patience
        self._slots = asyncio.Semaphore(concurrency)
        self._not_before = 0.0
        self._model: str | None = None
        self._client = httpx.AsyncClient(
            base_url=url.rstrip("/") + "/",
            headers=headers,
            verify=tls(),
            timeout=httpx.Timeout(CONNECT_SECONDS, pool=None),
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
        )

    async def info(self, *, patient: bool = True) -> Info:
        """`GET /info`. Where not `patient`, a service that is not there is an error at once."""
        answer = await self.send("GET", "info", patient=patient)
        info = Info.of_answer(answer.json())
        assert info.limits
        self._client.timeout = httpx.Timeout(
            info.limits.request_seconds + SPARE_SECONDS, connect=CONNECT_SECONDS, pool=None
        )
        self._pin(info.model)
        return info

    async def send(self, method: str, path: str, *, patient: bool = True, **request: Any) -> httpx.Response:
        """Sends a request until it is answered.

        Raises ProblemError for an error's answer, ModelChangedError for one of another model than before,
        UnreachableError where none came in time. A 429 or 503 is waited out as `Retry-After` says, as far as patience
        reaches.
        """
        async with self._slots:
            give_up = time.monotonic() + self._patience
            for attempt in itertools.count():
                await asyncio.sleep(self._not_before - time.monotonic())
                try:
                    response = await self._client.request(method, path, **request)
                except BROKEN as error:
                    failure: Exception = UnreachableError(f"{self._url} cannot be reached: {_said(error)}")
                    failure.__cause__ = error
                    pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt) * random.uniform(0.5, 1)
                    patient_now = patient
                except httpx.TransportError as error:
                    raise UnreachableError(f"{self._url} cannot be reached: {_said(error)}") from error
                else:
                    if "x-model" in response.headers:
                        self._pin(response.headers["x-model"])
                    if response.is_success:
                        return response
                    failure = _problem(response)
                    if response.status_code not in TURNED_AWAY:
                        raise failure
                    pause = retry_after(response.headers.get("retry-after"))
                    # It is the same for every request of this client.
                    self._not_before = max(self._not_before, time.monotonic() + pause)
                    patient_now = True
                if not patient_now or time.monotonic() + pause > give_up:
                    raise failure
                await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """Closes all connections."""
        await self._client.aclose()

    def _pin(self, model: str) -> None:
        if self._model is None:
            self._model = model
        elif model != self._model:
            raise ModelChangedError(
                f"{self._url} now has model {model[:16]}…, not {self._model[:16]}… as before; their tokens do not mix"
            )


def retry_after(value: str | None) -> float:
    """Seconds that a `Retry-After` header asks for, in either of its forms; 1 if it is missing or invalid."""
    if value is None:
        return 1.0
    try:
        return max(0.0, float(int(value)))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return 1.0


def _problem(response: httpx.Response) -> ProblemError:
    """The problem document of an error's answer, or a substitute if a proxy answered."""
    try:
        problem = response.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        problem = None
    if not isinstance(problem, Mapping) or "title" not in problem:
        problem = {"type": "about:blank", "title": response.reason_phrase, "detail": response.text[:200]}
    message = f"{response.status_code} {problem['title']}: {problem.get('detail', '')}"
    return ProblemError(message, status=response.status_code, problem=problem)


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
