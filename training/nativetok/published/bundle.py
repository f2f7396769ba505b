"""Writes a bundle of format 2 (docs/bundle.md) as a whole or not at all."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nativetok.published.checkpoint import sha256
from nativetok.published.graphs import stages
from nativetok.published.nativetok import NativeTokSizes
from nativetok.published.tokenizer import Tokenizer

FORMAT = 2


@dataclass(frozen=True)
class Source:
    """Where a bundle's weights came from."""

    family: str
    file: str
    sha256: str
    url: str | None
    licence: str

    def manifest(self) -> dict[str, str]:
        """The manifest's `source`."""
        fields = {"family": self.family, "file": self.file, "sha256": self.sha256, "licence": self.licence}
        return fields | ({"url": self.url} if self.url else {})


@contextmanager
def new_folder(out: Path, force: bool) -> Iterator[Path]:
    """A folder that takes its place at `out` when all went well, and is gone otherwise.

    Raises FileExistsError where `out` exists already and nobody forces it to be replaced.
    """
    if out.exists() and not force:
        raise FileExistsError(f"{out} exists already (--force replaces it)")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield partial
        partial.chmod(0o755)
        if out.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
            out.rename(old / out.name)
            partial.rename(out)
            shutil.rmtree(old)
        else:
            partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_codebook(model: Tokenizer, folder: Path) -> None:
    """Write the entries as the decoder sees them."""
    np.save(folder / "codebook.npy", np.ascontiguousarray(model.quantize.entries().numpy()))


def write_manifest(
    folder: Path, name: str, model: Tokenizer, graphs: dict[str, list[str]], source: Source, quality: dict[str, Any]
) -> None:
    """Write the manifest of a folder that holds everything else."""
    sizes = model.sizes
    causal = isinstance(sizes, NativeTokSizes)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "name": name,
        "kind": "causal" if causal else "parallel",
        "prefixes": causal,
        "image": {
            "size": sizes.image,
            "kernel": "bicubic",
            "longer_side": "floor",
            "crop_offset": "half-even",
            "space": "srgb",
            "background": "#ffffff",
        },
        "tokens": {"length": sizes.length, "stages": stages(sizes.length) if causal else [sizes.length]},
        "codebook": {"size": sizes.codebook_size, "dimension": sizes.code_width, "normalised": sizes.normalised},
        "handover": "state" if causal else "none",
    }
    if isinstance(sizes, NativeTokSizes):
        count = (sizes.image // sizes.encoder.patch) ** 2 + 1
        manifest |= {"latents": {"count": count, "width": sizes.experts.width}, "state": {"width": sizes.experts.width}}
    manifest |= {
        "graphs": {graph: {"file": file, "weights": weights} for graph, (file, *weights) in graphs.items()},
        "files": {path.name: sha256(path) for path in sorted(folder.iterdir())},
        "source": source.manifest(),
        "training": {},
        "quality": quality,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
