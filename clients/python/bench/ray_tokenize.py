"""Images per second of Ray Data with the model in its actors, beside a bare loop in one process per core.

Both read files, decode them with Pillow, crop them and run the graphs on one thread. Rounds alternate.

python clients/python/bench/ray_tokenize.py PHOTOS --bundle models/nativetok-128
"""

import argparse
import multiprocessing
import os
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median

import ray
import ray.data

from nativetok_client import Tokenizer
from nativetok_client.ray import Tokenize
from nativetok_client.torch import SUFFIXES

ROUNDS = 5
BATCH = 64


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder")
    parser.add_argument("--bundle", type=Path, default=Path("models/nativetok-128"), help="default %(default)s")
    parser.add_argument("--images", type=int, default=4000, help="of a round; photos repeat (default %(default)s)")
    options = parser.parse_args()

    cores = len(os.sched_getaffinity(0))
    photos = sorted(str(path.resolve()) for path in options.photos.rglob("*") if path.suffix.lower() in SUFFIXES)
    paths = (photos * (options.images // len(photos) + 1))[: options.images]
    bundle = str(options.bundle.resolve())
    ray.init("local", num_cpus=cores + 1, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    actors = ray.data.ActorPoolStrategy(size=cores)

    def with_ray() -> float:
        images = ray.data.read_binary_files(paths, override_num_blocks=len(paths) // BATCH)
        tokens = images.map_batches(
            Tokenize, fn_constructor_args=[bundle], batch_format="pyarrow", num_cpus=1, compute=actors
        )
        return rate(batch.num_rows for batch in tokens.iter_batches(batch_size=None, batch_format="pyarrow"))

    def bare() -> float:
        context = multiprocessing.get_context("spawn")
        with context.Pool(cores, open_bundle, [bundle]) as pool:
            parts = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
            return rate(pool.imap_unordered(encode, parts))

    print(f"{len(paths)} images of {len(photos)} files a round, {cores} cores; images/s from the first batch on")
    rates: dict[str, list[float]] = {"bare loop": [], "Ray Data": []}
    for round in range(ROUNDS):
        for name, run in [("bare loop", bare), ("Ray Data", with_ray)][:: 1 if round % 2 else -1]:
            rates[name].append(run())
            print(f"round {round + 1}: {name} {rates[name][-1]:.1f}", flush=True)
    medians = {name: median(values) for name, values in rates.items()}
    print(f"median: {', '.join(f'{name} {value:.1f}' for name, value in medians.items())} images/s")
    print(f"Ray Data / bare loop: {medians['Ray Data'] / medians['bare loop']:.2f}")


def rate(done: Iterable[int]) -> float:
    """Images per second of batches that are done, from the first one on: until then, processes load the model."""
    start, images = 0.0, 0
    for count in done:
        if start:
            images += count
        else:
            start = time.monotonic()
    return images / (time.monotonic() - start)


tokenizer: Tokenizer
"""A process's own."""


def open_bundle(bundle: str) -> None:
    """Readies a process of the bare loop."""
    global tokenizer
    tokenizer = Tokenizer.open(bundle, threads=1)


def encode(paths: list[str]) -> int:
    """Tokenizes a batch."""
    return len(tokenizer.encode(paths, progress=False))


if __name__ == "__main__":
    main()
