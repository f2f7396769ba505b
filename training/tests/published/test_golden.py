"""The check against known ids says how many differ, and notices another image or another tokenizer."""

import hashlib
import json
from pathlib import Path

import pytest
from PIL import Image

from nativetok.published.golden import EXPECTED, compare

from .fixtures import BUNDLES, expected


@pytest.fixture
def known(tmp_path: Path) -> Path:
    """Ids of a fixture's images in the form of the authors' ids; the second image has one wrong."""
    want, images = expected("titok-legacy"), []
    for i in range(2):
        path = tmp_path / f"{i}.png"
        Image.fromarray(want["images"][i]).save(path)
        tokens = want["tokens"][i].tolist()
        tokens[0] = (tokens[0] + i) % 64
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        images.append({"file": f"assets/{i}.png", "sha256": digest, "tokens": tokens})
    (tmp_path / "known.json").write_text(json.dumps({"images": images}))
    return tmp_path


def test_ids_that_differ_are_counted(known: Path) -> None:
    assert compare(BUNDLES / "titok-legacy", known, known / "known.json") == [0, 1]


def test_another_image_is_noticed(known: Path) -> None:
    Image.new("RGB", (32, 32)).save(known / "1.png")
    with pytest.raises(ValueError, match="is not the image"):
        compare(BUNDLES / "titok-legacy", known, known / "known.json")


def test_the_authors_ids_are_of_titok_l32() -> None:
    images = json.loads(EXPECTED.read_text())["images"]
    assert [len(image["tokens"]) for image in images] == [32, 32]
    assert all(0 <= token < 4096 for image in images for token in image["tokens"])
