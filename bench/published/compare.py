"""A converted bundle as an engine runs it, beside PyTorch eager with the same weights: float32, as many threads.

    PYTHONPATH=training python bench/published/compare.py CHECKPOINT BUNDLE [--threads N]

Both load once and then work in turns, so that what else the machine does hits both alike. Prints a table of images
per second and seconds of processor time per image, medians over the rounds, and of memory: the most that was resident
up to this line, and what of it is private after it. On a machine that others use, processor time is the steadier.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NODE = HERE / "../../bin/node"


class Worker:
    """A process that does `encode N` or `decode N` when it is told to."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    def run(self, work: str, batch: int) -> dict[str, Any]:
        assert self.process.stdin
        print(work, batch, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.process.args} ended")
        return json.loads(line)  # type: ignore[no-any-return]


def pytorch(checkpoint: Path, threads: int) -> None:
    """The PyTorch side: the module that the bundle was converted from."""
    import time

    import torch

    from nativetok.published.checkpoint import read_checkpoint
    from nativetok.published.recognise import load, read_config, recognise

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    read = read_checkpoint(checkpoint)
    config = checkpoint.with_name("config.json")
    model = load(recognise(read, read_config(config) if config.exists() else None), read)
    sizes = model.sizes
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        work, batch = line.split()[0], int(line.split()[1])
        if work == "encode":
            count = batch * sizes.image**2 * 3
            given = (torch.arange(count) * 7919 % 251).to(torch.uint8).view(batch, sizes.image, sizes.image, 3)
        else:
            given = (torch.arange(batch * sizes.length) * 31 % sizes.codebook_size).view(batch, sizes.length)
        start, cpu = time.perf_counter(), time.process_time()
        getattr(model, work)(given)
        answer = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu, "memory": memory()}
        print(json.dumps(answer), flush=True)


def memory() -> dict[str, int]:
    """MiB: the most that was resident so far; and now, what no other process shares or could read again from a file."""

    def field(file: str, name: str) -> int:
        lines = (line.split() for line in Path(f"/proc/self/{file}").read_text().splitlines())
        return next(round(int(line[1]) / 1024) for line in lines if line[0] == f"{name}:")

    return {"peak": field("status", "VmHWM"), "private": field("smaps_rollup", "Private_Dirty")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        pytorch(args.checkpoint, args.threads)
        return
    sides = {
        "engine": Worker([str(NODE), str(HERE / "worker.ts"), str(args.bundle), str(args.threads)]),
        "pytorch": Worker(
            [sys.executable, __file__, str(args.checkpoint), ".", "--threads", str(args.threads), "--worker"]
        ),
    }
    print(f"{args.threads} threads, {args.rounds} rounds")
    print("| work | batch | side | images/s | processor s/image | peak MiB | private MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for work in ("encode", "decode"):
        for batch in args.batches:
            taken: dict[str, list[dict[str, Any]]] = defaultdict(list)
            for side in sides.values():
                side.run(work, batch)
            for _ in range(args.rounds):
                for name, side in sides.items():
                    taken[name].append(side.run(work, batch))
            for name, runs in taken.items():
                rate = batch / statistics.median(run["seconds"] for run in runs)
                cpu = statistics.median(run["cpu"] for run in runs) / batch
                held = max(run["memory"]["peak"] for run in runs), max(run["memory"]["private"] for run in runs)
                print(f"| {work} | {batch} | {name} | {rate:.2f} | {cpu:.3f} | {held[0]} | {held[1]} |", flush=True)
    for side in sides.values():
        side.process.kill()


if __name__ == "__main__":
    main()
