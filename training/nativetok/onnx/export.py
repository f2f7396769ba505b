"""Exports released weights to a bundle.

python -m nativetok.onnx.export --weights FILE --card FILE --data FOLDER --out models/NAME

A bundle is all that the service knows of a model: ONNX graphs, the codebook, a model card and a manifest. After writing
a bundle, the export runs it with ONNX Runtime on images and compares it with PyTorch.
"""

import argparse
import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from nativetok.data import find_split, load_images
from nativetok.model import NativeTok, load_weights, to_pixels
from nativetok.onnx.mocet_graph import mocet_graph
from nativetok.onnx.transformer_graphs import DecoderGraph, EncoderGraph

FORMAT = 2
OPSET = 23
IR_VERSION = 11


def export_bundle(
    model: NativeTok, out: Path, card: str, source: dict[str, str], training: dict[str, Any], quality: dict[str, Any]
) -> None:
    """Write a model's bundle into the folder `out`, created if missing; the folder's name becomes the model's name.

    `source` says where the weights came from and under what licence (docs/bundle.md).

    Raises ValueError for `parallel` models, as a bundle's graphs are causal.
    """
    config = model.config
    if config.expert_kind == "parallel":
        raise ValueError("expert_kind 'parallel' cannot be exported: it is a baseline and has no causal graphs")
    out.mkdir(parents=True, exist_ok=True)
    images = torch.zeros(2, config.image_size, config.image_size, 3, dtype=torch.uint8)
    tokens = torch.zeros(2, config.length, dtype=torch.int32)
    graphs = {"encoder.onnx": _trace(EncoderGraph(model), "images", images, "latents")}
    graphs |= {f"mocet-{stage + 1}.onnx": mocet_graph(model, stage) for stage in range(len(config.stages))}
    graphs["decoder.onnx"] = _trace(DecoderGraph(model), "tokens", tokens, "images")
    for name, graph in graphs.items():
        onnx.checker.check_model(graph)
        onnx.save(graph, out / name)
    np.save(out / "codebook.npy", model.quantiser.codebook.numpy())
    (out / "MODEL_CARD.md").write_text(card)
    files = [*graphs, "codebook.npy", "MODEL_CARD.md"]
    manifest = {
        "format": FORMAT,
        "name": out.name,
        "kind": "causal",
        "prefixes": True,
        "image": {
            "size": config.image_size,
            "kernel": "lanczos3",
            "longer_side": "round",
            "crop_offset": "ceil",
            "space": "srgb",
            "background": "#ffffff",
        },
        "tokens": {"length": config.length, "stages": list(config.stages)},
        "codebook": {"size": config.codebook_size, "dimension": config.code_width, "normalised": True},
        "handover": "state",
        "latents": {"count": config.latents, "width": config.expert_width},
        "state": {"width": config.code_width},
        "graphs": {Path(name).stem: {"file": name} for name in graphs},
        "files": {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in files},
        "source": source,
        "training": training,
        "quality": quality,
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def _trace(module: nn.Module, input_name: str, example: Tensor, output_name: str) -> onnx.ModelProto:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[input_name],
            output_names=[output_name],
            dynamic_shapes=({0: torch.export.Dim("B", min=1)},),
            verbose=False,
        )
    assert program is not None
    graph = program.model_proto
    graph.ir_version = IR_VERSION
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "B"
    # the exporter records source files and lines: with them, digests would depend on where a bundle was made
    main = graph.graph
    for part in (graph, main, *main.node, *main.initializer, *main.value_info, *main.input, *main.output):
        part.ClearField("metadata_props")
    _store_as_half(graph.graph)
    return graph


def _store_as_half(graph: onnx.GraphProto) -> None:
    """Store float32 constants as fp16 if that is lossless, as it is for all released weights."""
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        array = numpy_helper.to_array(tensor)
        half = array.astype(np.float16)
        if array.size > 1024 and (half.astype(np.float32) == array).all():
            casts.append(helper.make_node("Cast", [f"{tensor.name}.half"], [tensor.name], to=TensorProto.FLOAT))
            tensor.CopyFrom(numpy_helper.from_array(half, f"{tensor.name}.half"))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


