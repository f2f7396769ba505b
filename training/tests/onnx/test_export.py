"""The bundle gives PyTorch's results, for both kinds of experts."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from nativetok.config import ModelConfig, RunConfig
from nativetok.data import load_images
from nativetok.model import NativeTok, load_weights, save_weights
from nativetok.onnx.export import Bundle, ParityError, check_bundle, export_bundle

ROOT = Path(__file__).parents[3]
SOURCE = {"family": "nativetok", "licence": "unknown"}
SMOKE = RunConfig.load(ROOT / "training/configs/smoke.yaml").model


@pytest.fixture(scope="module")
def photos() -> np.ndarray:
    return load_images([ROOT / "test/fixtures/photos"], SMOKE.image_size)


def released(config: ModelConfig, folder: Path) -> NativeTok:
    torch.manual_seed(1)
    model = NativeTok(config)
    for parameter in model.parameters():  # weights that are initialised to zero would hide parts of the graphs
        torch.nn.init.normal_(parameter, std=0.3) if not parameter.any() else None
    save_weights(model, folder / "weights.safetensors")
    return load_weights(folder / "weights.safetensors")


@pytest.mark.parametrize("stages", [(4, 8, 12), (1, 12)])  # (1, 12): an expert alone, and more than a group
@pytest.mark.parametrize("feedback", [None, 0, 3])  # 3: a group of which some are heard after quantisation
@pytest.mark.parametrize("kind", ["cross", "self"])
def test_bundle_equals_pytorch(
    kind: str, feedback: int | None, stages: tuple[int, ...], photos: np.ndarray, tmp_path: Path
) -> None:
    config = replace(SMOKE, expert_kind=kind, stages=stages, feedback=feedback)  # type: ignore[arg-type]
    model = released(config, tmp_path)
    export_bundle(model, tmp_path / "tiny", "# Card\n", SOURCE, {"data": "fixtures"}, {})
    figures = check_bundle(model, tmp_path / "tiny", photos)
    assert figures["tokens_equal"] >= 0.999
    manifest = json.loads((tmp_path / "tiny/manifest.json").read_text())
    assert manifest["name"] == "tiny"
    assert manifest["tokens"] == {"length": 12, "stages": list(stages)}
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((tmp_path / "tiny" / name).read_bytes()).hexdigest() == digest


def test_check_refuses_a_bundle_of_other_weights(photos: np.ndarray, tmp_path: Path) -> None:
    model = released(SMOKE, tmp_path)
    export_bundle(model, tmp_path / "tiny", "# Card\n", SOURCE, {}, {})
    with torch.no_grad():
        model.encoder.dimension_switcher.weight.mul_(1.5)
    with pytest.raises(ParityError):
        check_bundle(model, tmp_path / "tiny", photos[:8])


def test_shipped_bundle_is_the_released_weights() -> None:
    model = load_weights(ROOT / "training/weights/nativetok-128.safetensors")
    photos = load_images([ROOT / "test/fixtures/photos"], model.config.image_size)
    check_bundle(model, ROOT / "models/nativetok-128", photos)


def test_shipped_bundle_draws_what_it_was_shown() -> None:
    bundle = Bundle(ROOT / "models/nativetok-128")
    photos = load_images([ROOT / "test/fixtures/photos"], 128)
    tokens = bundle.encode(photos)
    errors = [np.square(bundle.decode(tokens[:, :n]).astype(float) - photos).mean() for n in (32, 64, 128)]
    blank = np.square(photos - photos.mean(axis=(1, 2), keepdims=True)).mean()
    others = np.square(bundle.decode(np.roll(tokens, 1, axis=0)).astype(float) - photos).mean()
    assert errors[0] < 0.5 * blank
    assert errors[0] < 0.4 * others
    assert errors[2] < errors[1] < errors[0]


GRAPHS = sorted(path.name for path in (ROOT / "models/nativetok-128").glob("*.onnx"))

# The operators of the shipped graphs. The CUDA provider of ONNX Runtime 1.29.0 implements all of them; one it lacks,
# such as Col2Im, would move each batch to the CPU and back.
CUDA_OPERATORS = (
    "Add ArgMax Cast Clip Concat Div Equal Expand Gather GatherND Gelu Gemm Log MatMul Mul Pad RMSNormalization "
    "ReduceMax ReduceMean Reshape Round Shape Slice Softmax Split Squeeze Sub TensorScatter Transpose Unsqueeze Where"
)


@pytest.mark.parametrize("name", GRAPHS)
def test_shipped_graphs_run_on_cuda_as_a_whole(name: str) -> None:
    graph = onnx.load(ROOT / "models/nativetok-128" / name).graph
    assert {node.op_type for node in graph.node} <= set(CUDA_OPERATORS.split())


@pytest.mark.parametrize("name", GRAPHS)
def test_shipped_graphs_do_not_say_where_they_were_made(name: str) -> None:
    assert b".py" not in (ROOT / "models/nativetok-128" / name).read_bytes()


def test_shipped_graphs_write_their_memory_in_place(capfd: pytest.CaptureFixture[str]) -> None:
    bundle = Bundle(ROOT / "models/nativetok-128")
    bundle.encode(np.zeros((2, 128, 128, 3), np.uint8))
    assert "in-place optimization not activated" not in capfd.readouterr().err


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_shipped_graphs_are_causal(stage: int) -> None:
    """In the graph itself, token i depends on exactly the tokens before it: on all of them and on no later ones."""
    graph = onnx.load(ROOT / f"models/nativetok-128/mocet-{stage}.onnx").graph
    producer = {output: node for node in graph.node for output in node.output}
    sizes, places = (producer[name] for name in producer[producer["tokens"].input[0]].input)
    blocks = producer[sizes.input[0]]
    tokens = list(zip(blocks.input, places.input, strict=True))  # a block of the codebook, and a place there
    assert len(tokens) == (32, 32, 64)[stage - 1]
    positions = {name: i for i, token in enumerate(tokens) for name in token}
    inputs = {value.name for value in graph.input}
    sources: dict[str, set[str]] = {name: {name} for name in inputs}  # the inputs and tokens behind every value
    for node in graph.node:
        behind = set().union(*(sources.get(name, set()) for name in node.input))
        for output in node.output:
            if output in positions:
                i = positions[output]
                assert behind - inputs - set(tokens[i]) == {name for token in tokens[:i] for name in token}
                assert behind >= inputs
            sources[output] = behind | ({output} & positions.keys())
