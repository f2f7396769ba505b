"""Optional packages."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Says which extra brings a package that cannot be imported in here."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{error}; it comes with: pip install 'nativetok-client[{extra}]'") from error
