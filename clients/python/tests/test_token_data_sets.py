"""Token data sets as others read them: by real libraries where they can be installed, else by loaders.py."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FIXTURES, NODE, PHOTOS, ROOT
from loaders import Jsonl1d, LlamaGen, RandAR, train_step, webdataset
from numpy.typing import NDArray
from torch.utils.data import default_collate

os.environ["HF_HUB_OFFLINE"] = "1"

WITH_LABELS = ["one", "two", "ten"]
ALL = [*WITH_LABELS, "unlabelled"]


@dataclass
class Truth:
    """What was written."""

    folder: Path
    tokens: NDArray[np.uint16]
    """[N, views, length]."""
    keys: list[str]
    labels: list[int] | None
    classes: list[str] | None
    codebook_size: int
    image_size: int

    @property
    def views(self) -> int:
        return self.tokens.shape[1]

    @property
    def per_view(self) -> NDArray[np.uint16]:
        """All views one after the other: [N * views, length]."""
        return self.tokens.reshape(-1, self.tokens.shape[2])

    @property
    def one_or_more(self) -> NDArray[np.uint16]:
        """As formats that drop the axis of a single view have them."""
        return self.tokens[:, 0] if self.views == 1 else self.tokens

    def each_view(self, of_image: Iterable[Any]) -> list[Any]:
        return [value for value in of_image for _ in range(self.views)]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every format in every layout, by the product's own writers."""
    out = tmp_path_factory.mktemp("token-data-sets")
    subprocess.run([str(NODE), "test/tokenize/formats/write-examples.ts", str(out)], cwd=ROOT, check=True)
    return out


@pytest.fixture
def truth(written: Path, request: pytest.FixtureRequest) -> Truth:
    folder = written / request.param
    stated = json.loads((folder / "truth.json").read_text())
    rows = stated["rows"]
    tokens = np.array([row["tokens"] for row in rows], np.uint16)
    return Truth(
        folder,
        tokens.reshape(len(rows), stated["views"], stated["length"]),
        [row["key"] for row in rows],
        [row["label"] for row in rows] if stated["labels"] else None,
        stated.get("classes"),
        stated["codebookSize"],
        stated["imageSize"],
    )


