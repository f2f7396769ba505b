"""Leave layers out of trained weights: `python -m nativetok.shrink WEIGHTS --encoder 0,3 --out SMALLER`.

A layer of a trained encoder or decoder adds little to its input, so what is left still works, somewhat worse; a joint
fine-tuning from it (`nativetok.train --from-weights`) mends most of that in a hundredth of the time of a new training.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nativetok.model import NativeTok, load_weights, save_weights


def shrink(
    model: NativeTok,
    encoder: Sequence[int] | None = None,
    decoder: Sequence[int] | None = None,
    feedback: int | None = None,
) -> NativeTok:
    """Return a model with the named layers of encoder and decoder, counted from 0; all of them by default.

    `feedback` replaces `ModelConfig.feedback` unless it is None; no weights depend on it. Raises ValueError if the
    layers are not some of the model's in ascending order.
    """
    config = model.config if feedback is None else dataclasses.replace(model.config, feedback=feedback)
    weights = model.state_dict()
    for part, kept in (("encoder", encoder), ("decoder", decoder)):
        if kept is None:
            continue
        depth = getattr(config, f"{part}_depth")
        if not kept or list(kept) != sorted(set(kept) & set(range(depth))):
            raise ValueError(f"layers of the {part} are some of 0 to {depth - 1} in ascending order, not {list(kept)}")
        depths: dict[str, Any] = {f"{part}_depth": len(kept)}
        config = dataclasses.replace(config, **depths)
        new_place = {layer: place for place, layer in enumerate(kept)}
        blocks = f"{part}.blocks."
        layers = {name: weights.pop(name) for name in list(weights) if name.startswith(blocks)}
        for name, weight in layers.items():
            layer, _, rest = name.removeprefix(blocks).partition(".")
            if int(layer) in new_place:
                weights[f"{blocks}{new_place[int(layer)]}.{rest}"] = weight
    smaller = NativeTok(config)
    smaller.load_state_dict(weights)
    return smaller.eval()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="released weights (.safetensors)")
    parser.add_argument("--encoder", type=_layers, help="layers to keep, for example 0,3 (default: all)")
    parser.add_argument("--decoder", type=_layers, help="layers to keep (default: all)")
    parser.add_argument("--feedback", type=int, help="codes that experts hear after quantisation (default: unchanged)")
    parser.add_argument("--out", type=Path, required=True, help="the smaller weights (.safetensors)")
    args = parser.parse_args()
    try:
        smaller = shrink(load_weights(args.weights), args.encoder, args.decoder, args.feedback)
    except ValueError as error:
        sys.exit(f"nativetok.shrink: {error}")
    save_weights(smaller, args.out)


def _layers(text: str) -> list[int]:
    return [int(layer) for layer in text.split(",")]


if __name__ == "__main__":
    main()