class Bundle:
    """A bundle trained here (format 1, or format 2 with a state), run with ONNX Runtime on the CPU."""

    def __init__(self, folder: Path) -> None:
        self.manifest = json.loads((folder / "manifest.json").read_text())
        self.sessions = {
            path.stem: onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            for path in sorted(folder.glob("*.onnx"))
        }

    def encode(self, images: NDArray[np.uint8], length: int | None = None) -> NDArray[np.int32]:
        """Tokenize images uint8 [B, H, W, 3] to int32 [B, length]; runs only the stages that the length needs."""
        length = length or self.manifest["tokens"]["length"]
        latents = self.sessions["encoder"].run(None, {"images": images})[0]
        tokens, feeds = np.empty((len(images), 0), np.int32), {"latents": latents}
        for stage in range(len(self.manifest["tokens"]["stages"])):
            if tokens.shape[1] < length:
                new, *state = self.sessions[f"mocet-{stage + 1}"].run(None, feeds)
                tokens = np.concatenate([tokens, new], axis=1)
                feeds |= {"prefix_state": state[0]} if state else {"prefix": tokens}
        return tokens[:, :length]

    def decode(self, tokens: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Decode tokens int32 [B, k], k in 1..L, to images uint8 [B, H, W, 3]."""
        missing = self.manifest["tokens"]["length"] - tokens.shape[1]
        tokens = np.pad(tokens, ((0, 0), (0, missing)), constant_values=self.manifest["codebook"]["size"])
        return self.sessions["decoder"].run(None, {"tokens": tokens})[0]


class ParityError(Exception):
    """The bundle's results differ from PyTorch's."""


@torch.no_grad()
def check_bundle(model: NativeTok, folder: Path, images: NDArray[np.uint8]) -> dict[str, float]:
    """Compare a bundle with PyTorch on images uint8 [M, H, W, 3] and return the figures. Raises ParityError.

    A near tie can change a token and with it all later ones, so tokens are compared position by position given the
    bundle's own prefix: at least 99.9 % must be equal, and for the others the similarities of the two best entries must
    be within 1e-4. Pixels may differ by at most 1 of 255. A shorter encoding must be a prefix of a longer one, and
    tokens must not depend on the batch.
    """
    bundle, config = Bundle(folder), model.config
    equal, compared, margin, pixels = 0, 0, 0.0, 0
    for start in range(0, len(images), 32):
        batch = images[start : start + 32]
        latents = model.encoder(to_pixels(torch.from_numpy(batch)))
        said, expected = model.mocet.generate(latents, model.quantiser, config.length)
        tokens = bundle.encode(batch)
        for end in config.stages:
            if not (bundle.encode(batch, end) == tokens[:, :end]).all():
                raise ParityError(f"the encoding of length {end} is not a prefix of the one of length {config.length}")
        for i, alone in enumerate(batch[:4]):
            if not (bundle.encode(alone[None]) == tokens[i]).all():
                raise ParityError(f"the tokens of image {start + i} depend on its batch")
        # teacher forcing: where later experts hear tokens, PyTorch hears the bundle's own
        heard = [model.config.hears_quantised(i) for i in range(config.length)]
        said[:, heard] = model.quantiser.lookup(torch.from_numpy(tokens[:, heard]).long())
        predicted = torch.cat([model.mocet.predict(latents, said, s) for s in range(len(config.stages))], dim=1)
        predicted = F.normalize(predicted, dim=-1)
        best = (predicted @ model.quantiser.codebook.T).topk(2, dim=-1)
        differs = best.indices[..., 0] != torch.from_numpy(tokens)
        equal, compared = equal + int((~differs).sum()), compared + differs.numel()
        if differs.any():
            gap = (best.values[..., 0] - best.values[..., 1])[differs]
            margin = max(margin, gap.max().item())
        drawn = bundle.decode(expected.numpy().astype(np.int32)).astype(int)
        pixels = max(pixels, int(np.abs(drawn - model.decode(expected).numpy().astype(int)).max()))
    share = equal / compared
    if share < 0.999 or margin > 1e-4:
        raise ParityError(f"{share:.4%} of tokens equal PyTorch's; the largest margin of the others is {margin:.1e}")
    if pixels > 1:
        raise ParityError(f"decoded pixels differ by up to {pixels} of 255")
    return {"images": len(images), "tokens_equal": share, "largest_margin": margin, "largest_pixel_difference": pixels}


def main() -> None:
    """Run the command line: write a bundle, compare it with PyTorch and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="released weights (.safetensors)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the bundle; its name is the model's name")
    parser.add_argument(
        "--data", type=Path, required=True, help="images to check the bundle on (the val split if there is one)"
    )
    parser.add_argument("--card", type=Path, required=True, help="the model card, Markdown")
    parser.add_argument("--licence", default="unknown", help="the licence of the weights, for the manifest")
    parser.add_argument("--training", type=Path, help="JSON for the manifest: how and on what the model was trained")
    parser.add_argument("--quality", type=Path, help="JSON for the manifest: nativetok.evaluate's evaluation.json")
    args = parser.parse_args()
    model = load_weights(args.weights)
    training, quality = (json.loads(path.read_text()) if path else {} for path in (args.training, args.quality))
    source = {
        "family": "nativetok",
        "file": args.weights.name,
        "sha256": hashlib.sha256(args.weights.read_bytes()).hexdigest(),
        "licence": args.licence,
    }
    export_bundle(model, args.out, args.card.read_text(), source, training, quality)
    images = load_images(find_split(args.data, "val"), model.config.image_size)[:256]
    print(json.dumps(check_bundle(model, args.out, images), indent=2))


if __name__ == "__main__":
    main()
