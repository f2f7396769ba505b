"""Samples tokens for a class and has a running service decode each growing prefix, as an animation.

python examples/generator/sample.py --label sunflowers --out sunflowers.webp
"""

import argparse
import io
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image

from study.generator import Generator, load_generator

RELEASED = Path(__file__).parent / "generator.safetensors"
FRAME_MS = 80
LAST_FRAME_MS = 2000


def frames(generator: Generator, label: int, url: str, temperature: float, seed: int) -> Iterator[Image.Image]:
    """Sample one sequence token by token and yield the service's picture of each prefix.

    Raises SystemExit with the service's message if it refuses a request.
    """
    random = torch.Generator().manual_seed(seed)
    tokens: list[int] = []
    for token in generator.grow(torch.tensor([label]), temperature, random):
        tokens.append(int(token))
        yield decode(url, tokens)


def decode(url: str, tokens: list[int]) -> Image.Image:
    """Have the service decode a sequence of any length."""
    body = json.dumps({"tokens": tokens}).encode()
    request = urllib.request.Request(f"{url}/decode?format=png", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request) as answer:
            return Image.open(io.BytesIO(answer.read())).convert("RGB")
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{url}: {json.load(error)['detail']}") from None


def main() -> None:
    """Run the command line: write the animation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=RELEASED, help="generator weights (default: the released ones)")
    parser.add_argument("--label", required=True, help="what to draw; `list` prints all labels")
    parser.add_argument("--out", type=Path, help="file for the animation, .webp or .gif (default LABEL.webp)")
    parser.add_argument("--url", default="http://localhost:8080", help="URL of the service (default %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.8, help="lower is less varied (default 0.8)")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives another picture (default 0)")
    options = parser.parse_args()

    generator = load_generator(options.weights)
    labels = generator.config.labels
    if options.label not in labels:
        parser.exit(0 if options.label == "list" else 2, "labels: " + ", ".join(labels) + "\n")
    shown = list(frames(generator, labels.index(options.label), options.url, options.temperature, options.seed))
    out = options.out or Path(f"{options.label}.webp")
    durations = [FRAME_MS] * (len(shown) - 1) + [LAST_FRAME_MS]
    shown[0].save(out, save_all=True, append_images=shown[1:], duration=durations, loop=0)
    print(f"{out}: {len(shown)} tokens")


if __name__ == "__main__":
    main()
