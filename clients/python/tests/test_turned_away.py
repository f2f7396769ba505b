"""Requests that the service does not take now: 429, 503, 401."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import numpy as np
import pytest
from conftest import PHOTOS, SMALL, RateLimited, Service, Start

from nativetok_client import AsyncTokenizer, ProblemError, Tokenizer
from nativetok_client.items import Pixels, Tokens
from nativetok_client.service import retry_after


@pytest.fixture(scope="module")
def full() -> Iterator[Service]:
    """A service whose queue one request fills."""
    service = Service("--queue-limit", "16", "--max-images", "16", *SMALL)
    yield service
    service.end()


def test_503_is_waited_out(full: Service, known: Tokens, pixels: Pixels) -> None:
    images = np.tile(pixels, (3, 1, 1, 1))
    results: list[Tokens] = []

    def encode() -> None:
        with Tokenizer.connect(full.url, concurrency=2) as tokenizer:
            results.append(tokenizer.encode(images, 8))

    # Each fills the queue by itself.
    clients = [threading.Thread(target=encode) for _ in range(3)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert full.metric("nativetok_errors_total", kind="overloaded") > 0, "the queue was never full"
    assert len(results) == len(clients)
    for tokens in results:
        assert np.array_equal(tokens, np.tile(known[:, :8], (3, 1)))


def test_503_is_raised_when_patience_ends(full: Service, pixels: Pixels) -> None:
    async def crowd() -> None:
        async with (
            await AsyncTokenizer.connect(full.url, concurrency=1, patience=0) as one,
            await AsyncTokenizer.connect(full.url, concurrency=1, patience=0) as other,
        ):
            results = await asyncio.gather(one.encode(pixels), other.encode(pixels), return_exceptions=True)
        (error,) = (result for result in results if isinstance(result, ProblemError))
        assert (error.status, error.item) == (503, None)
        assert error.type.endswith(":overloaded")

    asyncio.run(crowd())


def test_a_key_is_sent_and_a_wrong_one_refused(start: Start, known: Tokens) -> None:
    service = start("--api-key", "open-sesame-of-32-characters-here", *SMALL)
    with Tokenizer.connect(service.url, "open-sesame-of-32-characters-here") as tokenizer:
        assert np.array_equal(tokenizer.encode(PHOTOS[0]), known[:1])
    for key in (None, "wrong"):
        with pytest.raises(ProblemError) as caught:
            Tokenizer.connect(service.url, key)
        assert caught.value.status == 401


def test_retry_after_is_read_in_both_its_forms() -> None:
    assert retry_after("7") == 7
    assert 7 < retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=9), usegmt=True)) < 9.1
    assert retry_after("Mon, 01 Jan 2024 00:00:00 GMT") == 0
    assert retry_after(None) == retry_after("soon") == 1


# The last of all: the minute began before the first test.
def test_429_is_waited_out_as_long_as_the_service_says(rate_limited: Future[RateLimited], known: Tokens) -> None:
    seen = rate_limited.result(90)
    assert (seen.refusal.status, seen.refusal.type) == (429, "urn:nativetok:problem:rate-limited")
    assert np.array_equal(seen.tokens, known[:2, :4])
    assert 30 < seen.seconds < 75
    assert seen.refusals == 2, "it asked again before the time that it was told"
