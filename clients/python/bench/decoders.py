"""How many tokens differ where Pillow prepares a photo instead of the service's libvips; both aim at the same pixels.

python clients/python/bench/decoders.py PHOTOS --url http://localhost:8080 --bundle models/nativetok-128
"""

import argparse
from pathlib import Path

import numpy as np

from nativetok_client import Tokenizer
from nativetok_client.torch import SUFFIXES


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder")
    parser.add_argument("--url", default="http://localhost:8080", help="the service (default %(default)s)")
    parser.add_argument("--bundle", type=Path, default=Path("models/nativetok-128"), help="default %(default)s")
    options = parser.parse_args()

    photos = sorted(path for path in options.photos.rglob("*") if path.suffix.lower() in SUFFIXES)
    with Tokenizer.connect(options.url) as service, Tokenizer.open(options.bundle) as local:
        equal = service.encode(photos) == local.encode(photos)
    print(f"{len(photos)} photos: {100 * equal.mean():.1f} % of the tokens are equal")
    print(f"all tokens equal: {equal.all(1).sum()} photos; the first token: {equal[:, 0].sum()}")
    quarters = np.array_split(equal, 4, axis=1)
    print(f"equal in each quarter of the sequence: {', '.join(f'{100 * part.mean():.0f} %' for part in quarters)}")


if __name__ == "__main__":
    main()
