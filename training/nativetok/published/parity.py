"""Compares a bundle's graphs, run with ONNX Runtime on the CPU, with the PyTorch module they were written from."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from nativetok.published.graphs import stages
from nativetok.published.nativetok import NativeTok
from nativetok.published.tokenizer import Codebook, Tokenizer

CODES = 2e-5
"""How far codes before quantisation may differ, where their spread is 1."""
PIXELS = 5e-5
"""How far pixels in 0..1, before they are rounded, may differ."""

NOISE = 4
"""How many times PyTorch's own float32 noise a difference may be, where that is more."""


class ParityError(Exception):
    """The graphs do not give the same results as PyTorch."""


@dataclass(frozen=True)
class Encoded:
    """The results of the graphs for images."""

    tokens: NDArray[np.int32]
    codes: NDArray[np.float32]
    latents: NDArray[np.float32] | None
    """What experts read of the image; None for a parallel bundle."""
    said: NDArray[np.float32] | None
    """What experts said; None for a parallel bundle."""


def encode(folder: Path, images: NDArray[np.uint8]) -> Encoded:
    """Encode images [B, S, S, 3] with a bundle's graphs, one after the other in memory."""
    if not (folder / "mocet-1.onnx").exists():
        with _session(folder, "encoder", "codes") as session:
            tokens, codes = session.run(["tokens", "codes"], {"images": images})
        return Encoded(tokens, codes, None, None)
    with _session(folder, "encoder") as session:
        (latents,) = session.run(["latents"], {"images": images})
    feeds, parts, number = {"latents": latents}, [], 1
    while (folder / f"mocet-{number}.onnx").exists():
        with _session(folder, f"mocet-{number}", "codes") as session:
            parts.append(session.run(["tokens", "codes", "state"], feeds))
        feeds["prefix_state"] = parts[-1][2]
        number += 1
    tokens, codes = (np.concatenate([part[i] for part in parts], axis=1) for i in range(2))
    return Encoded(tokens, codes, latents, parts[-1][2])


def draw(folder: Path, tokens: NDArray[np.int32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Decode tokens [B, L] with a bundle's decoder: images [B, S, S, 3], and their pixels before clamping."""
    with _session(folder, "decoder", "pixels") as session:
        images, pixels = session.run(["images", "pixels"], {"tokens": tokens})
    return images, pixels


@contextmanager
def _session(folder: Path, name: str, tap: str = "") -> Iterator[onnxruntime.InferenceSession]:
    """A graph of a bundle, with one of its inner values as an additional output."""
    model = onnx.load(folder / f"{name}.onnx", load_external_data=False)
    if tap:
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(tap))
    if name.startswith("mocet-") and "state" not in {value.name for value in model.graph.output}:
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info("state"))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    yield onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@torch.no_grad()
def check(model: Tokenizer, folder: Path, images: NDArray[np.uint8]) -> dict[str, float | int]:
    """Compare a bundle with its module on images uint8 [B, S, S, 3]; return the figures. Raises ParityError.

    Codes differ from those computed in float64 by 2e-5 at most, relative to their spread where that is more than 1, and
    pixels from PyTorch's by 5e-5; where weights make float32 itself noisier than that, by `NOISE` times what PyTorch's
    float32 differs from float64. All tokens are equal but for ties, where the difference of codes explains which entry
    is nearest. Shorter sequences, where they decode, are drawn of the first image.
    """
    exact = _double(model, ("encoder.", "quantize.", "latent_tokens"))
    batches = [torch.from_numpy(image[None]) for image in images]
    reference = torch.cat([exact.codes(image) for image in batches])
    encoded = encode(folder, images)
    codes = float(np.abs(encoded.codes - reference.numpy()).max())
    allowed = CODES * max(1.0, float(reference.std()))
    if codes > allowed:
        noise = float((torch.cat([model.codes(image) for image in batches]) - reference).abs().max())
        allowed = max(allowed, NOISE * noise)
    if not codes <= allowed:
        raise ParityError(f"codes differ from PyTorch's by up to {codes:.1e}, {allowed:.1e} allowed")
    tokens = exact.quantize.distances(reference).argmin(-1)
    differs = tokens.numpy() != encoded.tokens
    got = torch.from_numpy(encoded.tokens)
    if differs.any() and not _ties(exact.quantize, reference, torch.from_numpy(encoded.codes), got):
        raise ParityError(f"{differs.sum()} of {differs.size} tokens differ from PyTorch's and are not ties")
    figures: dict[str, float | int] = {
        "images": len(images),
        "tokens": differs.size,
        "tokens_equal": 1 - float(differs.mean()),
        "largest_code_difference": codes,
    }
    full, worst = model.sizes.length, 0.0
    lengths = sorted({1, full // 3 + 1, *stages(full)}) if isinstance(model, NativeTok) else [full]
    for length in lengths:
        some = tokens[:, :length] if length == full else tokens[:1, :length]
        worst = max(worst, _pixel_difference(model, folder, some))
    return figures | {"largest_pixel_difference": worst, "lengths_decoded": len(lengths)}


def _pixel_difference(model: Tokenizer, folder: Path, tokens: Tensor) -> float:
    """How far pixels of tokens [B, k] are off. Raises ParityError where that is too far."""
    padded = np.full((len(tokens), model.sizes.length), model.sizes.codebook_size, np.int32)
    padded[:, : tokens.shape[1]] = tokens
    _, pixels = draw(folder, padded)
    drawn = torch.cat([model.draw(row[None]) for row in tokens])
    off = float(np.abs(pixels - drawn.numpy()).max())
    allowed = PIXELS
    if off > allowed:
        exact = _double(model, ("decoder.", "quantize.", "pixel_"))
        reference = torch.cat([exact.draw(row[None]) for row in tokens])
        off = float(np.abs(pixels - reference.numpy()).max())
        allowed = max(allowed, NOISE * float((drawn - reference).abs().max()))
    if not off <= allowed:
        raise ParityError(f"pixels differ from PyTorch's by up to {off:.1e} of 1, {allowed:.1e} allowed")
    return off


def _double(model: Tokenizer, parts: tuple[str, ...]) -> Tokenizer:
    """Some parts of a tokenizer in float64; float32 noise of its own would blur what it is compared with."""
    with torch.device("meta"):
        exact = type(model)(model.sizes)
    weights = {name: weight.double() for name, weight in model.state_dict().items() if name.startswith(parts)}
    exact.load_state_dict(weights, strict=False, assign=True)
    return exact.eval()


def _ties(book: Codebook, reference: Tensor, codes: Tensor, tokens: Tensor) -> bool:
    """Whether every token of the graphs is the nearest entry but for what codes differ by.

    A code that moves by m changes the difference of its squared distances to two entries by 2 m times the entries'
    distance at most; float32 adds its own rounding.
    """
    entries, codes = book.entries(), codes.double()
    distances = book.distances(reference)
    best = distances.argmin(-1)
    gap = distances.gather(-1, tokens.long()[..., None])[..., 0] - distances.amin(-1)
    moved = (book.unit(codes) - book.unit(reference)).norm(dim=-1)
    apart = (entries[tokens.long()] - entries[best]).norm(dim=-1)
    rounding = 1e-6 * (book.unit(reference).square().sum(-1) + entries.square().sum(-1).max())
    return bool((gap <= 2 * moved * apart + rounding).all())
