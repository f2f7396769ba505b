"""What can go wrong, as exceptions. All of them are `NativetokError`."""

from collections.abc import Mapping
from typing import Any


class NativetokError(Exception):
    """Any failure that this package raises itself."""

    item: int | None
    """Index in the caller's list of the image or row at fault, where it is one item's fault."""

    def __init__(self, message: str, item: int | None = None):
        super().__init__(message)
        self.item = item


class ProblemError(NativetokError):
    """The service refused a request or failed at it, and said why."""

    status: int
    """The HTTP status."""
    problem: Mapping[str, Any]
    """The service's problem document (RFC 9457), as it came: `type`, `title`, `detail`, `requestId`, `item` and more.

    Its own `item` counts within one request; the exception's `item` counts within the caller's list.
    """

    def __init__(
        self,
        message: str,
        item: int | None = None,
        *,
        status: int = 0,
        problem: Mapping[str, Any] | None = None,
    ):
        super().__init__(message, item)
        self.status = status
        self.problem = problem or {}

    @property
    def type(self) -> str:
        """The stable name of the kind of problem, as in `urn:nativetok:problem:undecodable-image`."""
        return str(self.problem.get("type", "about:blank"))

    @property
    def position(self) -> int | None:
        """Index of the token at fault in its row, where it is one token's fault."""
        position = self.problem.get("position")
        return position if isinstance(position, int) else None


class ItemError(NativetokError, ValueError):
    """An image or row cannot be used, and no service had to be asked: a missing file, an array of another type."""


class ModelChangedError(NativetokError):
    """The service now has another model than before, whose tokens mean something else. Connect again."""


class UnreachableError(NativetokError):
    """The service could not be reached, or broke off, for longer than the client's patience."""


class BundleError(NativetokError):
    """A bundle's folder is not what its manifest says, or is of a format that this package does not read."""
