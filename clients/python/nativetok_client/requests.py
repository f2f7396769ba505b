"""Long lists cut into requests that the service takes."""

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nativetok_client.info import Info
from nativetok_client.items import ImageLike, Pixels, Row, part_of, row_of

MOST_ITEMS = 64
"""Items of a request, at most: enough to keep engines busy, few enough to be done well within a deadline. The service
puts those of several requests into one batch."""
PART_OVERHEAD = 256
"""Bytes that a part of a multipart body takes beside its content, at most."""
HEADER_BYTES = 128
"""Of a .npy file whose array has few dimensions."""


@dataclass(frozen=True)
class Request:
    """Consecutive items of a list, ready to be sent."""

    first: int
    """Index in the list of the first of them."""
    count: int
    body: dict[str, Any]
    """Arguments of httpx."""


def most_items(info: Info, concurrency: int) -> int:
    """Items to send in a request, so that as many requests as may be in flight fit into the service's queue."""
    assert info.limits
    return max(1, min(MOST_ITEMS, info.limits.images, info.limits.queue // concurrency))


def encode_requests(images: Iterable[ImageLike], info: Info, most: int) -> Iterator[Request]:
    """Cuts images into requests of at most `most` items and the service's bytes. Files are read as they are needed.

    An image that is too large for any request goes alone, and the service says so. Raises ItemError for what is no
    image.
    """
    assert info.limits
    group: list[bytes | Pixels] = []
    size = first = 0
    for item, image in enumerate(images):
        part = part_of(image, item, info.image_size)
        of_files = isinstance(part, bytes)
        added = len(part) + PART_OVERHEAD if isinstance(part, bytes) else part.nbytes
        overhead = PART_OVERHEAD if of_files else HEADER_BYTES
        other_kind = bool(group) and isinstance(group[0], bytes) != of_files
        if group and (other_kind or len(group) == most or size + added + overhead > info.limits.body_bytes):
            yield Request(first, len(group), _images_body(group))
            group, size, first = [], 0, item
        group.append(part)
        size += added
    if group:
        yield Request(first, len(group), _images_body(group))


def decode_requests(rows: Iterable[Row], info: Info, most: int) -> Iterator[Request]:
    """Cuts rows of tokens into requests. Those of one length go as NumPy, ragged ones as JSON within its own limit.

    Raises ItemError for what is no row of integers.
    """
    assert info.limits
    group: list[NDArray[np.integer[Any]]] = []
    size = first = 0
    for item, row in enumerate(rows):
        ids = row_of(row, item)
        # As JSON, the larger of the two: an id, its comma and the row's brackets.
        added = len(json.dumps(ids.tolist(), separators=(",", ":"))) + 1
        if group and (len(group) == most or size + added + HEADER_BYTES > _rows_limit(info)):
            yield Request(first, len(group), _rows_body(group))
            group, size, first = [], 0, item
        group.append(ids)
        size += added
    if group:
        yield Request(first, len(group), _rows_body(group))


def _rows_limit(info: Info) -> int:
    assert info.limits
    return min(info.limits.json_body_bytes, info.limits.body_bytes)


def _images_body(parts: list[bytes | Pixels]) -> dict[str, Any]:
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    if arrays:
        return _npy_body(np.stack(arrays))
    return {"files": [("images", (str(i), part)) for i, part in enumerate(parts)]}


def _rows_body(rows: list[NDArray[np.integer[Any]]]) -> dict[str, Any]:
    equal = len({len(row) for row in rows}) == 1
    # A row without tokens is refused by name only where it stands in JSON.
    if equal and len(rows[0]) > 0 and all(_is_uint16(row) for row in rows):
        return _npy_body(np.stack(rows).astype("<u2"))
    text = json.dumps({"tokens": [row.tolist() for row in rows]}, separators=(",", ":"))
    return {"content": text.encode(), "headers": {"Content-Type": "application/json"}}


def _is_uint16(ids: NDArray[np.integer[Any]]) -> bool:
    return bool(ids.min() >= 0 and ids.max() <= np.iinfo(np.uint16).max)


def _npy_body(array: NDArray[Any]) -> dict[str, Any]:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return {"content": file.getvalue(), "headers": {"Content-Type": "application/x-npy"}}
