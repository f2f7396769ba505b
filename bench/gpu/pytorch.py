"""NativeTok in PyTorch on one device, eager or compiled: images per second by batch. Prints JSON; run.py starts it."""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nativetok.model import NativeTok, load_weights


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="released weights (.safetensors)")
    parser.add_argument("--device", type=torch.device, required=True, help="cpu, or as in cuda:0")
    parser.add_argument("--tf32", choices=["on", "off"], required=True)
    parser.add_argument("--batches", required=True, help="batch sizes, as in 1,2")
    parser.add_argument("--seconds", type=float, required=True, help="time for each figure")
    parser.add_argument("--pixels", type=Path, required=True, help="uint8 [M, H, W, 3], bare numbers")
    parser.add_argument("--tokens", type=Path, required=True, help="tokens of the bundle, uint16 [M, L], bare numbers")
    parser.add_argument("--compiled", action="store_true", help="with torch.compile")
    args = parser.parse_args()
    torch.set_float32_matmul_precision("high" if args.tf32 == "on" else "highest")
    torch.backends.cudnn.allow_tf32 = args.tf32 == "on"

    model = load_weights(args.weights).to(args.device)
    size, length = model.config.image_size, model.config.length
    images = torch.from_numpy(np.fromfile(args.pixels, np.uint8).reshape(-1, size, size, 3))
    tokens = torch.from_numpy(np.fromfile(args.tokens, np.uint16).reshape(-1, length).astype(np.int64))
    encode, decode = _functions(model, args.device, args.compiled)
    result = {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else "cpu",
        "batches": [
            {
                "batch": batch,
                "encodeImagesPerSecond": _rate(encode, images, batch, args.seconds),
                "decodeImagesPerSecond": _rate(decode, tokens, batch, args.seconds),
            }
            for batch in map(int, args.batches.split(","))
        ],
        # whether this is the same model at all: another export or other rounding turns some tokens, not most
        "tokensEqual": (encode(images[:32]) == tokens[:32]).double().mean().item(),
    }
    print(json.dumps(result))


def _functions(
    model: NativeTok, device: torch.device, compiled: bool
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Encode and decode from and to the host's memory, as the engines of the service do it."""
    encode: Callable[[Tensor], Tensor] = model.encode
    decode: Callable[[Tensor], Tensor] = model.decode
    if compiled:
        # The experts are unrolled, so that compiling takes long: once for batch 1 and once for all others. On a GPU
        # CUDA graphs take away most of the cost of launching so many small kernels.
        mode = "reduce-overhead" if device.type == "cuda" else None
        encode = torch.compile(model.encode, dynamic=True, mode=mode)
        decode = torch.compile(model.decode, dynamic=True, mode=mode)
    return lambda images: encode(images.to(device)).cpu(), lambda tokens: decode(tokens.to(device)).cpu()


def _rate(run: Callable[[Tensor], Tensor], rows: Tensor, batch: int, seconds: float) -> float:
    """Rows per second of `run` on batches; its results are in the host's memory, so it is done when it returns."""
    inputs = rows[torch.arange(batch) % len(rows)]
    for _ in range(3):
        run(inputs)
    runs, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or runs == 0:
        run(inputs)
        runs += 1
    return runs * batch / elapsed


if __name__ == "__main__":
    main()
