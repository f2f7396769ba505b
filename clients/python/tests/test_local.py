"""A bundle in this process, beside the service with the same bundle."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import BUNDLE, FIXTURES, PHOTOS
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from nativetok_client import BundleError, ItemError, Tokenizer
from nativetok_client.info import Preparation
from nativetok_client.items import Pixels, Tokens
from nativetok_client.photos import pixels_of

Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def local() -> Tokenizer:
    return Tokenizer.open(BUNDLE)


def test_it_is_the_same_model_as_the_service_s(local: Tokenizer, tokenizer: Tokenizer) -> None:
    ours, theirs = local.info(), tokenizer.info()
    assert (ours.model, ours.bundle, ours.length) == (theirs.model, theirs.bundle, theirs.length)
    assert ours.limits is None
    assert np.array_equal(local.codebook(), tokenizer.codebook())


def test_equal_pixels_have_equal_tokens(local: Tokenizer, known: Tokens, pixels: Pixels) -> None:
    assert np.array_equal(local.encode(pixels), known)
    assert np.array_equal(local.encode(PHOTOS), known), "photos of the model's size need no resizing"
    for length in (1, 32, 33, 100):
        assert np.array_equal(local.encode(pixels[:5], length), known[:5, :length])
    single = Tokenizer.open(BUNDLE, threads=1)
    assert np.array_equal(single.encode(pixels[:5]), known[:5]), "threads do not matter"


def test_it_draws_what_the_service_draws(local: Tokenizer, tokenizer: Tokenizer, known: Tokens) -> None:
    ragged = [row[: 1 + 3 * i] for i, row in enumerate(known)]
    apart = np.abs(local.decode(ragged).astype(int) - tokenizer.decode(ragged))
    assert apart.max() <= 1, "more than rounding"
    assert np.mean(apart > 0) < 1e-3


def test_photos_of_other_sizes_are_prepared_nearly_as_the_service_does(local: Tokenizer, tokenizer: Tokenizer) -> None:
    """Pillow's decoder and filter round differently from libvips', and what they draw shows it little."""
    files = sorted((FIXTURES / "photos" / "full").glob("*.jpg"))
    files += [FIXTURES / "formats" / name for name in ("cat.png", "alpha.png", "orientation-6.jpg", "display-p3.jpg")]
    ours, theirs = local.encode(files), tokenizer.encode(files)
    drawn = tokenizer.decode(ours).astype(float), tokenizer.decode(theirs).astype(float)
    apart = 10 * np.log10(255**2 / np.mean((drawn[0] - drawn[1]) ** 2, axis=(1, 2, 3)))
    assert np.median(apart) > 28
    assert apart.min() > 20, "one of them was prepared in another way"


def test_a_photo_is_cropped_where_the_bundle_says() -> None:
    """400x300: the longer side becomes 170.67, so 171 or 170, of which 43 or 42 are cut off."""
    wide = np.zeros((300, 400, 3), np.uint8)
    wide[..., 0] = np.linspace(0, 255, 400)
    wide[..., 1] = np.linspace(0, 255, 300)[:, None]
    picture = Image.fromarray(wide)
    # docs/images.md has the number for the service's own way.
    service = picture.resize((128, 128), Image.Resampling.LANCZOS, box=(51.171875, 0, 351.171875, 300))
    tall = Image.fromarray(wide.swapaxes(0, 1))
    for image, expected in ((picture, np.asarray(service)), (tall, np.asarray(service).swapaxes(0, 1))):
        cropped = pixels_of(image, 0, Preparation(128, "lanczos3", "round", "ceil"))
        assert np.abs(cropped.astype(int) - expected).max() <= 1, "more than the order of two roundings"
    cut = picture.resize((170, 128), Image.Resampling.BICUBIC).crop((21, 0, 149, 128))
    assert np.array_equal(pixels_of(picture, 0, Preparation(128, "bicubic", "floor", "half-even")), np.asarray(cut))
    left = pixels_of(picture, 0, Preparation(128, "lanczos3", "round", "floor"))
    assert left[64, 64, 0] < np.asarray(service)[64, 64, 0]


def test_colours_and_transparency_are_those_that_are_seen(pixels: Pixels) -> None:
    how = Preparation(128, "lanczos3", "round", "ceil")
    reference = pixels_of(FIXTURES / "formats" / "cat.png", 0, how).astype(int)
    for name, most in [("cat.webp", 6), ("cat.avif", 6), ("cat.tiff", 1), ("orientation-5.jpg", 6)]:
        assert np.abs(pixels_of(FIXTURES / "formats" / name, 0, how) - reference).mean() < most, name
    alpha = pixels_of(FIXTURES / "formats" / "alpha.png", 0, how)
    assert np.array_equal(alpha[0, 0], [255, 255, 255])
    first_frame = pixels_of(FIXTURES / "formats" / "animated.gif", 0, how)
    flamingo = pixels[[path.stem for path in PHOTOS].index("flamingo")].astype(int)
    assert np.abs(first_frame - flamingo).mean() < 15
    deep = pixels_of(FIXTURES / "formats" / "16-bit.png", 0, how)
    assert np.abs(deep - reference).mean() < 40
    assert deep.std() > 20, "16 bits were cut off instead of scaled"


@pytest.mark.parametrize("name", ["truncated.jpg", "text.txt", "drawing.svg"])
def test_a_wrong_file_is_named(local: Tokenizer, name: str) -> None:
    with pytest.raises(ItemError, match="image 40 cannot be decoded") as caught:
        local.encode([*PHOTOS, *PHOTOS[:4], FIXTURES / "formats" / name], 1)
    assert caught.value.item == 40


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1, 4096], "row 1 has 4096 at position 1; tokens are from 0 to 4095"),
        ([-1], "row 1 has -1 at position 0"),
        ([], "row 1 has 0 tokens; it must have 1 to 128"),
        ([0] * 129, "row 1 has 129 tokens"),
        ([0.5], r"row 1 must be integers \[length\], not float64 \[1\]"),
    ],
)
def test_a_wrong_row_is_named(local: Tokenizer, row: list[Any], message: str) -> None:
    with pytest.raises(ItemError, match=message) as caught:
        local.decode([[5], row])
    assert caught.value.item == 1


def test_a_file_that_is_not_what_the_manifest_says_is_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(BUNDLE, tmp_path / "bundle")
    with (folder / "decoder.onnx").open("r+b") as file:
        file.seek(1000)
        file.write(b"changed")
    with pytest.raises(BundleError, match=r"decoder\.onnx: sha256 is "):
        Tokenizer.open(folder)
    (folder / "decoder.onnx").unlink()
    with pytest.raises(BundleError, match=r"decoder\.onnx: cannot be read"):
        Tokenizer.open(folder)
    rewrite(folder, lambda manifest: manifest.update(format=3))
    with pytest.raises(BundleError, match="format 3 is not supported"):
        Tokenizer.open(folder)
    rewrite(folder, lambda manifest: manifest.update(format=1, files={"../../secret": "0" * 64}))
    with pytest.raises(BundleError, match="is not the name of a file in the bundle"):
        Tokenizer.open(folder)
    with pytest.raises(BundleError, match=r"manifest\.json: cannot be read"):
        Tokenizer.open(tmp_path)


def rewrite(folder: Path, change: Callable[[Manifest], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_format_2_with_the_same_graphs_has_the_same_tokens(tmp_path: Path, known: Tokens, pixels: Pixels) -> None:
    folder = shutil.copytree(BUNDLE, tmp_path / "bundle")

    def change(manifest: Manifest) -> None:
        names = ["encoder", "mocet-1", "mocet-2", "mocet-3", "decoder"]
        manifest.update(
            format=2,
            kind="causal",
            prefixes=True,
            handover="ids",
            graphs={name: {"file": f"{name}.onnx"} for name in names},
            source={"family": "nativetok", "licence": "unknown"},
        )
        manifest["image"].update(longer_side="floor", crop_offset="half-even")

    rewrite(folder, change)
    opened = Tokenizer.open(folder)
    assert opened.info().model == Tokenizer.open(BUNDLE).info().model, "the manifest is no part of what tokens mean"
    assert np.array_equal(opened.encode(pixels[:4]), known[:4])


SIZE, LATENT, STATE = 4, 3, 2


def test_format_2_hands_states_from_stage_to_stage(tmp_path: Path) -> None:
    """Graphs small enough to be followed by hand.

    The latents are an image's mean three times. Stage 1 says twice the mean, its state is the mean; stage 2 says the
    sum of the states before, and ends the sequence.
    """
    mean = helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0)
    encoder = graph(
        [("images", TensorProto.UINT8, ["B", SIZE, SIZE, 3])],
        [("latents", TensorProto.FLOAT, ["B", 1, LATENT])],
        [
            helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
            mean,
            helper.make_node("Reshape", ["mean", "column"], ["wide"]),
            helper.make_node("Tile", ["wide", "repeats"], ["latents"]),
        ],
        {"axes": [1, 2, 3], "column": [-1, 1, 1], "repeats": [1, 1, LATENT]},
    )
    latents = ("latents", TensorProto.FLOAT, ["B", 1, LATENT])
    first = graph(
        [latents],
        [("tokens", TensorProto.INT32, ["B", 2]), ("state", TensorProto.FLOAT, ["B", 2, STATE])],
        [
            helper.make_node("Slice", ["latents", "zero", "one", "last"], ["mean"]),
            helper.make_node("Tile", ["mean", "rows"], ["state"]),
            helper.make_node("ReduceSum", ["state", "last"], ["double"], keepdims=0),
            helper.make_node("Cast", ["double"], ["tokens"], to=TensorProto.INT32),
        ],
        {"zero": [0], "one": [1], "last": [2], "rows": [1, 2, STATE]},
    )
    second = graph(
        [latents, ("prefix_state", TensorProto.FLOAT, ["B", 2, STATE])],
        [("tokens", TensorProto.INT32, ["B", 1])],
        [
            helper.make_node("ReduceSum", ["prefix_state", "axes"], ["sum"], keepdims=0),
            helper.make_node("Reshape", ["sum", "column"], ["said"]),
            helper.make_node("Cast", ["said"], ["tokens"], to=TensorProto.INT32),
        ],
        {"axes": [1, 2], "column": [-1, 1]},
    )
    folder = bundle(
        tmp_path,
        {"encoder": encoder, "mocet-1": first, "mocet-2": second, "decoder": decoder(3)},
        {"kind": "causal", "prefixes": True, "handover": "state", "state": {"width": STATE}},
        [2, 3],
    )
    opened = Tokenizer.open(folder)
    images = np.full((2, SIZE, SIZE, 3), 5, np.uint8)
    images[1] = 7
    assert opened.encode(images).tolist() == [[10, 10, 20], [14, 14, 28]]
    assert opened.encode(images, 2).tolist() == [[10, 10], [14, 14]]
    # The decoder paints the sum of the ids; 100 stands for an absent one.
    assert opened.decode([[1, 2, 3], [1]])[:, 0, 0, 0].tolist() == [6, 201]


@pytest.mark.parametrize("name", ["nativetok-a", "nativetok-b", "titok-legacy", "titok-newer"])
def test_converted_bundles_give_the_tokens_of_their_checkpoints(name: str) -> None:
    expected = np.load(FIXTURES / "checkpoints" / name / "expected.npz")
    opened = Tokenizer.open(FIXTURES / "bundles" / name)
    assert opened.encode(expected["images"]).tolist() == expected["tokens"].tolist()
    drawn = opened.decode(expected["tokens"]).astype(int)
    assert np.abs(drawn - expected["pixels_u8"]).max() <= 1


def test_a_parallel_bundle_has_whole_sequences_only(tmp_path: Path) -> None:
    encoder = graph(
        [("images", TensorProto.UINT8, ["B", SIZE, SIZE, 3])],
        [("tokens", TensorProto.INT32, ["B", 3])],
        [
            helper.make_node("Slice", ["images", "from", "to", "axes"], ["corner"]),
            helper.make_node("Reshape", ["corner", "row"], ["few"]),
            helper.make_node("Cast", ["few"], ["tokens"], to=TensorProto.INT32),
        ],
        {"from": [0, 0], "to": [1, 1], "axes": [1, 2], "row": [-1, 3]},
    )
    folder = bundle(
        tmp_path,
        {"encoder": encoder, "decoder": decoder(3)},
        {"kind": "parallel", "prefixes": False, "handover": "none"},
        [3],
    )
    opened = Tokenizer.open(folder)
    images = np.arange(2 * SIZE * SIZE * 3, dtype=np.uint8).reshape(2, SIZE, SIZE, 3)
    assert opened.encode(images).tolist() == [[0, 1, 2], [48, 49, 50]]
    with pytest.raises(ValueError, match="length must be 3"):
        opened.encode(images, 2)
    with pytest.raises(ItemError, match="row 0 has 2 tokens; it must have exactly 3"):
        opened.decode([[1, 2]])


Tensor = tuple[str, int, list[str | int]]


def graph(
    inputs: list[Tensor], outputs: list[Tensor], nodes: list[onnx.NodeProto], constants: dict[str, list[int]]
) -> onnx.ModelProto:
    values = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()]
    made = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*tensor) for tensor in inputs],
        [helper.make_tensor_value_info(*tensor) for tensor in outputs],
        values,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def decoder(length: int) -> onnx.ModelProto:
    return graph(
        [("tokens", TensorProto.INT32, ["B", length])],
        [("images", TensorProto.UINT8, ["B", SIZE, SIZE, 3])],
        [
            helper.make_node("ReduceSum", ["tokens", "axes"], ["sum"], keepdims=0),
            helper.make_node("Reshape", ["sum", "pixel"], ["deep"]),
            helper.make_node("Tile", ["deep", "repeats"], ["wide"]),
            helper.make_node("Cast", ["wide"], ["images"], to=TensorProto.UINT8),
        ],
        {"axes": [1], "pixel": [-1, 1, 1, 1], "repeats": [1, SIZE, SIZE, 3]},
    )


def bundle(folder: Path, graphs: dict[str, onnx.ModelProto], kind: Manifest, stages: list[int]) -> Path:
    """Writes a bundle of format 2 with a codebook of 100 entries."""
    for name, model in graphs.items():
        onnx.save(model, folder / f"{name}.onnx")
    codebook: NDArray[np.float32] = np.ones((100, 4), np.float32)
    np.save(folder / "codebook.npy", codebook)
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    manifest = {
        "format": 2,
        "name": "small",
        **kind,
        "image": {"size": SIZE, "kernel": "bicubic", "longer_side": "floor", "crop_offset": "half-even"},
        "tokens": {"length": stages[-1], "stages": stages},
        "codebook": {"size": 100, "dimension": 4, "normalised": False},
        "graphs": {name: {"file": f"{name}.onnx"} for name in graphs},
        "files": files,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
