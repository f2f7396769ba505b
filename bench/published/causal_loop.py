"""What NativeTok's causal loop costs against the straightforward computation of the same experts.

    PYTHONPATH=training python bench/published/causal_loop.py

Straightforward is what the published code computes: of every expert both blocks on all rows. Both are graphs of the
same nodes, run by ONNX Runtime with the same weights, in turns; both must give the same tokens. Sizes are NativeTok's
(128 experts of width 256, images of 256 patches), weights are random.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from nativetok.published import graphs
from nativetok.published.blocks import Trunk
from nativetok.published.random_weights import SIZES, random_tokenizer


def straightforward_query_block(writer: graphs.Writer, x: str, block: torch.nn.Module) -> str:
    """The block on all rows, of which the last is taken."""
    return writer.rows(writer.block(x, block), -1, graphs.LAST)


def sessions(model: graphs.NativeTok, folder: Path, threads: int) -> list[onnxruntime.InferenceSession]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    files = graphs.write_stages(model, folder, "float32")
    return [onnxruntime.InferenceSession(folder / f"{name}.onnx", options) for name in files]


def run(stages: list[onnxruntime.InferenceSession], latents: np.ndarray) -> tuple[np.ndarray, float]:
    start, feeds, tokens = time.perf_counter(), {"latents": latents}, []
    for stage in stages:
        out = stage.run(["tokens", "state"], feeds)
        tokens.append(out[0])
        feeds["prefix_state"] = out[1]
    return np.concatenate(tokens, axis=1), time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    # the image transformer and the decoder take no part
    narrow = replace(SIZES["nativetok-128"], encoder=Trunk(64, 1, 1, 16), decoder=Trunk(64, 1, 1, 16))
    model = random_tokenizer(narrow)
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        contestants = {}
        for name in ("ours", "straightforward"):
            (path := Path(folder) / name).mkdir()
            if name == "straightforward":
                graphs.Writer.query_block = straightforward_query_block  # type: ignore[method-assign]
            contestants[name] = sessions(model, path, args.threads)
        for batch in args.batches:
            latents = random.normal(size=(batch, 257, 256)).astype(np.float32)
            took: dict[str, list[float]] = {name: [] for name in contestants}
            tokens = {}
            for _ in range(args.rounds):
                for name, stages in contestants.items():
                    tokens[name], seconds = run(stages, latents)
                    took[name].append(seconds)
            ours, straightforward = (statistics.median(took[name]) for name in ("ours", "straightforward"))
            equal = (tokens["ours"] == tokens["straightforward"]).mean()
            ratio = statistics.median(a / b for a, b in zip(took["ours"], took["straightforward"], strict=True))
            times = f"{ours:.3f} s against {straightforward:.3f} s, ratio {ratio:.3f}"
            print(f"batch {batch}: {times}; tokens equal {equal:.4f}")


if __name__ == "__main__":
    main()
