"""Ray Data on a cluster of three nodes on this machine, some of which die."""

import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from conftest import BUNDLE, FIXTURES, PHOTOS, Service

from nativetok_client import ModelChangedError, Tokenizer
from nativetok_client.info import Preparation
from nativetok_client.items import Pixels, Tokens
from nativetok_client.views import views_of

pytest.importorskip("ray", reason="Ray Data is not installed: pip install 'nativetok-client[ray]'")

import pyarrow as pa
import pyarrow.parquet as pq
import ray.data
from ray.cluster_utils import Cluster
from ray.data.block import BlockAccessor

from nativetok_client.ray import Tokenize

EXAMPLE = Path(__file__).parents[1] / "examples" / "ray_tokenize.py"
FULL = sorted((FIXTURES / "photos" / "full").glob("*.jpg"))
HOW = Preparation(128, "lanczos3", "round", "ceil")
LENGTH = 32
COPIES = 2
"""Of every photo, so that the job lasts long enough to be interrupted."""
SHARD = 6
PATIENCE = 300
"""Seconds, on a machine that does much else."""
NODE = {"memory": 2 << 30, "object_store_memory": 80 << 20}


@pytest.fixture(scope="module")
def local() -> Iterator[Tokenizer]:
    with Tokenizer.open(BUNDLE, threads=1) as local:
        yield local


