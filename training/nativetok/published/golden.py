"""Checks a bundle of TiTok-L-32 against the ids that its authors printed.

    python -m nativetok.published.golden models/titok-l32 1d-tokenizer/assets

The second folder holds the two images, which are files of the authors' repository and not copied here. The ids were
made on a GPU that computes products with less precision, so one or two of an image's 32 may differ.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from nativetok.data import prepare
from nativetok.published.parity import encode

EXPECTED = Path(__file__).parent / "titok-l32-golden.json"
ALLOWED = 2
"""Ids of an image that may differ."""


def compare(bundle: Path, images: Path, expected: Path = EXPECTED) -> list[int]:
    """Return how many ids of each expected image differ.

    Raises FileNotFoundError or ValueError where an image is missing or another one.
    """
    wrong = []
    for image in json.loads(expected.read_text())["images"]:
        path = images / Path(image["file"]).name
        if hashlib.sha256(path.read_bytes()).hexdigest() != image["sha256"]:
            raise ValueError(f"{path} is not the image that the ids were made of")
        with Image.open(path) as picture:
            pixels = prepare(picture, picture.height, "bicubic", "floor", "half-even")
        tokens = encode(bundle, pixels[None]).tokens[0]
        if len(tokens) != len(image["tokens"]):
            raise ValueError(f"{bundle} gives {len(tokens)} tokens, not {len(image['tokens'])}")
        wrong.append(int((tokens != np.array(image["tokens"])).sum()))
    return wrong


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("images", type=Path)
    args = parser.parse_args()
    try:
        wrong = compare(args.bundle, args.images)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"ids that differ: {wrong} of 32 each")
    if max(wrong) > ALLOWED:
        sys.exit("error: this is not what TiTok-L-32 gives")


if __name__ == "__main__":
    main()
