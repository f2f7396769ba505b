"""The command: what it writes, what it says, and that it leaves nothing behind where it fails."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nativetok import convert as command
from nativetok.convert import convert
from nativetok.published.checkpoint import CheckpointError, read_checkpoint
from nativetok.published.parity import ParityError
from nativetok.published.recognise import Options

from .fixtures import BUNDLES, HEADS, NAMES, path_of, save, tensors_of

NEWER = Options(heads=HEADS["titok-newer"])


@pytest.mark.parametrize("name", NAMES)
def test_conversion_makes_the_same_bundle_again(name: str, tmp_path: Path) -> None:
    convert(path_of(name), tmp_path / name, options=Options(heads=HEADS[name]), licence="MIT")
    manifest, shipped = (json.loads((folder / name / "manifest.json").read_text()) for folder in (tmp_path, BUNDLES))
    assert {f: d for f, d in manifest["files"].items() if f != "MODEL_CARD.md"} == {
        f: d for f, d in shipped["files"].items() if f != "MODEL_CARD.md"
    }


def test_forms_of_a_checkpoint(tmp_path: Path) -> None:
    tensors = tensors_of("titok-newer")
    forms = {
        "flat.bin": tensors,
        "nested.pt": {"model": {f"module.{key}": t for key, t in tensors.items()}, "steps": 3},
        "loss.bin": tensors | {"loss.logvar": torch.zeros(1), "loss.n": torch.tensor(1)},
    }
    for name, content in forms.items():
        assert list(read_checkpoint(save(tmp_path / name, content)).tensors) == list(tensors)
    torch.save(tensors, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    assert list(read_checkpoint(tmp_path / "old.bin").tensors) == list(tensors)
    save_file({key: t.half() for key, t in tensors.items()}, tmp_path / "half.safetensors")
    assert set(read_checkpoint(tmp_path / "half.safetensors").tensors) == set(tensors)


class Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("run",))


def broken(folder: Path) -> dict[Path, str]:
    """Files that are no checkpoints, and what is said of them."""
    good = save(folder / "good.bin", tensors_of("titok-newer")).read_bytes()
    (folder / "cut.bin").write_bytes(good[: len(good) // 2])
    (folder / "empty.bin").write_bytes(b"")
    (folder / "text.bin").write_text("<html>not found</html>")
    (folder / "cut.safetensors").write_bytes(path_of("titok-newer").read_bytes()[:5000])
    (folder / "text.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    (folder / "plain.bin").write_bytes(pickle.dumps({"weight": Code()}))
    save(folder / "code.bin", {"encoder.weight": torch.zeros(2), "x": Code()})
    save(folder / "number.bin", {"encoder.weight": 3})
    save(folder / "none.bin", {"model": {}})
    return {
        folder / "cut.bin": r"cut\.bin is damaged or not a PyTorch checkpoint",
        folder / "empty.bin": r"empty\.bin is damaged or not a PyTorch checkpoint",
        folder / "text.bin": r"text\.bin is damaged or not a PyTorch checkpoint",
        folder / "cut.safetensors": r"cut\.safetensors is damaged or not a \.safetensors file",
        folder / "text.safetensors": r"text\.safetensors is damaged or not a \.safetensors file",
        folder / "plain.bin": r"plain\.bin is (refused: it holds more than tensors|damaged)",
        folder / "code.bin": r"code\.bin is refused: it holds more than tensors \(\S*print\)",
        folder / "number.bin": r'number\.bin is not a file of weights: "encoder\.weight" is not a tensor',
        folder / "none.bin": r"none\.bin holds no weights",
        folder / "absent.bin": r"absent\.bin is not a file",
    }


@pytest.mark.filterwarnings("error")  # PyTorch's warnings would stand before the sentence
def test_what_is_no_checkpoint_gets_one_sentence_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "files").mkdir()
    for path, message in broken(tmp_path / "files").items():
        with pytest.raises(CheckpointError, match=message) as caught:
            convert(path, tmp_path / "models/out")
        assert "\n" not in str(caught.value)
    assert list((tmp_path / "models").iterdir()) == []
    assert "run" not in capsys.readouterr().out


def test_a_failure_late_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ParityError("codes differ")

    monkeypatch.setattr(command, "check", fail)
    with pytest.raises(ParityError):
        convert(path_of("titok-newer"), tmp_path / "out", options=NEWER)
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_replaced_only_by_force_and_only_by_a_whole_one(tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(path_of("titok-newer"), out, options=NEWER)
    (out / "mark").write_text("old")
    with pytest.raises(FileExistsError, match="--force"):
        convert(path_of("titok-newer"), out, options=NEWER)
    with pytest.raises(CheckpointError):
        convert(tmp_path / "absent.bin", out, options=NEWER, force=True)
    assert (out / "mark").exists()
    convert(path_of("titok-newer"), out, options=NEWER, force=True)
    assert not (out / "mark").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_configuration_beside_the_checkpoint_is_found(tmp_path: Path) -> None:
    shutil.copy(path_of("titok-newer"), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"config\.json is no configuration"):
        convert(tmp_path / "model.safetensors", tmp_path / "out", options=NEWER)


def test_heads_that_nobody_says_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no file says the encoder's heads .* --heads encoder=N,decoder=N, or"):
        convert(path_of("titok-newer"), tmp_path / "out")


def test_options_that_lead_nowhere(tmp_path: Path) -> None:
    absent, out = tmp_path / "absent", tmp_path / "out"
    with pytest.raises(CheckpointError, match=r"absent is not a file"):
        convert(path_of("titok-newer"), out, options=NEWER, config=absent)
    with pytest.raises(FileNotFoundError, match=r"absent is no file and no folder"):
        convert(path_of("titok-newer"), out, photos=absent)
    with pytest.raises(CheckpointError, match=r"no part 'meta' to give heads to: it has encoder, decoder"):
        convert(path_of("titok-newer"), out, options=Options(heads={"meta": 4}))
    assert list(tmp_path.iterdir()) == []


def test_photos_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_text("no image")
    arguments = ["--out", str(tmp_path / "out"), "--probe", str(tmp_path / "photo.png")]
    command = [sys.executable, "-m", "nativetok.convert", str(path_of("titok-newer")), *arguments]
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: cannot identify image file")
    assert not (tmp_path / "out").exists()


def test_command(tmp_path: Path) -> None:
    path, out = path_of("nativetok-a"), tmp_path / "models" / "tiny"
    arguments = [sys.executable, "-m", "nativetok.convert", str(path), "--out", str(out)]
    failed = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: no file says the decoder's heads")
    assert len(failed.stderr.splitlines()) == 1
    more = [
        "--heads",
        "experts=2,decoder=2",
        "--l2-norm",
        "on",
        "--source-url",
        "https://example.org/x",
        "--licence",
        "MIT",
    ]
    done = subprocess.run([*arguments, *more], capture_output=True, text=True, check=True)
    assert "note: no file says the encoder's heads; taken as published (4 heads)" in done.stdout
    source = json.loads((out / "manifest.json").read_text())["source"]
    assert (source["family"], source["file"]) == ("nativetok", path.name)
    assert (source["url"], source["licence"]) == ("https://example.org/x", "MIT")
    card = (out / "MODEL_CARD.md").read_text()
    assert "| codes normalised (L2) | yes | option |" in card
    assert "The licence of NativeTok's published weights is not established." in card
    assert source["sha256"] in card
