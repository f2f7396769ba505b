"""Tokens in Ray Data, made by actors. Needs the extra `ray`."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from nativetok_client.errors import ItemError, ModelChangedError
from nativetok_client.items import Pixels, Tokens
from nativetok_client.opener import Opener
from nativetok_client.views import Crops, check_views, views_of

COLUMNS = {"view": pa.int16(), "tokens": pa.list_(pa.uint16()), "error": pa.string()}
"""What takes the place of the images."""


class Tokenize:
    """For `Dataset.map_batches`: images to tokens, a row for each view.

        images.map_batches(Tokenize, fn_constructor_args=["models/nativetok-128"], batch_format="pyarrow",
                           num_cpus=1, compute=ray.data.ActorPoolStrategy(size=4))

    The column of images gives way to `view` int16, `tokens` list<uint16> and `error` string; all others are kept, their
    values repeated for each view. An image that cannot be read or decoded stops nothing: it becomes one row, whose
    `error` says why and whose `view` and `tokens` are null. Whatever else goes wrong is raised.

    Pixels are prepared in the actor with Pillow, so a bundle and a service with that bundle give the same tokens.
    """

    def __init__(
        self,
        tokenizer: str | os.PathLike[str],
        *,
        image: str = "bytes",
        length: int | None = None,
        crops: Crops = "centre",
        flip: bool = False,
        model: str | None = None,
        threads: int = 1,
        api_key: str | None = None,
    ):
        """Open the tokenizer, in the actor.

        Args:
            tokenizer: a bundle's folder, which every node must have; or the address of a service
            image: the column of images: contents of files, their paths, structs of `bytes` and `path` as Hugging Face
                datasets has them, or pixels uint8 [H, W, 3]
            length: tokens a view, by default the model's whole sequence
            crops: `centre`, as the model wants its images, or `ten`, LlamaGen's ten crops
            flip: with `centre`: the mirrored view as a second one
            model: the digest that the tokenizer must have (`Info.model`), so that a job has tokens of one model only
            threads: of a bundle's graphs. Many actors of one thread make more tokens than few with many; it is memory
                that may call for fewer. Give `map_batches` as many `num_cpus`.
            api_key: the service's, where it wants one

        Raises ModelChangedError for another model; and what `Tokenizer.connect` or `Tokenizer.open` raises.
        """
        check_views(crops, flip)
        self._tokenizer = Opener(tokenizer, api_key).open(threads)
        self._info = self._tokenizer.info()
        if model is not None and self._info.model != model:
            raise ModelChangedError(f"{tokenizer} has the model {self._info.model[:16]}…, not {model[:16]}…")
        self._length = self._info.check_length(length)
        self._image = image
        self._crops = crops
        self._flip = flip

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The tokens of a batch. Raises TypeError or ValueError for a batch that it cannot be."""
        if not isinstance(batch, pa.Table):
            raise TypeError("Tokenize takes batches of Arrow: give map_batches batch_format='pyarrow'")
        if self._image not in batch.column_names:
            raise ValueError(f"there is no column {self._image!r} of images; there are {batch.column_names}")
        kept = [name for name in batch.column_names if name != self._image]
        if taken := COLUMNS.keys() & set(kept):
            raise ValueError(f"the columns {sorted(taken)} are there already; rename or drop them")
        origin: list[int] = []
        views: list[int | None] = []
        errors: list[str | None] = []

        def pixels() -> Iterator[Pixels]:
            for item, image in enumerate(batch[self._image]):
                try:
                    made = views_of(_content(image.as_py()), item, self._info.preparation, self._crops, self._flip)
                except ItemError as error:
                    origin.append(item)
                    views.append(None)
                    errors.append(str(error).removeprefix(f"image {item} "))
                else:
                    origin.extend([item] * len(made))
                    views.extend(range(len(made)))
                    errors.extend([None] * len(made))
                    yield from made

        tokens = self._tokenizer.encode(pixels(), self._length, progress=False)
        columns = {name: batch[name].take(pa.array(origin, pa.int64())) for name in kept}
        for name, made in zip(COLUMNS, (views, _lists(tokens, views), errors), strict=True):
            columns[name] = pa.array(made, COLUMNS[name])
        return pa.table(columns)


def _content(image: Any) -> Any:
    """An image as the rest of the package takes it, of a struct the content or else the path."""
    return image["bytes"] or image["path"] if isinstance(image, dict) else image


def _lists(tokens: Tokens, views: list[int | None]) -> pa.ListArray:
    """The rows of tokens uint16 [V, length] as lists, with nulls where there is no view."""
    missing = np.array([view is None for view in views], bool)
    ends = np.cumsum(~missing, dtype=np.int32) * tokens.shape[1]
    offsets = pa.array(np.concatenate([np.zeros(1, np.int32), ends]))
    return pa.ListArray.from_arrays(offsets, pa.array(tokens.reshape(-1)), mask=pa.array(missing))
