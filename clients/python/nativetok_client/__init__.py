"""Images to ordered tokens and back: a client of the NativeTok service, and the same model in-process."""

from nativetok_client.aio import AsyncTokenizer
from nativetok_client.errors import (
    BundleError,
    ItemError,
    ModelChangedError,
    NativetokError,
    ProblemError,
    UnreachableError,
)
from nativetok_client.info import Info, Limits
from nativetok_client.tokenizer import Tokenizer

__all__ = [
    "AsyncTokenizer",
    "BundleError",
    "Info",
    "ItemError",
    "Limits",
    "ModelChangedError",
    "NativetokError",
    "ProblemError",
    "Tokenizer",
    "UnreachableError",
]
