import csv
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from PIL import Image, ImageFilter

from nativetok.classifier import Classifier, accuracy, classify, embed, load_classifier, main, save_classifier, train
from nativetok.data import load_images, load_keyed_images, load_labels
from nativetok.metrics import frechet_distance
from nativetok.model import to_pixels

PHOTOS = Path(__file__).parents[2] / "test" / "fixtures" / "photos"
RELEASED = Path(__file__).parents[1] / "weights" / "classifier.safetensors"
ROW = re.compile(r"^\| `([\w-]+)\.webp` *\| \d{6} \| [^|]*`(\w+)`", re.MULTILINE)


@pytest.fixture(scope="module")
def released() -> Classifier:
    return load_classifier(RELEASED)


@pytest.fixture(scope="module")
def photos() -> dict[str, np.ndarray]:
    """The 128x128 fixture photos by name, uint8 [128,128,3]: all of the val split, so no classifier has learnt them."""
    keys, images = load_keyed_images([PHOTOS], 128)
    return dict(zip(keys, images, strict=True))


@pytest.fixture(scope="module")
def labels() -> dict[str, str]:
    """What each fixture photo shows, by name."""
    return dict(ROW.findall((PHOTOS / "SOURCES.md").read_text()))


def blurred(photos: np.ndarray, radius: float) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(p).filter(ImageFilter.GaussianBlur(radius))) for p in photos])


def test_the_released_classifier_names_photos_it_has_never_seen(
    released: Classifier, photos: dict[str, np.ndarray], labels: dict[str, str]
) -> None:
    assert labels.keys() == photos.keys()
    named = classify(released, np.stack([photos[name] for name in labels]))
    right = [released.labels[i] == label for i, label in zip(named, labels.values(), strict=True)]
    assert np.mean(right) > 0.6, f"chance is 1 in {len(released.labels)}"


def test_the_released_file_is_small_and_says_what_it_knows() -> None:
    assert RELEASED.stat().st_size < 4e6
    with safetensors.safe_open(RELEASED, framework="pt") as file:
        assert file.metadata().keys() == {"config", "labels"}
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118


def test_photos_get_further_from_themselves_the_more_they_are_blurred(
    released: Classifier, photos: dict[str, np.ndarray]
) -> None:
    images = np.stack(list(photos.values()))
    features = embed(released, images)
    distances = [frechet_distance(features, embed(released, blurred(images, radius))) for radius in (0, 0.5, 1, 2, 4)]
    assert distances[0] == pytest.approx(0, abs=1e-6)
    assert (np.diff(distances) > 0).all()


def test_every_feature_map_tells_a_blurred_photo_from_a_shifted_one(
    released: Classifier, photos: dict[str, np.ndarray]
) -> None:
    # By its pixels a shift of a pixel is worse than a slight blur: what the features are for is to see it otherwise.
    images = np.stack(list(photos.values()))
    shifted, soft = np.roll(images, 1, axis=(1, 2)), blurred(images, 1.5)
    original, moved, softened = (
        [m.mean((2, 3)) for m in released.feature_maps(to_pixels(torch.from_numpy(x)))] for x in (images, shifted, soft)
    )
    for a, b, c in zip(original, moved, softened, strict=True):
        assert (a - b).square().mean() < (a - c).square().mean()


def test_feature_maps_halve_and_pass_gradients_to_the_pixels(
    released: Classifier, photos: dict[str, np.ndarray]
) -> None:
    pixels = to_pixels(torch.from_numpy(photos["rose"][None])).requires_grad_()
    maps = released.feature_maps(pixels)
    assert [tuple(m.shape) for m in maps] == [(1, 32, 32, 32), (1, 64, 16, 16), (1, 128, 8, 8), (1, 192, 4, 4)]
    for each in maps:
        (gradient,) = torch.autograd.grad(each.sum(), pixels, retain_graph=True)
        assert gradient.abs().mean((2, 3)).min() > 0
    assert not any(p.requires_grad for p in released.parameters())
    torch.testing.assert_close(released.features(pixels), maps[-1].mean((2, 3)))


def test_images_are_embedded_alone_whatever_the_batch(released: Classifier, photos: dict[str, np.ndarray]) -> None:
    images = np.stack(list(photos.values()))
    features = embed(released, images, batch=7)
    assert features.shape == (len(images), 192)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features[10:11], embed(released, images[10:11]), rtol=1e-3, atol=1e-4)


def test_accuracy_counts_photos_and_labels() -> None:
    plain, balanced = accuracy(np.array([0, 0, 0, 0, 2, 2]), np.array([0, 0, 0, 0, 2, 0]))
    assert plain == pytest.approx(5 / 6)
    assert balanced == pytest.approx(3 / 4)


def test_training_learns_to_tell_flowers_and_saving_keeps_what_it_learnt(
    photos: dict[str, np.ndarray], labels: dict[str, str], tmp_path: Path
) -> None:
    flowers = {"daisy", "dandelion", "roses", "sunflowers", "tulips", "water_lilly"}
    images = np.stack(list(photos.values()))
    targets = np.array([labels[name] in flowers for name in photos], dtype=np.int64)
    torch.manual_seed(0)
    model = Classifier(("thing", "flower"), widths=(8, 16, 24, 32))
    train(model, images, targets, sides=(64,) * 5 + (128,) * 25)
    assert accuracy(targets, classify(model, images))[1] > 0.9

    save_classifier(model, tmp_path / "new" / "classifier.safetensors")
    again = load_classifier(tmp_path / "new" / "classifier.safetensors")
    assert (again.labels, again.widths) == (("thing", "flower"), (8, 16, 24, 32))
    np.testing.assert_allclose(embed(again, images), embed(model, images), rtol=0.02, atol=0.02)


def test_the_command_learns_from_the_labelled_photos_of_the_shards(
    photos: dict[str, np.ndarray], labels: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = sorted(photos)
    splits = {"train": names[::2], "val": names[1::2]}
    for split, members in splits.items():
        with tarfile.open(tmp_path / f"{split}-0000.tar", "w") as shard:
            for name in members:
                shard.add(PHOTOS / f"{name}.webp", arcname=f"{name}.webp")
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("key", "split", "source", "label"))
        rows.writerows((name, "", "", "" if name == splits["val"][3] else labels[name]) for name in names)

    main(["--data", str(tmp_path), "--out", str(tmp_path / "out.safetensors"), "--device", "cpu"])
    expected = {labels[name] for name in names if name != splits["val"][3]}
    assert load_classifier(tmp_path / "out.safetensors").labels == tuple(sorted(expected))
    assert f"{len(splits['val']) - 1} val photos" in capsys.readouterr().out


def test_keys_go_with_their_images_and_labels(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "val-0000.tar", "w") as shard:
        for key, name in (("000007", "rose"), ("000003", "pizza")):
            shard.add(PHOTOS / f"{name}.webp", arcname=f"photos/{key}.webp")
    keys, images = load_keyed_images([tmp_path / "val-0000.tar", PHOTOS / "emu.webp"], 128)
    assert keys == ["000007", "000003", "emu"]
    for image, name in zip(images, ("rose", "pizza", "emu"), strict=True):
        np.testing.assert_array_equal(image, load_images([PHOTOS / f"{name}.webp"], 128)[0])

    (tmp_path / "labels.csv").write_text("key,split,source,label\n000003,val,caltech101,pizza\n000007,val,x,\n")
    assert load_labels(tmp_path / "labels.csv") == {"000003": "pizza"}
