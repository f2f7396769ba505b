"""Lists that are larger than what the service takes at once."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import FIXTURES, PHOTOS, SMALL, Service

from nativetok_client import ProblemError, Tokenizer
from nativetok_client.items import Pixels, Tokens
from nativetok_client.requests import most_items

LIMITS = ["--max-images", "10", "--queue-limit", "24", "--body-limit", "150KiB", "--json-body-limit", "2KiB"]


@pytest.fixture(scope="module")
def narrow() -> Iterator[Service]:
    """A service that takes 10 items, 3 arrays or 3 long ragged rows a request."""
    service = Service(*LIMITS, *SMALL)
    yield service
    service.end()


@pytest.fixture
def refused(narrow: Service) -> Iterator[None]:
    """Holds that the service finds no request too large. A machine that is busy with other things may be too slow."""
    kinds = ("too-many-bytes", "too-many-images", "malformed")
    yield
    assert [kind for kind in kinds if narrow.metric("nativetok_errors_total", kind=kind)] == []


@pytest.mark.usefixtures("refused")
def test_lists_larger_than_every_limit_are_cut(narrow: Service, known: Tokens, pixels: Pixels) -> None:
    with Tokenizer.connect(narrow.url) as tokenizer:
        info = tokenizer.info()
        assert info.limits
        assert (info.limits.images, info.limits.body_bytes, info.limits.json_body_bytes) == (10, 150 * 1024, 2048)
        files = [path.read_bytes() for path in PHOTOS]
        assert sum(map(len, files)) > info.limits.body_bytes
        assert np.array_equal(tokenizer.encode(files, 3), known[:, :3]), "files over images and bytes"
        assert pixels.nbytes > info.limits.body_bytes
        assert np.array_equal(tokenizer.encode(pixels, 3), known[:, :3]), "arrays over bytes"
        expected = tokenizer.decode(known)
        assert len(known) > info.limits.images
        ragged = [row[: 128 - i] for i, row in enumerate(known[:15])]
        assert sum(len(str(row.tolist())) for row in ragged) > info.limits.json_body_bytes
        images = tokenizer.decode([*ragged, *known[15:]])
        assert np.array_equal(images[15:], expected[15:]), "ragged rows over the JSON limit"
        assert np.array_equal(images[0], expected[0])


@pytest.mark.usefixtures("refused")
def test_many_requests_at_once_are_made_to_fit_into_the_queue(narrow: Service, known: Tokens, pixels: Pixels) -> None:
    with Tokenizer.connect(narrow.url, concurrency=12) as tokenizer:
        assert most_items(tokenizer.info(), 12) == 2
        assert np.array_equal(tokenizer.encode(pixels, 3), known[:, :3])


def test_one_image_that_is_too_large_is_named(narrow: Service) -> None:
    large: Path = FIXTURES / "formats" / "6000x4000.jpg"
    assert large.stat().st_size > 150 * 1024
    with Tokenizer.connect(narrow.url) as tokenizer:
        with pytest.raises(ProblemError) as caught:
            tokenizer.encode([*PHOTOS, large, *PHOTOS], 1)
        assert (caught.value.item, caught.value.status) == (len(PHOTOS), 413)
        assert "too-many-bytes" in caught.value.type
