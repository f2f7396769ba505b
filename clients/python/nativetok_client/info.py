"""What a tokenizer reports about itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Limits:
    """What the service accepts in one request."""

    images: int
    """Images or sequences per request."""
    queue: int
    """Images and sequences of all clients that the service holds at once."""
    body_bytes: int
    json_body_bytes: int
    pixels: int
    """Pixels per image."""
    request_seconds: float


@dataclass(frozen=True)
class Preparation:
    """How photos become pixels of the model's size."""

    size: int
    kernel: Literal["lanczos3", "bicubic"]
    longer_side: Literal["round", "floor"]
    crop_offset: Literal["floor", "ceil", "half-even"]


@dataclass(frozen=True)
class Info:
    """The model behind a tokenizer."""

    name: str
    model: str
    """Digest of what tokens mean. Keep it with the tokens: those of one digest mean nothing to another."""
    bundle: str
    """Digest of all files of the bundle."""
    image_size: int
    """Height and width of an image, in pixels."""
    preparation: Preparation
    length: int
    """Tokens of a whole sequence."""
    stages: tuple[int, ...]
    """Lengths at which another graph runs."""
    codebook_size: int
    codebook_dimension: int
    kind: str = "causal"
    """`causal`: a shorter encoding is a prefix of a longer one. `parallel`: a prefix is meaningless."""
    prefixes: bool = True
    """Whether any prefix decodes."""
    limits: Limits | None = None
    """The service's limits; None for a model in this process, which has none."""
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Everything that the service answered, or the bundle's manifest."""

    @staticmethod
    def of_answer(answer: Mapping[str, Any]) -> "Info":
        """Reads the answer of `GET /info`."""
        limits, image = answer["limits"], answer["image"]
        return Info(
            name=answer["name"],
            model=answer["model"],
            bundle=answer["bundle"],
            image_size=answer["imageSize"],
            preparation=Preparation(image["size"], image["kernel"], image["longerSide"], image["cropOffset"]),
            length=answer["length"],
            stages=tuple(answer["stages"]),
            codebook_size=answer["codebook"]["size"],
            codebook_dimension=answer["codebook"]["dimension"],
            kind=answer.get("kind", "causal"),
            prefixes=answer.get("prefixes", True),
            limits=Limits(
                images=limits["images"],
                queue=limits["queue"],
                body_bytes=limits["bodyBytes"],
                json_body_bytes=limits["jsonBodyBytes"],
                pixels=limits["pixels"],
                request_seconds=limits["requestSeconds"],
            ),
            raw=answer,
        )

    def check_length(self, length: int | None) -> int:
        """The tokens an image gets when a caller asks for `length`. Raises ValueError where the model cannot."""
        if length is None:
            return self.length
        if not 1 <= length <= self.length:
            raise ValueError(f"length is {length}; it must be 1 to {self.length}")
        return length
