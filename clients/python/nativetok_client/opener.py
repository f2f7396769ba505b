"""A tokenizer that each process opens for itself."""

import os

from nativetok_client.tokenizer import Tokenizer


class Opener:
    """A tokenizer by the address of a service or the folder of a bundle."""

    def __init__(self, where: str | os.PathLike[str], api_key: str | None):
        self._where = where
        self._api_key = api_key

    def open(self, threads: int) -> Tokenizer:
        """Opens it. A bundle's graphs run on that many threads."""
        if isinstance(self._where, str) and self._where.startswith(("http://", "https://")):
            return Tokenizer.connect(self._where, self._api_key)
        return Tokenizer.open(self._where, threads=threads)