def layouts(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("truth", names, indirect=True)


def keys_of(out: Path) -> list[str]:
    escapes = {"\\\\": "\\", "\\n": "\n", "\\r": "\r"}
    keys = []
    for line in (out / "keys.txt").read_text().removesuffix("\n").split("\n"):
        key, at = "", 0
        while at < len(line):
            step = 2 if line[at] == "\\" else 1
            key += escapes.get(line[at : at + step], line[at])
            at += step
        keys.append(key)
    return keys


@layouts(*ALL)
def test_numpy_reads_flat_arrays(truth: Truth) -> None:
    out = truth.folder / "npy"
    tokens = np.load(out / "tokens.npy", mmap_mode="r")
    assert tokens.dtype == np.uint16
    assert np.array_equal(tokens, truth.one_or_more)
    assert keys_of(out) == truth.keys
    if truth.labels is None:
        assert not (out / "labels.npy").exists()
    else:
        labels = np.load(out / "labels.npy")
        assert labels.dtype == np.int64
        assert labels.tolist() == truth.labels


class TestLlamaGen:
    """Numbered .npy files."""

    def loader(self, truth: Truth, code_path: Path) -> LlamaGen:
        return LlamaGen(str(code_path), truth.image_size, len(truth.keys))

    @layouts(*WITH_LABELS)
    def test_gives_all_views(self, truth: Truth) -> None:
        out = truth.folder / "llamagen"
        loader = self.loader(truth, out / "codes")
        assert {path.name for path in Path(loader.codes).iterdir()} == {f"{i}.npy" for i in range(len(truth.keys))}
        ids, labels = default_collate([loader[i] for i in range(len(loader))])
        assert ids.dtype == labels.dtype == torch.int64
        assert np.array_equal(ids[:, 0].numpy(), truth.tokens)
        assert ids.shape[1] == 1
        assert labels.reshape(-1).tolist() == truth.labels
        assert labels.shape == (len(truth.keys), 1)
        assert keys_of(out) == truth.keys

    @layouts("ten")
    def test_trains_on_one_view_below_a_folder_called_flip(self, truth: Truth, tmp_path: Path) -> None:
        code_path = tmp_path / "flip"
        shutil.copytree(truth.folder / "llamagen" / "codes", code_path)
        loader = self.loader(truth, code_path)
        ids, labels = default_collate([loader[i] for i in range(len(loader))])
        assert ids.shape == (len(truth.keys), 1, truth.tokens.shape[2])
        for drawn, views in zip(ids[:, 0].tolist(), truth.tokens.tolist(), strict=True):
            assert drawn in views
        train_step(ids, labels, truth.codebook_size, truth.tokens.shape[2])

    @layouts("two")
    def test_other_types_and_shapes_would_be_noticed(self, truth: Truth, tmp_path: Path) -> None:
        for i, (harm, wrong) in enumerate(
            {
                "uint16": lambda codes: codes.astype(np.uint16),
                "int32": lambda codes: codes.astype(np.int32),
                "no leading axis": lambda codes: codes[0],
            }.items()
        ):
            code_path = tmp_path / f"flip{i}"
            shutil.copytree(truth.folder / "llamagen" / "codes", code_path)
            loader = self.loader(truth, code_path)
            for number in range(4):
                path = f"{loader.codes}/{number}.npy"
                np.save(path, wrong(np.load(path)))
            with pytest.raises((AssertionError, RuntimeError)):  # noqa: PT012 - any of the three may notice
                ids, labels = default_collate([loader[number] for number in range(4)])
                assert ids.shape[2:] == truth.tokens.shape[2:], harm
                train_step(ids, labels, truth.codebook_size, truth.tokens.shape[2])


@layouts(*WITH_LABELS)
def test_randar_finds_every_image_in_its_class(truth: Truth) -> None:
    assert truth.labels is not None
    root = truth.folder / "randar" / "codes"
    loader = RandAR(str(root))
    assert len(loader) == len(truth.keys)
    for (path, label), (drawn, given) in zip(loader.files, (loader[i] for i in range(len(loader))), strict=True):
        number = int(path.stem)
        assert label == given == truth.labels[number]
        codes = np.load(path)
        assert codes.dtype == np.int64
        assert np.array_equal(codes, truth.tokens[number])
        assert drawn.shape == (1, truth.tokens.shape[2])
        assert drawn[0].tolist() in truth.tokens[number].tolist()
    ids, labels = default_collate([loader[i] for i in range(len(loader))])
    train_step(ids, labels, truth.codebook_size, truth.tokens.shape[2])
    assert keys_of(root.parent) == truth.keys


@layouts("ten")
def test_randar_misses_classes_with_leading_zeros(truth: Truth, tmp_path: Path) -> None:
    root = tmp_path / "codes"
    shutil.copytree(truth.folder / "randar" / "codes", root)
    lost = next(entry for entry in root.iterdir() if len(entry.name) == 1)
    images = len(list(lost.iterdir()))
    lost.rename(root / f"0{lost.name}")
    assert len(RandAR(str(root))) == len(truth.keys) - images


@layouts(*WITH_LABELS)
def test_1d_tokenizer_reads_a_view_per_line(truth: Truth) -> None:
    assert truth.labels is not None
    loader = Jsonl1d(str(truth.folder / "jsonl" / "tokens.jsonl"))
    ids, labels = default_collate([loader[i] for i in range(len(loader))])
    assert ids.dtype == labels.dtype == torch.int64
    assert np.array_equal(ids.numpy(), truth.per_view)
    assert labels.tolist() == truth.each_view(truth.labels)
    train_step(ids, labels, truth.codebook_size, truth.tokens.shape[2])


class TestWebDataset:
    """Tars."""

    @staticmethod
    def check(samples: Iterable[dict[str, Any]], truth: Truth) -> None:
        found = list(samples)
        assert [sample["json"]["key"] for sample in found] == truth.keys
        assert np.array_equal([sample["npy"] for sample in found], truth.one_or_more)
        assert [sample.get("cls") for sample in found] == (truth.labels or [None] * len(truth.keys))

    @staticmethod
    def shards(truth: Truth) -> list[Path]:
        return sorted((truth.folder / "webdataset").glob("tokens-*.tar"))

    @layouts(*ALL)
    def test_by_its_rules(self, truth: Truth) -> None:
        samples = list(webdataset(self.shards(truth)))
        self.check(samples, truth)
        assert all(sample["npy"].dtype == np.uint16 for sample in samples)

    @layouts(*ALL)
    def test_in_datasets(self, truth: Truth, tmp_path: Path) -> None:
        datasets = pytest.importorskip("datasets")
        files = [str(shard) for shard in self.shards(truth)]
        loaded = datasets.load_dataset("webdataset", data_files=files, split="train", cache_dir=str(tmp_path))
        self.check(loaded, truth)

    @layouts(*ALL)
    def test_in_ray(self, truth: Truth, cluster: Any) -> None:
        samples = cluster.data.read_webdataset([str(shard) for shard in self.shards(truth)]).take_all()
        self.check(samples, truth)
        assert all(sample["npy"].dtype == np.uint16 for sample in samples)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Ray on this machine."""
    ray = pytest.importorskip("ray")
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="warning")
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    yield ray
    ray.shutdown()


class TestParquet:
    """A row per view."""

    @staticmethod
    def check(columns: dict[str, Any], truth: Truth) -> None:
        assert list(columns["key"]) == truth.each_view(truth.keys)
        assert list(columns["view"]) == [*range(truth.views)] * len(truth.keys)
        assert np.array_equal(np.stack(list(columns["tokens"])), truth.per_view)
        if truth.labels is None:
            assert "label" not in columns
        else:
            assert list(columns["label"]) == truth.each_view(truth.labels)

    @staticmethod
    def folder(truth: Truth) -> str:
        return str(truth.folder / "parquet" / "data")

    @layouts(*ALL)
    def test_in_pyarrow(self, truth: Truth) -> None:
        pa = pytest.importorskip("pyarrow")
        table = pytest.importorskip("pyarrow.parquet").read_table(self.folder(truth))
        types = {"key": pa.string(), "label": pa.int64(), "view": pa.int16(), "tokens": pa.list_(pa.uint16())}
        if truth.labels is None:
            del types["label"]
        assert {field.name: field.type for field in table.schema} == types
        self.check(table.to_pydict(), truth)

    @layouts(*ALL)
    def test_in_pandas(self, truth: Truth) -> None:
        frame = pytest.importorskip("pandas").read_parquet(self.folder(truth))
        assert frame["view"].dtype == np.int16
        assert all(ids.dtype == np.uint16 for ids in frame["tokens"])
        if truth.labels is not None:
            assert frame["label"].dtype == np.int64
        self.check(dict(frame), truth)

    @layouts(*ALL)
    def test_in_duckdb(self, truth: Truth) -> None:
        found = pytest.importorskip("duckdb").sql(f"from '{self.folder(truth)}/*.parquet'")
        types = {"key": "VARCHAR", "label": "BIGINT", "view": "SMALLINT", "tokens": "USMALLINT[]"}
        if truth.labels is None:
            del types["label"]
        assert dict(zip(found.columns, map(str, found.types), strict=True)) == types
        rows = list(zip(*found.fetchall(), strict=True))
        self.check(dict(zip(found.columns, rows, strict=True)), truth)

    @layouts(*ALL)
    def test_in_datasets(self, truth: Truth, tmp_path: Path) -> None:
        datasets = pytest.importorskip("datasets")
        loaded = datasets.load_dataset(str(truth.folder / "parquet"), cache_dir=str(tmp_path))
        assert list(loaded) == ["train"]
        train = loaded["train"]
        assert train.features["view"] == datasets.Value("int16")
        assert train.features["tokens"] == datasets.List(datasets.Value("uint16"))
        if truth.labels is not None:
            label = train.features["label"]
            assert getattr(label, "names", None) == truth.classes
            assert label.dtype == "int64"
        self.check({name: train[name] for name in train.column_names}, truth)
        batch = train.with_format("torch", columns=["tokens"])[:8]["tokens"]
        assert batch.dtype == torch.int64
        assert np.array_equal(batch.numpy(), truth.per_view[:8])
        exact = train.with_format("numpy", columns=["tokens"], dtype=np.uint16)[:8]["tokens"]
        assert exact.dtype == np.uint16
        assert np.array_equal(exact, truth.per_view[:8])

    @layouts(*ALL)
    def test_in_ray(self, truth: Truth, cluster: Any) -> None:
        rows = cluster.data.read_parquet(self.folder(truth))
        found = rows.take_all()
        self.check({name: [row[name] for row in found] for name in found[0]}, truth)
        (batch,) = rows.drop_columns(["key"]).iter_torch_batches(batch_size=None)
        assert batch["tokens"].dtype == torch.uint16
        assert np.array_equal(batch["tokens"].numpy(), truth.per_view)
        if truth.labels is not None:
            assert batch["label"].dtype == torch.int64


def test_datasets_loads_the_folder_that_the_command_writes(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    photos = tmp_path / "photos"
    for photo in PHOTOS[:6]:
        folder = photos / ("late" if photo.stem > "c" else "early")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, folder)
    (photos / "late" / "broken.jpg").write_text("not an image")
    command = [ROOT / "bin" / "nativetok", "tokenize", photos, "--flip", "--engines", "1", "--threads", "1"]
    command += ["--model", FIXTURES / "bundles" / "nativetok-a"]
    for name in ["parquet", "jsonl"]:
        ended = subprocess.run([*map(str, command), "--format", name, "--out", str(tmp_path / name)])
        assert ended.returncode == 3, "one image is broken"
    # tokens.json and errors.jsonl lie beside the data.
    train = datasets.load_dataset(str(tmp_path / "parquet"), split="train", cache_dir=str(tmp_path / "cache"))
    assert train.features["label"].names == ["early", "late"]
    loader = Jsonl1d(str(tmp_path / "jsonl" / "tokens.jsonl"))
    assert len(train) == len(loader) == 12
    for row, (ids, label) in zip(train, (loader[i] for i in range(len(loader))), strict=True):
        assert row["tokens"] == ids.tolist()
        assert row["label"] == label
        assert row["key"].split("/")[0] == ["early", "late"][row["label"]]
