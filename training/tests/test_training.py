"""A smoke run of a tiny model through all three stages, on the fixture photos."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nativetok.config import RunConfig
from nativetok.data import load_images
from nativetok.initialise import initialise_stage
from nativetok.metrics import psnr
from nativetok.model import NativeTok, load_weights, save_weights
from nativetok.onnx.export import export_bundle
from nativetok.train import Trainer

ROOT = Path(__file__).parents[2]
CONFIG = RunConfig.load(ROOT / "training/configs/smoke.yaml")


@pytest.fixture(scope="session")
def photos() -> np.ndarray:
    return load_images([ROOT / "test/fixtures/photos"], CONFIG.model.image_size)


@pytest.fixture(scope="session")
def run(photos: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    Trainer(CONFIG, photos, photos, out).run()
    return out


def test_an_untrained_model_starts_as_a_codec() -> None:
    whole = load_images([ROOT / "test/fixtures/photos"], 128)
    corners = np.concatenate([whole[:, y : y + 64, x : x + 64] for y in (0, 64) for x in (0, 64)])
    photos = np.concatenate([corners, corners[:, :, ::-1]])
    torch.manual_seed(0)
    model, images = NativeTok(CONFIG.model).eval(), torch.from_numpy(photos)
    for stage in range(len(CONFIG.model.stages)):
        initialise_stage(model, stage, images)
    tokens = model.encode(images)
    quality = [psnr(photos, model.decode(tokens[:, :length]).numpy()).mean() for length in (1, 4, 8, 12)]
    one_colour = psnr(photos, np.broadcast_to(photos.mean((1, 2), keepdims=True), photos.shape).astype(np.uint8))
    assert quality == sorted(quality)
    assert quality[-1] > one_colour.mean() + 2


def model_after(run: Path, phase: str) -> NativeTok:
    model = NativeTok(CONFIG.model)
    model.load_state_dict(torch.load(run / f"{phase}.pt", weights_only=True)["model"])
    return model.eval()


def test_loss_falls_and_log_can_be_plotted(run: Path) -> None:
    with (run / "log.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["phase"] == "stage-1"]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"]) - 1
    assert float(rows[-1]["val_psnr"].split(":")[1]) > float(rows[0]["val_psnr"].split(":")[1])


def test_a_later_stage_trains_its_experts_and_the_decoder_alone(run: Path) -> None:
    with (run / "log.csv").open() as file:
        trained = {row["phase"]: int(row["trained_parameters"]) for row in csv.DictReader(file)}
    model = NativeTok(CONFIG.model)
    _, second, third = (sum(p.numel() for p in experts.parameters()) for experts in model.mocet.experts)
    decoder = sum(p.numel() for p in model.decoder.parameters())
    assert (trained["stage-2"], trained["stage-3"]) == (second + decoder, third + decoder)
    assert trained["stage-1"] == sum(p.numel() for p in model.parameters()) - second - third


def test_later_stages_leave_earlier_tokens_alone(run: Path, photos: np.ndarray) -> None:
    images = torch.from_numpy(photos)
    first, second, third = (model_after(run, f"stage-{n}") for n in (1, 2, 3))
    four, eight = first.encode(images, 4), second.encode(images, 8)
    assert torch.equal(second.encode(images, 4), four)
    assert torch.equal(third.encode(images, 8), eight)
    assert torch.equal(eight[:, :4], four)
    assert len(four.unique()) > 4
    assert not torch.equal(third.decoder.output.weight, first.decoder.output.weight)


def test_shorter_encoding_is_the_prefix_of_a_longer_one(run: Path, photos: np.ndarray) -> None:
    model, images = load_weights(run / "weights.safetensors"), torch.from_numpy(photos[:8])
    whole = model.encode(images)
    for length in range(1, model.config.length + 1):
        assert torch.equal(model.encode(images, length), whole[:, :length])


def test_every_prefix_decodes(run: Path, photos: np.ndarray) -> None:
    model, images = load_weights(run / "weights.safetensors"), torch.from_numpy(photos[:8])
    tokens = model.encode(images)
    for length in (1, 5, 12):
        drawn = model.decode(tokens[:, :length])
        assert drawn.shape == images.shape
        assert drawn.dtype == torch.uint8
        # the id of an absent token is one more than the codebook's last
        padded = torch.nn.functional.pad(tokens[:, :length], (0, 12 - length), value=model.config.codebook_size)
        assert torch.equal(model.decode(padded), drawn)


def test_training_sees_what_the_causal_loop_emits(run: Path, photos: np.ndarray) -> None:
    """Teacher forcing on the loop's codes gives all positions at once what the loop gives one by one."""
    model, images = load_weights(run / "weights.safetensors"), torch.from_numpy(photos[:4])
    with torch.no_grad():
        latents = model.encoder((images.permute(0, 3, 1, 2).float()) / 127.5 - 1)
        codes, ids = model.mocet.generate(latents, model.quantiser, model.config.length)
        predicted = torch.cat([model.mocet.predict(latents, codes, stage) for stage in range(3)], dim=1)
    assert torch.equal(model.quantiser(predicted), ids)


