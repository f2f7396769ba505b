"""A bundle's folder: its manifest, read and verified."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nativetok_client.errors import BundleError
from nativetok_client.info import Info, Preparation

FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
CHUNK = 1 << 20


@dataclass(frozen=True)
class Bundle:
    """A verified bundle, of either format."""

    folder: Path
    info: Info
    handover: Literal["ids", "state", "none"]
    """What a stage passes to the next one."""
    graphs: Mapping[str, Path]
    """The ONNX files by name: `encoder`, `mocet-1` to `mocet-k`, `decoder`."""
    codebook: NDArray[np.float32]


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle and hold every file against its sha256 in the manifest.

    Raises BundleError that names the file and what is wrong.
    """
    path = folder / "manifest.json"
    try:
        text = path.read_bytes()
        manifest = json.loads(text)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise BundleError(f"{path}: is not JSON ({error})") from error
    try:
        read = {1: _read_format_1, 2: _read_format_2}[manifest["format"]]
    except (KeyError, TypeError):
        format = manifest.get("format") if isinstance(manifest, dict) else None
        raise BundleError(f"{path}: format {format!r} is not supported; this package reads 1 and 2") from None
    try:
        files: dict[str, str] = manifest["files"]
        _verify(folder, files)
        return read(folder, manifest, _digest([*files.values(), hashlib.sha256(text).hexdigest()]))
    except (KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{path}: lacks or misstates {error}") from error


def _read_format_1(folder: Path, manifest: Mapping[str, Any], digest: str) -> Bundle:
    names = ["encoder", *(f"mocet-{k + 1}" for k in range(len(manifest["tokens"]["stages"]))), "decoder"]
    files = {name: [f"{name}.onnx"] for name in names}
    preparation = Preparation(manifest["image"]["size"], manifest["image"]["kernel"], "round", "ceil")
    return _bundle(folder, manifest, digest, files, preparation, "causal", True, "ids")


def _read_format_2(folder: Path, manifest: Mapping[str, Any], digest: str) -> Bundle:
    files = {name: [graph["file"], *graph.get("weights", [])] for name, graph in manifest["graphs"].items()}
    image = manifest["image"]
    preparation = Preparation(image["size"], image["kernel"], image["longer_side"], image["crop_offset"])
    kind, prefixes, handover = manifest["kind"], manifest["prefixes"], manifest["handover"]
    return _bundle(folder, manifest, digest, files, preparation, kind, prefixes, handover)


def _bundle(
    folder: Path,
    manifest: Mapping[str, Any],
    digest: str,
    files: Mapping[str, list[str]],
    preparation: Preparation,
    kind: str,
    prefixes: bool,
    handover: Literal["ids", "state", "none"],
) -> Bundle:
    """A bundle of either format. `files` are those of each graph, the ONNX file first."""
    hashes = manifest["files"]
    stages = tuple(manifest["tokens"]["stages"])
    meaning = ["codebook.npy", *(file for name in files if name != "decoder" for file in files[name])]
    for file in meaning + files["decoder"]:
        if file not in hashes:
            raise BundleError(f"{folder / 'manifest.json'}: lists no {file}")
    needed = 0 if handover == "none" else len(stages)
    if set(files) != {"encoder", "decoder", *(f"mocet-{k + 1}" for k in range(needed))}:
        raise BundleError(f"{folder / 'manifest.json'}: graphs {sorted(files)} do not fit stages {list(stages)}")
    size, dimension = manifest["codebook"]["size"], manifest["codebook"]["dimension"]
    codebook = np.load(folder / "codebook.npy", allow_pickle=False)
    if codebook.shape != (size, dimension) or codebook.dtype != np.float32:
        found = f"{codebook.dtype} {list(codebook.shape)}"
        raise BundleError(f"codebook.npy: is {found}, but the manifest says float32 {[size, dimension]}")
    info = Info(
        name=manifest["name"],
        model=_digest(hashes[file] for file in meaning),
        bundle=digest,
        image_size=preparation.size,
        preparation=preparation,
        length=manifest["tokens"]["length"],
        stages=stages,
        codebook_size=size,
        codebook_dimension=dimension,
        kind=kind,
        prefixes=prefixes,
        raw=manifest,
    )
    graphs = {name: folder / parts[0] for name, parts in files.items()}
    return Bundle(folder, info, handover, graphs, codebook)


def _verify(folder: Path, files: Mapping[str, str]) -> None:
    for file, expected in files.items():
        if not FILE_NAME.fullmatch(file):
            raise BundleError(f"{folder / 'manifest.json'}: {file!r} is not the name of a file in the bundle's folder")
        hash = hashlib.sha256()
        try:
            with (folder / file).open("rb") as opened:
                while chunk := opened.read(CHUNK):
                    hash.update(chunk)
        except OSError as error:
            raise BundleError(f"{folder / file}: cannot be read ({error.strerror})") from error
        if hash.hexdigest() != expected:
            raise BundleError(f"{folder / file}: sha256 is {hash.hexdigest()}, the manifest says {expected}")


def _digest(hashes: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()
