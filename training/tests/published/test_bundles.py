"""The graphs of a bundle do what the modules do, however they are cut into stages and their weights are stored."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from nativetok.convert import convert
from nativetok.published import parity, storage
from nativetok.published.graphs import stages
from nativetok.published.recognise import Options

from .fixtures import BUNDLES, CAUSAL, HEADS, NAMES, expected, model_of, path_of

# What ONNX Runtime 1.29 runs with CUDA itself; an operator beside these would take each batch to the CPU and back.
CUDA_OPERATORS = {
    "Add",
    "ArgMax",
    "Cast",
    "Clip",
    "Concat",
    "Conv",
    "DepthToSpace",
    "Div",
    "Equal",
    "Expand",
    "Gather",
    "Gelu",
    "InstanceNormalization",
    "MatMul",
    "Max",
    "Mul",
    "Pad",
    "RMSNormalization",
    "ReduceL2",
    "ReduceMean",
    "Reshape",
    "Round",
    "Shape",
    "Sigmoid",
    "Slice",
    "Softmax",
    "Split",
    "Squeeze",
    "Sub",
    "Tanh",
    "Transpose",
    "Unsqueeze",
    "Where",
}


@pytest.mark.parametrize("name", NAMES)
def test_bundle_gives_what_is_expected(name: str) -> None:
    want, encoded = expected(name), parity.encode(BUNDLES / name, expected(name)["images"])
    assert (encoded.tokens == want["tokens"]).all()
    np.testing.assert_allclose(encoded.codes.transpose(0, 2, 1)[:, :, None], want["latents"], atol=2e-5)
    images, pixels = parity.draw(BUNDLES / name, want["tokens"])
    np.testing.assert_allclose(pixels, want["pixels"], atol=5e-5)
    assert np.abs(images.astype(int) - want["pixels_u8"]).max() <= 1
    if name in CAUSAL:
        np.testing.assert_allclose(encoded.latents, want["meta"], atol=2e-5)
        np.testing.assert_allclose(encoded.said, want["experts"], atol=2e-5)
        tokens = want["tokens"].copy()
        tokens[:, int(want["prefix_length"]) :] = 64
        images, _ = parity.draw(BUNDLES / name, tokens)
        assert np.abs(images.astype(int) - want["prefix_pixels_u8"]).max() <= 1


@pytest.mark.parametrize("name", CAUSAL)
def test_prefixes_of_a_batch_may_differ_in_length(name: str) -> None:
    tokens = expected(name)["tokens"][:3].copy()
    for row, length in zip(tokens, (1, 5, 8), strict=True):
        row[length:] = 64
    _, together = parity.draw(BUNDLES / name, tokens)
    for row, picture in zip(tokens, together, strict=True):
        np.testing.assert_allclose(parity.draw(BUNDLES / name, row[None])[1][0], picture, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_an_images_tokens_do_not_depend_on_the_batch(name: str) -> None:
    images = expected(name)["images"]
    alone = [parity.encode(BUNDLES / name, image[None]).tokens[0] for image in images[:3]]
    assert (parity.encode(BUNDLES / name, images).tokens[:3] == alone).all()


@pytest.mark.parametrize("name", NAMES)
def test_manifest_is_what_docs_describe(name: str) -> None:
    manifest = json.loads((BUNDLES / name / "manifest.json").read_text())
    causal = name in CAUSAL
    assert (manifest["format"], manifest["name"], manifest["prefixes"]) == (2, name, causal)
    assert (manifest["kind"], manifest["handover"]) == (("causal", "state") if causal else ("parallel", "none"))
    assert manifest["tokens"] == {"length": 8, "stages": [4, 8] if causal else [8]}
    assert manifest["codebook"] == {"size": 64, "dimension": 12, "normalised": name != "titok-newer"}
    assert set(manifest["files"]) == {path.name for path in (BUNDLES / name).iterdir()} - {"manifest.json"}
    for file, digest in manifest["files"].items():
        assert hashlib.sha256((BUNDLES / name / file).read_bytes()).hexdigest() == digest
    book = np.load(BUNDLES / name / "codebook.npy")
    assert (book.dtype, book.shape) == (np.float32, (64, 12))
    assert np.allclose(np.linalg.norm(book, axis=1), 1) == (name != "titok-newer")


@pytest.mark.parametrize("name", NAMES)
def test_graphs_run_on_cuda_as_a_whole_and_do_not_say_where_they_were_made(name: str) -> None:
    for path in (BUNDLES / name).glob("*.onnx"):
        assert {node.op_type for node in onnx.load(path).graph.node} <= CUDA_OPERATORS
        assert b".py" not in path.read_bytes()


def test_weights_outside_are_pages_of_floats(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(storage, "SMALLEST_OUTSIDE", 0)
    convert(path_of("titok-legacy"), tmp_path / "out", options=Options(heads=HEADS["titok-legacy"]))
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["graphs"]["decoder"] == {"file": "decoder.onnx", "weights": ["decoder.weights"]}
    assert "decoder.weights" in manifest["files"]
    graph = onnx.load(tmp_path / "out/decoder.onnx", load_external_data=False).graph
    outside = [t for t in graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    assert outside
    size = (tmp_path / "out/decoder.weights").stat().st_size
    for tensor in outside:
        place = {entry.key: entry.value for entry in tensor.external_data}
        assert place["location"] == "decoder.weights"
        assert int(place["offset"]) % 4096 == 0
        assert int(place["offset"]) + int(place["length"]) <= size
        assert tensor.data_type == onnx.TensorProto.FLOAT
    want = expected("titok-legacy")
    session = onnxruntime.InferenceSession(tmp_path / "out/decoder.onnx")
    (images,) = session.run(None, {"tokens": want["tokens"]})
    assert np.abs(images.astype(int) - want["pixels_u8"]).max() <= 1


def test_halves_are_smaller_and_the_card_says_what_rounding_changed(tmp_path: Path) -> None:
    convert(path_of("nativetok-b"), tmp_path / "out", options=Options(heads=HEADS["nativetok-b"]), storage="float16")
    halves, floats = (
        (folder / "decoder.onnx").stat().st_size for folder in (tmp_path / "out", BUNDLES / "nativetok-b")
    )
    assert halves < 0.9 * floats
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert 0 < manifest["quality"]["rounding"]["largest_code_change"] < 0.05
    assert manifest["quality"]["rounding"]["tokens_equal"] > 0.8
    assert "stored as float16. Rounding them changed codes by" in (tmp_path / "out/MODEL_CARD.md").read_text()


def test_check_refuses_graphs_of_other_weights() -> None:
    want = expected("nativetok-b")
    model = model_of("nativetok-b")
    figures = parity.check(model, BUNDLES / "nativetok-b", want["images"])
    assert figures["tokens_equal"] == 1
    assert figures["lengths_decoded"] == 4
    model.encoder.conv_out.weight.mul_(1.001)  # type: ignore[union-attr, operator]
    with pytest.raises(parity.ParityError, match="codes differ"):
        parity.check(model, BUNDLES / "nativetok-b", want["images"])
    model = model_of("nativetok-b")
    model.pixel_decoder.conv_out.bias.add_(1e-3)  # type: ignore[union-attr, operator]
    with pytest.raises(parity.ParityError, match="pixels differ"):
        parity.check(model, BUNDLES / "nativetok-b", want["images"])


@pytest.mark.parametrize(
    ("length", "ends"),
    [(1, [1]), (8, [4, 8]), (16, [8, 16]), (32, [16, 32]), (100, [16, 32, 64, 100]), (128, [16, 32, 64, 128])],
)
def test_stages(length: int, ends: list[int]) -> None:
    assert stages(length) == ends