@pytest.fixture(scope="module")
def tokenize() -> Tokenize:
    return Tokenize(BUNDLE, image="image", length=LENGTH)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """CPUs in name: the nodes share those of this machine. The head has too few for both actors of the job below."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    head = {
        **NODE,
        "num_cpus": 1,
        "include_dashboard": False,
        "_system_config": {"prestart_worker_first_driver": False},
    }
    cluster = Cluster(initialize_head=True, connect=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(**NODE, num_cpus=2)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def batch(images: list[Any] | Pixels, **columns: list[Any]) -> pa.Table:
    """A batch as `map_batches` hands it over."""
    cells = np.empty(len(images), object)
    cells[:] = list(images)
    return BlockAccessor.batch_to_arrow_block({"image": cells, **columns})


def test_images_come_in_every_form_that_ray_data_reads(
    tokenize: Tokenize, local: Tokenizer, known: Tokens, pixels: Pixels
) -> None:
    files = [path.read_bytes() for path in PHOTOS[:3]]
    structs = [
        {"bytes": files[0], "path": "unused"},
        {"bytes": None, "path": str(PHOTOS[1])},
        {"bytes": files[2], "path": None},
    ]
    for images in (files, [str(path) for path in PHOTOS[:3]], structs, pixels[:3]):
        rows = tokenize(batch(images, label=[5, None, 7]))
        assert rows.schema.field("tokens").type == pa.list_(pa.uint16())
        assert rows["tokens"].to_pylist() == known[:3, :LENGTH].tolist()
        assert rows.drop_columns(["tokens"]).to_pydict() == {
            "label": [5, None, 7],
            "view": [0, 0, 0],
            "error": [None, None, None],
        }
    photo = PIL.Image.open(FULL[0]).convert("RGB")
    sizes = [np.asarray(photo), np.asarray(photo.resize((300, 200)))]
    assert tokenize(batch(sizes))["tokens"].to_pylist() == local.encode(sizes, LENGTH).tolist()


def test_each_view_is_a_row(local: Tokenizer, pixels: Pixels) -> None:
    for crops, flip, many in ("centre", True, 2), ("ten", False, 10):
        tokenize = Tokenize(BUNDLE, image="image", length=LENGTH, crops=crops, flip=flip)
        rows = tokenize(batch(pixels[:2], key=["a", "b"]))
        views = np.concatenate([views_of(image, 0, HOW, crops, flip) for image in pixels[:2]])
        assert rows["tokens"].to_pylist() == local.encode(views, LENGTH).tolist()
        assert rows["key"].to_pylist() == ["a"] * many + ["b"] * many
        assert rows["view"].to_pylist() == list(range(many)) * 2


def test_a_wrong_image_is_a_row_that_says_why(tokenize: Tokenize, known: Tokens) -> None:
    cut = FULL[0].read_bytes()[:2000]
    files = tokenize(batch([b"no image", PHOTOS[0].read_bytes(), cut, None], key=["a", "b", "c", "d"])).to_pylist()
    assert files[1] == {"key": "b", "view": 0, "tokens": known[0, :LENGTH].tolist(), "error": None}
    (lost,) = tokenize(batch([{"bytes": None, "path": "/nowhere.jpg"}], key=["e"])).to_pylist()
    wrong = [files[0], files[2], files[3], lost]
    assert [(row["key"], row["view"], row["tokens"]) for row in wrong] == [(key, None, None) for key in "acde"]
    reasons = ["it is none of JPEG, PNG, WEBP, AVIF, GIF, TIFF$", "truncated", "must be a path, bytes", "No such file"]
    for row, reason in zip(wrong, reasons, strict=True):
        assert re.search(reason, row["error"])


def test_a_batch_or_a_model_that_is_none_is_refused_by_name(tokenize: Tokenize, pixels: Pixels) -> None:
    with pytest.raises(ModelChangedError, match=r"has the model [0-9a-f]{16}…, not 0{16}…"):
        Tokenize(BUNDLE, model="0" * 64)
    with pytest.raises(ValueError, match="mirrored already"):
        Tokenize(BUNDLE, crops="ten", flip=True)
    with pytest.raises(TypeError, match="batch_format='pyarrow'"):
        tokenize({"bytes": np.array([b""])})
    with pytest.raises(ValueError, match=r"no column 'bytes' of images; there are \['image'\]"):
        Tokenize(BUNDLE)(batch(pixels[:1]))
    with pytest.raises(ValueError, match=r"\['error', 'view'\] are there already"):
        tokenize(pa.table({"image": [b""], "view": [1], "error": [1]}))


def test_actors_have_the_service_s_tokens_for_the_pixels_that_ray_data_reads(
    cluster: Cluster, service: Service, known: Tokens
) -> None:
    paths = [str(path) for path in PHOTOS]
    images = ray.data.read_images(paths, include_paths=True, mode="RGB", file_extensions=["webp"])
    rows = images.map_batches(
        Tokenize,
        fn_constructor_args=[service.url],
        fn_constructor_kwargs={"image": "image"},
        batch_format="pyarrow",
        num_cpus=0.5,
        compute=ray.data.ActorPoolStrategy(size=1),
    ).take_all()
    assert sorted(row["path"] for row in rows) == paths, "lost or twice"
    by_path = {row["path"]: row["tokens"] for row in rows}
    assert [by_path[path] for path in paths] == known.tolist()


@dataclass
class Job:
    """The example, as a process."""

    cluster: Cluster
    photos: Path
    out: Path
    process: subprocess.Popen[bytes] | None = None

    def command(self, *arguments: str) -> list[str]:
        """The command line."""
        command = [sys.executable, str(EXAMPLE), str(self.photos), "--out", str(self.out), "--tokenizer", str(BUNDLE)]
        command += ["--crops", "ten", "--length", str(LENGTH), "--shard", str(SHARD), "--actors", "2"]
        return [*command, *arguments]

    def start(self) -> None:
        """Starts it on the cluster."""
        environment = {**os.environ, "RAY_ADDRESS": self.cluster.address}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(self.command(), env=environment, stdout=log, stderr=subprocess.STDOUT)

    def end(self) -> tuple[int, str]:
        """Its exit status and what it said."""
        assert self.process
        return self.process.wait(PATIENCE), self.log.read_text()

    def wait_for(self, what: Callable[[], bool]) -> None:
        """Waits while it works."""
        assert self.process
        limit = time.monotonic() + PATIENCE
        while not what():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < limit, "nothing happens any more"
            time.sleep(0.1)

    @property
    def log(self) -> Path:
        """What it says."""
        return self.out.parent / "said.txt"

    @property
    def shards(self) -> int:
        """How many are written."""
        return len(list((self.out / "checkpoint").glob("*[0-9].parquet")))

    @property
    def actors(self) -> dict[int, Any]:
        """The processes of the actors that tokenize, each with its node."""
        found = {}
        for node in self.cluster.list_all_nodes():
            raylet = node.all_processes["raylet"][0].process.pid
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    parent = int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
                    title = (process / "cmdline").read_bytes()
                    if parent == raylet and title.startswith(b"ray::MapWorker(MapBatches(Tokenize))"):
                        found[int(process.name)] = node
        return found


def test_an_actor_a_node_and_the_job_itself_are_killed_and_nothing_is_lost_or_twice(
    cluster: Cluster, local: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = tmp_path / "photos"
    originals = {}
    for number in range(COPIES):
        for path in [*PHOTOS, *FULL]:
            copy = photos / ("photo", "_small")[path.suffix == ".webp"] / f"{path.stem}-{number}{path.suffix}"
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
            originals[copy.relative_to(photos).with_suffix("").as_posix()] = path
    (photos / "photo" / "wrong.jpg").write_bytes(b"no image")
    (photos / "_small" / "notes.txt").write_text("not read")

    job = Job(cluster, photos, tmp_path / "tokens")
    job.start()
    job.wait_for(lambda: job.shards >= 1)
    nodes = job.actors
    lost = next(node for node in nodes.values() if node is not cluster.head_node)
    actor = next(actor for actor, node in nodes.items() if node is not lost)
    os.kill(actor, signal.SIGKILL)
    cluster.remove_node(lost, allow_graceful=False)
    seen = job.shards
    job.wait_for(lambda: job.shards >= seen + 2)
    assert not nodes.keys() & job.actors.keys(), "both had to be started again"
    assert job.process
    job.process.kill()
    job.end()
    assert job.shards < len(originals) // SHARD, "it was done before it was interrupted"

    job.start()
    status, said = job.end()
    assert status == 3, said
    assert f"{10 * len(originals)} rows, 1 images failed" in said
    (failed,) = pq.ParquetDataset(job.out / "data" / "failed=true").read().to_pylist()
    assert (failed["key"], failed["label"], failed["tokens"]) == ("photo/wrong", 1, None)
    assert failed["error"].startswith("cannot be decoded: it is none of JPEG")

    table = pq.ParquetDataset(job.out / "data" / "failed=false").read()
    assert table.schema.field("tokens").type == pa.list_(pa.uint16())
    rows = {(row["key"], row["view"]): row for row in table.to_pylist()}
    assert table.num_rows == len(rows), "a view is there twice"
    assert rows.keys() == {(key, view) for key in originals for view in range(10)}, "a view was lost"
    assert all(row["label"] == row["key"].startswith("photo/") for row in rows.values())
    for path in set(originals.values()):
        expected = local.encode(views_of(path, 0, HOW, "ten", False), LENGTH).tolist()
        for key in (key for key, original in originals.items() if original == path):
            assert [rows[key, view]["tokens"] for view in range(10)] == expected, key

    monkeypatch.setattr(sys, "argv", job.command("--crops", "centre")[1:])
    with pytest.raises(SystemExit, match=r"tokens\.json is of another job"):
        runpy.run_path(str(EXAMPLE), run_name="__main__")
