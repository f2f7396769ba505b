"""Measure a GPU: the bundle's graphs, PyTorch beside them, and the service over HTTP, on the same images.

    .venv/bin/python bench/gpu/run.py --provider cuda --device 0 --data PHOTOS --out FOLDER

writes results.json and results.md. With `--provider cpu --batches 1,2 --seconds 1 --no-compile` it checks itself on a
machine without a GPU. docs/gpu.md says what it needs.
"""

import argparse
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nativetok.data import find_split, load_images

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NODE = ROOT / "node_modules" / ".bin" / "node"
IMAGES = 256
PHOTOS_SENT = 32
START_SECONDS = 300
COMPILE_SECONDS = 3600

ENCODE_OVER_EAGER = 3.0
SERVICE_OVER_GRAPHS = 0.8


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--provider", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--device", type=int, default=0, help="the CUDA device")
    parser.add_argument("--tf32", choices=["on", "off"], default="off", help="for graphs, PyTorch and service alike")
    parser.add_argument("--data", type=_path, default=ROOT / "test/fixtures/photos", help="photos (its val split)")
    parser.add_argument("--model", type=_path, default=ROOT / "models/nativetok-128", help="the bundle")
    parser.add_argument("--weights", type=_path, default=ROOT / "training/weights/nativetok-128.safetensors")
    parser.add_argument("--batches", default="1,2,4,8,16,32,64,128,256")
    parser.add_argument("--seconds", type=float, default=5, help="time for each figure")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile, which takes long")
    parser.add_argument("--out", type=Path, required=True, help="folder for results.json and results.md")
    args = parser.parse_args()
    size = json.loads((args.model / "manifest.json").read_text())["image"]["size"]
    images = load_images(find_split(args.data, "val"), size)[:IMAGES]
    with tempfile.TemporaryDirectory() as folder:
        results = measure(args, images, Path(folder))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    (args.out / "results.md").write_text(markdown(results))
    print(markdown(results))


def _path(text: str) -> Path:
    # What is started from here runs in the repository's root.
    return Path(text).resolve()


def measure(args: argparse.Namespace, images: NDArray[np.uint8], folder: Path) -> dict[str, Any]:
    """Measure everything on images uint8 [M, H, W, 3]; `folder` is for files on the way."""
    pixels, tokens = folder / "pixels", folder / "tokens"
    images.tofile(pixels)
    shared = ["--tf32", args.tf32, "--batches", args.batches, "--seconds", str(args.seconds)]
    shared += ["--pixels", str(pixels), "--tokens", str(tokens)]
    engine = ["--model", str(args.model), "--provider", args.provider, "--device", str(args.device)]
    graphs = _json([str(NODE), str(HERE / "graphs.ts"), *engine, *shared])
    device = f"cuda:{args.device}" if args.provider == "cuda" else "cpu"
    peer = [sys.executable, str(HERE / "pytorch.py"), "--weights", str(args.weights), "--device", device, *shared]
    eager = _json(peer)
    compiled = None if args.no_compile else _compiled(peer)
    service = measure_service(args, images[:PHOTOS_SENT], folder / "photos")
    return {
        "provider": args.provider,
        "tf32": args.tf32,
        "machine": {
            "device": eager["device"],
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "torch": eager["torch"],
            "onnxruntime-node": json.loads((ROOT / "package.json").read_text())["dependencies"]["onnxruntime-node"],
        },
        "images": len(images),
        "graphs": graphs,
        "eager": eager,
        "compiled": compiled,
        "service": service,
        "targets": targets(graphs, eager, service),
    }


def measure_service(args: argparse.Namespace, images: NDArray[np.uint8], photos: Path) -> list[dict[str, Any]]:
    """Load the service over HTTP with JPEG photos of images uint8 [M, H, W, 3], and with the tokens it gave for them.

    One client; enough clients for a full batch to wait while another runs; and a few that send full batches.
    """
    photos.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(photos / f"{i:03}.jpg", quality=90)
    largest = max(map(int, args.batches.split(",")))
    results = []
    with _server(args, largest) as url:
        for route in ("encode", "decode"):
            for clients, batch in ((1, 1), (2 * largest, 1), (4, largest)):
                load = {"url": url, "route": route, "clients": clients, "batch": batch, "photos": photos}
                flags = [f"--{name}={value}" for name, value in {**load, "seconds": args.seconds}.items()]
                results.append(_json([str(NODE), str(ROOT / "tools/clients.ts"), *flags]))
    return results


