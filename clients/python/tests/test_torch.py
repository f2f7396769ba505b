"""Tokens for PyTorch's loaders."""

import io
import pickle
import ssl
import tarfile
import threading
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from conftest import BUNDLE, FIXTURES, PHOTOS, Service
from torch.utils.data import DataLoader, Dataset

from nativetok_client.items import Pixels, Tokens
from nativetok_client.torch import Sample, TokenCollate, TokenDataset

FOLDER = FIXTURES / "photos"
LENGTH = 8


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photos in a tar archive, each beside its label, as WebDataset has them."""
    path = tmp_path_factory.mktemp("shards") / "photos.tar"
    with tarfile.open(path, "w") as tar:
        for photo in PHOTOS:
            tar.add(photo, photo.name)
            label = tarfile.TarInfo(f"{photo.stem}.cls")
            label.size = 1
            tar.addfile(label, io.BytesIO(b"7"))
    return path


def by_key(samples: list[Sample]) -> dict[str, list[int]]:
    keys = [sample["key"] for sample in samples]
    assert len(set(keys)) == len(keys), "an image came twice"
    return {sample["key"]: sample["tokens"].tolist() for sample in samples}


def test_a_folder_an_archive_and_a_list_have_the_same_tokens(
    service: Service, archive: Path, known: Tokens, pixels: Pixels
) -> None:
    expected = known[:, :LENGTH].tolist()
    tar = list(TokenDataset(archive, service.url, LENGTH))
    assert [sample["key"] for sample in tar] == [path.name for path in PHOTOS]
    assert [sample["tokens"].tolist() for sample in tar] == expected
    assert tar[0]["tokens"].dtype == torch.int64
    listed = list(TokenDataset([*PHOTOS[:3], pixels[3], archive], service.url, LENGTH))
    assert [sample["tokens"].tolist() for sample in listed] == expected[:4] + expected
    assert listed[3]["key"] == "3"
    folder = by_key(list(TokenDataset(FOLDER, service.url, LENGTH)))
    assert set(folder) >= {"full/cat.jpg", *(path.name for path in PHOTOS)}
    assert [folder[path.name] for path in PHOTOS] == expected


@pytest.mark.parametrize("source", ["list", "archive"])
def test_workers_share_the_images_without_duplicates(
    service: Service, archive: Path, known: Tokens, source: str
) -> None:
    dataset = TokenDataset(archive if source == "archive" else PHOTOS, service.url, LENGTH)
    loader = DataLoader(dataset, batch_size=5, num_workers=2)
    for _ in range(2 if source == "list" else 1):
        batches = list(loader)
        assert all(batch["tokens"].shape[1] == LENGTH for batch in batches)
        rows = {
            Path(key).name: row.tolist()
            for batch in batches
            for key, row in zip(batch["key"], batch["tokens"], strict=True)
        }
        assert sum(len(batch["key"]) for batch in batches) == len(PHOTOS)
        assert rows == {path.name: row[:LENGTH].tolist() for path, row in zip(PHOTOS, known, strict=True)}


def test_a_bundle_serves_as_well_as_a_service(known: Tokens) -> None:
    loader = DataLoader(TokenDataset(PHOTOS[:12], BUNDLE, LENGTH), batch_size=None, num_workers=2)
    rows = by_key(list(loader))
    assert rows == {str(path): row[:LENGTH].tolist() for path, row in zip(PHOTOS[:12], known[:12], strict=True)}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_wrong_image_ends_the_loop_and_is_named(service: Service, workers: int, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.png"
    wrong.write_bytes(b"no image")
    dataset = TokenDataset([*PHOTOS[:7], wrong], service.url, LENGTH)
    with pytest.raises(Exception, match="Undecodable image") as caught:
        list(DataLoader(dataset, batch_size=None, num_workers=workers))
    if workers == 0:
        assert caught.value.item == 7  # type: ignore[attr-defined]
        assert str(wrong) in caught.value.__notes__[0]
    else:
        assert str(wrong) in str(caught.value)


def test_a_source_without_images_is_refused(service: Service, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no image in"):
        TokenDataset(tmp_path, service.url)
    with pytest.raises(ValueError, match="must be 1 to 128"):
        TokenDataset(PHOTOS, service.url, 129)


def test_leaving_the_loop_leaves_no_thread_behind(service: Service) -> None:
    before = set(threading.enumerate())
    for sample in TokenDataset(PHOTOS * 20, service.url, LENGTH):
        assert sample["tokens"].shape == (LENGTH,)
        break
    left = [thread.name for thread in set(threading.enumerate()) - before]
    assert not [name for name in left if name.startswith("nativetok")]


class Labelled(Dataset[tuple[Path, int]]):
    """A data set of photos with labels that knows nothing of tokens."""

    def __len__(self) -> int:
        return len(PHOTOS)

    def __getitem__(self, i: int) -> tuple[Path, int]:
        return PHOTOS[i], i


@pytest.mark.parametrize(("where", "workers"), [("service", 0), ("service", 2), ("bundle", 2)])
def test_a_collate_function_tokenizes_the_batches_of_any_data_set(
    service: Service, known: Tokens, where: str, workers: int
) -> None:
    collate = TokenCollate(service.url if where == "service" else BUNDLE, LENGTH)
    loader = DataLoader(Labelled(), batch_size=10, shuffle=True, num_workers=workers, collate_fn=collate)
    labels: list[int] = []
    for tokens, label in loader:
        assert tokens.dtype == torch.int64
        assert np.array_equal(tokens, known[label, :LENGTH])
        labels += label.tolist()
    assert sorted(labels) == list(range(len(PHOTOS)))
    assert np.array_equal(collate(PHOTOS[:2]), known[:2, :LENGTH]), "images without labels give tokens alone"
    again = pickle.loads(pickle.dumps(collate))
    assert np.array_equal(again(PHOTOS[:2]), known[:2, :LENGTH])


def test_a_forked_worker_makes_nothing_that_takes_openssl_s_locks(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that was ending while the process forked may have held one: the worker would wait for ever."""
    dataset = TokenDataset(PHOTOS[:4], service.url, LENGTH)
    made: list[object] = []
    monkeypatch.setattr(httpx, "create_ssl_context", lambda *_, **__: made.append(1))
    monkeypatch.setattr(ssl, "create_default_context", lambda *_, **__: made.append(1))
    assert len(list(dataset)) == 4
    assert made == []
