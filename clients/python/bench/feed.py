"""How long a training loop waits for tokens: the share of its time, at several speeds of the loop.

python clients/python/bench/feed.py PHOTOS --url http://localhost:8080
"""

import argparse
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from torch.utils.data import DataLoader

from nativetok_client import Tokenizer
from nativetok_client.torch import SUFFIXES, TokenDataset

BATCH = 64
STEPS = 24
"""Measured of each; the first few more are not, until what lies ready at the start is used up."""
WARMUP = 12


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder")
    parser.add_argument("--url", default="http://localhost:8080", help="the service (default %(default)s)")
    parser.add_argument("--length", type=int, default=32, help="tokens a photo (default 32)")
    options = parser.parse_args()

    photos = sorted(path for path in options.photos.rglob("*") if path.suffix.lower() in SUFFIXES)
    images = photos * (BATCH * (STEPS + WARMUP) // len(photos) + 1)
    with Tokenizer.connect(options.url) as tokenizer:

        def one_after_the_other() -> Iterator[object]:
            for start in range(0, len(images), BATCH):
                yield tokenizer.encode(images[start : start + BATCH], options.length)

        def ahead(workers: int) -> Iterable[object]:
            return DataLoader(TokenDataset(images, options.url, options.length), BATCH, num_workers=workers)

        before = time.monotonic()
        tokenizer.encode(images, options.length)
        rate = len(images) / (time.monotonic() - before)
        print(f"the service alone: {rate:.0f} images/s, files of {len(photos)} photos, {options.length} tokens each")
        for share in (0.5, 0.8, 1.0):
            step = BATCH / (share * rate)
            waits = {
                "a call each step": waiting(one_after_the_other(), step),
                "TokenDataset": waiting(ahead(0), step),
                "TokenDataset, 2 workers": waiting(ahead(2), step),
            }
            said = ", ".join(f"{name} {100 * wait:.0f} %" for name, wait in waits.items())
            print(f"a loop that needs {100 * share:.0f} % of that ({1000 * step:.0f} ms a step) waits: {said}")


def waiting(batches: Iterable[object], step: float) -> float:
    """The share of its time that a loop waits whose every step takes so many seconds of a GPU's time."""
    waited = 0.0
    start = time.monotonic()
    iterator = iter(batches)
    for number in range(STEPS + WARMUP):
        if number == WARMUP:
            start, waited = time.monotonic(), 0.0
        before = time.monotonic()
        next(iterator)
        waited += time.monotonic() - before
        time.sleep(step)
    return waited / (time.monotonic() - start)


if __name__ == "__main__":
    main()
