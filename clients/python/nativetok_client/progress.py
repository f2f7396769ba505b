"""The progress bar of long lists."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from nativetok_client.extras import needs

SHORT_SECONDS = 2
"""Faster work needs no bar."""


class Progress(Protocol):
    """Counts finished items."""

    def update(self, n: int) -> object:
        """Counts `n` more."""


class _Silent:
    def update(self, n: int) -> object:
        """Shows nothing."""


def progress_bar(items: object, unit: str, wanted: bool | None) -> AbstractContextManager[Progress]:
    """A tqdm bar over `items`, whose number is shown where they have one.

    By default (None) it appears on a terminal where tqdm is installed and the list takes long. Raises ImportError where
    one is wanted (True) and tqdm is not installed.
    """
    if wanted is False:
        return nullcontext(_Silent())
    try:
        with needs("progress"):
            from tqdm import tqdm
    except ImportError:
        if wanted:
            raise
        return nullcontext(_Silent())
    quiet: dict[str, Any] = {} if wanted else {"disable": None, "delay": SHORT_SECONDS}
    total = len(items) if hasattr(items, "__len__") else None
    bar: AbstractContextManager[Progress] = tqdm(total=total, unit=unit, **quiet)
    return bar