@pytest.mark.parametrize("kind", ["cross", "self"])
def test_resumed_run_is_the_same_run(photos: np.ndarray, tmp_path: Path, kind: str) -> None:
    train = replace(
        CONFIG.train,
        stage_images=(96, 48, 48),
        joint_images=48,
        validate_every=2,
    )
    config = RunConfig(replace(CONFIG.model, expert_kind=kind), train)  # type: ignore[arg-type]
    Trainer(config, photos, photos, tmp_path / "whole").run()

    stopped = Trainer(config, photos, photos, tmp_path / "stopped")
    validate, calls = stopped.validate, 0

    def stop_at_fourth(stage: int) -> tuple[dict[int, float], float]:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return validate(stage)

    stopped.validate = stop_at_fourth  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    resumed = Trainer(config, photos, photos, tmp_path / "stopped")
    resumed.resume(tmp_path / "stopped/checkpoint.pt")
    assert resumed.step == 6
    resumed.run()
    whole, again = (load_weights(tmp_path / name / "weights.safetensors") for name in ("whole", "stopped"))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_a_finished_run_stays_as_it_is(run: Path, photos: np.ndarray) -> None:
    files = [run / name for name in ("weights.safetensors", "training.json", "log.csv")]
    before = [file.read_bytes() for file in files]
    again = Trainer(CONFIG, photos, photos, run)
    again.resume(run / "checkpoint.pt")
    again.run()
    assert [file.read_bytes() for file in files] == before


def test_weights_that_fp16_cannot_hold_are_not_released(tmp_path: Path) -> None:
    model = NativeTok(CONFIG.model)
    with torch.no_grad():
        model.mocet.experts[0].weights["told"][1, 0, 0] = 7e4
    with pytest.raises(ValueError, match="told"):
        save_weights(model, tmp_path / "weights.safetensors")
    assert not (tmp_path / "weights.safetensors").exists()


def test_released_weights_can_be_trained_on(run: Path, photos: np.ndarray, tmp_path: Path) -> None:
    released = load_weights(run / "weights.safetensors")
    train = replace(CONFIG.train, stage_images=(16, 16, 16))
    trainer = Trainer(replace(CONFIG, train=train), photos, photos, tmp_path, released)
    trainer.run()
    with (run / "log.csv").open() as file:
        before = float(list(csv.DictReader(file))[-1]["val_psnr"].split("12:")[1])
    assert trainer.validate(2)[0][12] > before - 1


def test_a_later_stage_leaves_the_tokens_of_released_weights_alone(
    run: Path, photos: np.ndarray, tmp_path: Path
) -> None:
    released, images = load_weights(run / "weights.safetensors"), torch.from_numpy(photos)
    train = replace(CONFIG.train, stage_images=(0, 0, 32))
    trainer = Trainer(replace(CONFIG, train=train), photos, photos, tmp_path, released)
    trainer.run()
    continued = trainer.model.eval()  # the saved weights are rounded, which can hide a small change
    assert torch.equal(continued.quantiser.codebook, released.quantiser.codebook)
    assert torch.equal(continued.encode(images, 8), released.encode(images, 8))
    assert not torch.equal(continued.decoder.output.weight, released.decoder.output.weight)


@pytest.fixture(scope="session")
def parallel_run(photos: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("parallel")
    model = replace(CONFIG.model, stages=(12,), expert_kind="parallel", expert_depth=0)
    train = replace(CONFIG.train, stage_images=(4800,), initialisation_images=0, linear_rate=1e-3)
    Trainer(RunConfig(model, train), photos, photos, out).run()
    return out


def test_parallel_tokens_hear_of_no_other(parallel_run: Path, photos: np.ndarray) -> None:
    model, images = load_weights(parallel_run / "weights.safetensors"), torch.from_numpy(photos[:8])
    latents = model.encoder((images.permute(0, 3, 1, 2).float()) / 127.5 - 1)
    codes, ids = model.mocet.generate(latents, model.quantiser, 12)
    assert torch.equal(model.quantiser(model.mocet.predict(latents, codes, 0)), ids)
    assert torch.equal(model.quantiser(model.mocet.predict(latents, codes.flip(1), 0)), ids)
    # experts that read earlier tokens give other codes for other tokens
    torch.manual_seed(0)
    causal = NativeTok(CONFIG.model).eval()
    latents = causal.encoder((images.permute(0, 3, 1, 2).float()) / 127.5 - 1)
    codes, _ = causal.mocet.generate(latents, causal.quantiser, 12)
    assert not torch.equal(causal.mocet.predict(latents, codes, 2), causal.mocet.predict(latents, codes.flip(1), 2))


def test_parallel_tokens_learn_from_random_weights(parallel_run: Path, photos: np.ndarray) -> None:
    model, images = load_weights(parallel_run / "weights.safetensors"), torch.from_numpy(photos)
    tokens = model.encode(images)
    assert torch.equal(model.encode(images, 5), tokens[:, :5])
    own = psnr(photos, model.decode(tokens).numpy()).mean()
    others = psnr(photos, model.decode(tokens.roll(1, 0)).numpy()).mean()
    assert own > others + 1


def test_parallel_tokens_have_no_linear_start_and_no_bundle(
    parallel_run: Path, photos: np.ndarray, tmp_path: Path
) -> None:
    model = load_weights(parallel_run / "weights.safetensors")
    with pytest.raises(ValueError, match="initialisation_images must be 0"):
        initialise_stage(model, 0, torch.from_numpy(photos))
    with pytest.raises(ValueError, match="no causal graphs"):
        export_bundle(model, tmp_path / "bundle", "card", {"licence": "unknown"}, {}, {})
    assert not (tmp_path / "bundle").exists()