@contextmanager
def _server(args: argparse.Namespace, max_batch: int) -> Iterator[str]:
    """Start the service on a free port, wait until it is ready, and give its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = {"provider": args.provider, "devices": args.device, "tf32": args.tf32, "max-batch": max_batch}
    flags |= {"model": args.model, "port": port, "drain-delay": 0, "log-level": "warn"}
    command = [str(NODE), "src/server.ts", *(f"--{name}={value}" for name, value in flags.items())]
    server = subprocess.Popen(command, cwd=ROOT, stdout=sys.stderr)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + START_SECONDS
        while not _ready(url):
            if server.poll() is not None or time.monotonic() > end:
                sys.exit("the service did not start")
            time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        server.wait()


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health/ready") as answer:
            return answer.status == 200
    except urllib.error.URLError:
        return False


def _compiled(peer: list[str]) -> dict[str, Any]:
    """PyTorch compiled, or why it failed: the other figures must not be lost with it."""
    try:
        run = subprocess.run([*peer, "--compiled"], stdout=subprocess.PIPE, text=True, timeout=COMPILE_SECONDS)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done within {COMPILE_SECONDS} s"}
    return json.loads(run.stdout) if run.returncode == 0 else {"failed": f"exit code {run.returncode}"}


def _json(command: list[str]) -> Any:
    """What a command prints. Ends this process if the command fails; the command has said why."""
    print("$", *command, file=sys.stderr)
    run = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if run.returncode != 0:
        sys.exit(f"{Path(command[1]).name} failed")
    return json.loads(run.stdout)


def targets(graphs: dict[str, Any], eager: dict[str, Any], service: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The ratios to reach: of the graphs where they are least ahead, of the service at its best."""
    pairs = zip(graphs["graphs"], eager["batches"], strict=True)
    over_eager = min(ours["encodeImagesPerSecond"] / theirs["encodeImagesPerSecond"] for ours, theirs in pairs)
    bare = max(row["encodeImagesPerSecond"] for row in graphs["graphs"])
    served = max(row["imagesPerSecond"] for row in service if row["route"] == "encode")
    return [
        _target("encoding, graphs over PyTorch eager, at the batch where that is least", over_eager, ENCODE_OVER_EAGER),
        _target("encoding, service over graphs, each at its best", served / bare, SERVICE_OVER_GRAPHS),
    ]


def _target(what: str, ratio: float, at_least: float) -> dict[str, Any]:
    return {"what": what, "ratio": ratio, "atLeast": at_least, "met": ratio >= at_least}


def markdown(results: dict[str, Any]) -> str:
    """The results as a Markdown page."""
    on_gpu = results["provider"] == "cuda"
    machine = ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    lines = [
        "# Graphs, PyTorch and the service on " + (results["machine"]["device"] if on_gpu else "a CPU"),
        "" if on_gpu else "\n**A CPU run: it shows that the script works and says nothing of a GPU.**\n",
        f"{machine}; TF32 {results['tf32']}; bundle {results['graphs']['bundle']}; {results['images']} images.",
        *("", "## Targets", "", "| what | ratio | at least | met |", "| --- | --- | --- | --- |"),
    ]
    for target in results["targets"]:
        met = ("yes" if target["met"] else "no") if on_gpu else "not judged on a CPU"
        lines.append(f"| {target['what']} | {target['ratio']:.2f} | {target['atLeast']} | {met} |")
    for route in ("encode", "decode"):
        lines += _rates(results, route)
    lines += ["", "## Time in the graphs", ""]
    names = list(results["graphs"]["graphs"][0]["milliseconds"])
    lines += [f"| batch | {', ms | '.join(names)}, ms | MoCET's share of encoding |", "| --- " * (len(names) + 2) + "|"]
    for row in results["graphs"]["graphs"]:
        times = " | ".join(f"{row['milliseconds'][name]:.2f}" for name in names)
        lines.append(f"| {row['batch']} | {times} | {row['mocetShare']:.0%} |")
    lines += ["", "## Compared with the CPU's tokens", ""]
    lines += ["| batch | tokens equal | images equal | first difference: least, median |", "| --- | --- | --- | --- |"]
    for row in results["graphs"]["tokens"]:
        first = row["firstDifference"]
        where = f"{first['least']}, {first['median']:.0f}" if first else "none"
        lines.append(f"| {row['batch']} | {row['tokensEqual']:.4%} | {row['imagesEqual']:.2%} | {where} |")
    pixels = results["graphs"]["pixels"]
    lines += [
        "",
        f"Pixels decoded from the same tokens: {pixels['valuesEqual']:.4%} of the values equal, mean difference "
        f"{pixels['mean']:.5f}, largest {pixels['largest']}, of 255. PyTorch eager on the same device: "
        f"{results['eager']['tokensEqual']:.4%} of the tokens equal.",
        *("", "## The service over HTTP", ""),
        *(
            "| route | clients | images per request | images per second | p50, ms | p99, ms | errors |",
            "| --- " * 7 + "|",
        ),
    ]
    for row in results["service"]:
        latency = " | ".join(f"{row['latencyMs'][name]:.1f}" for name in ("p50", "p99"))
        errors = json.dumps(row["errors"])
        rate = f"{row['imagesPerSecond']:.0f}"
        lines.append(f"| {row['route']} | {row['clients']} | {row['batch']} | {rate} | {latency} | {errors} |")
    return "\n".join(lines) + "\n"


def _rates(results: dict[str, Any], route: str) -> list[str]:
    """Images per second by batch."""
    key, compiled = f"{route}ImagesPerSecond", results["compiled"]
    lines = ["", f"## {route.capitalize()}, images per second", ""]
    lines += ["| batch | graphs | PyTorch eager | PyTorch compiled | graphs over eager |", "| --- " * 5 + "|"]
    for i, (ours, eager) in enumerate(zip(results["graphs"]["graphs"], results["eager"]["batches"], strict=True)):
        if compiled is None:
            peer = "not run"
        else:
            peer = compiled["failed"] if "failed" in compiled else f"{compiled['batches'][i][key]:.1f}"
        ratio = ours[key] / eager[key]
        lines.append(f"| {ours['batch']} | {ours[key]:.1f} | {eager[key]:.1f} | {peer} | {ratio:.2f} |")
    return lines


if __name__ == "__main__":
    main()
