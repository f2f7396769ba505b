"""Hierarchical Native Training (section 3.3): `python -m nativetok.train CONFIG --data FOLDER --out RUN`.

Stage 1 trains everything, starting from the data-dependent initialisation in `initialise.py`. Each later stage freezes
the encoder, the codebook and the existing experts, initialises its own experts as copies of the last one, and trains
only them and the decoder. An optional joint fine-tuning of everything comes last. To resume a stopped run from its
checkpoint, run the same command again.
"""

import argparse
import contextlib
import copy
import csv
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from nativetok.config import RunConfig
from nativetok.data import find_split, load_images
from nativetok.initialise import initialise_stage
from nativetok.model import NativeTok, load_weights, save_weights, to_pixels
from nativetok.optimisers import build_optimisers

LOG_COLUMNS = [
    *("phase", "trained_parameters", "step", "images", "seconds", "cpu_seconds"),
    *("images_per_second", "loss", "psnr", "val_psnr", "codebook_use"),
]

PLACE = ("phase", "seen", "total", "step", "seconds", "cpu_seconds")
"""Attributes that say where in its schedule a run is."""


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of the schedule with one set of trainable parameters."""

    name: str
    stage: int
    images: int
    joint: bool


class Clock:
    """Measures time from its creation."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    @property
    def seconds(self) -> float:
        """Elapsed wall-clock time."""
        return time.perf_counter() - self._wall

    @property
    def cpu_seconds(self) -> float:
        """Processor time used by all threads of this process."""
        return time.process_time() - self._cpu


class Trainer:
    """One training run: the model, its optimisers and its place in the schedule."""

    def __init__(
        self,
        config: RunConfig,
        images: NDArray[np.uint8],
        validation: NDArray[np.uint8],
        out: Path,
        start: NativeTok | None = None,
    ) -> None:
        """Prepare a run in the folder `out` on training and validation images, uint8 [N, H, W, 3].

        With `start`, a trained model of the same configuration, training continues from its weights: no experts are
        initialised and its codebook is kept.
        """
        self.started_from_weights = start is not None
        self.config, self.images, self.out = config, torch.from_numpy(images), out
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(config.train.seed)
        self.validation = torch.from_numpy(validation[: config.train.validation_images]).to(self.device)
        self.model = NativeTok(config.model).to(self.device)
        if start:
            self.model.load_state_dict(start.state_dict())
        self.phases = [Phase(f"stage-{i + 1}", i, images, False) for i, images in enumerate(config.train.stage_images)]
        if config.train.joint_images:
            self.phases.append(Phase("joint", len(self.phases) - 1, config.train.joint_images, True))
        self.phase = 0
        self.seen = 0  # images in this phase
        self.total = 0  # images in the run
        self.step = 0
        self.seconds = 0.0  # wall-clock time of initialisation and training, without validation
        self.cpu_seconds = 0.0  # processor time of the same, which does not depend on other load on the machine
        self._order_epoch = -1
        self._order = torch.empty(0, dtype=torch.long)
        self.optimisers: list[torch.optim.Optimizer] = []

    # -- the schedule

    def run(self) -> None:
        """Train to the end of the schedule; write checkpoints, `log.csv`, `weights.safetensors`, `training.json`."""
        self.out.mkdir(parents=True, exist_ok=True)
        if self.total == 0:  # a new run, not a resumed one
            self._grow()
            self._begin_phase()
        while self.phase < len(self.phases):
            self._run_phase(self.phases[self.phase])
            self.model.load_state_dict(self.ema.state_dict())  # later stages freeze the weights that will be released
            self._save(f"{self.phases[self.phase].name}.pt")
            self.phase += 1
            if self.phase < len(self.phases):
                self.seen = 0
                self._grow()
                self._begin_phase()
            self._save("checkpoint.pt")
        save_weights(self.model, self.out / "weights.safetensors")
        (self.out / "training.json").write_text(json.dumps(self.summary(), indent=2) + "\n")

    def summary(self) -> dict[str, Any]:
        """Describe the run for a bundle's manifest."""
        return {
            "images": len(self.images),
            "images_seen": self.total,
            "hours": round(self.seconds / 3600, 2),
            "device": self.device.type,
            "joint_fine_tune": self.config.train.joint_images > 0,
            "started_from_weights": self.started_from_weights,
            "configuration": dataclasses.asdict(self.config),
        }

    def _grow(self) -> None:
        """Initialise the phase's new experts: as copies of the last existing one, then from the data."""
        phase, model = self.phases[self.phase], self.model
        if phase.joint or self.started_from_weights:
            return
        started = Clock()
        if phase.stage > 0:
            model.mocet.experts[phase.stage].grow_from(model.mocet.experts[phase.stage - 1])
        if count := self.config.train.initialisation_images:
            initialise_stage(model.eval(), phase.stage, self._sample(count))
        self._spend(started)

    def _spend(self, since: "Clock") -> None:
        self.seconds += since.seconds
        self.cpu_seconds += since.cpu_seconds

    def _begin_phase(self) -> None:
        """Freeze what the phase must not change; reset the averaged weights and the optimisers."""
        phase = self.phases[self.phase]
        experts_by_stage = self.model.mocet.experts
        self.model.requires_grad_(phase.stage == 0 or phase.joint)
        for later in experts_by_stage[phase.stage + 1 :]:
            later.requires_grad_(False)
        experts_by_stage[phase.stage].requires_grad_(True)
        self.model.decoder.requires_grad_(True)
        for experts in experts_by_stage:  # frozen experts normalise their codes as in evaluation
            experts.train(experts.query.requires_grad)
        self.ema = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.ema_steps = 0
        self.optimisers = build_optimisers(self.model, self.config.train)
        self.rates: list[float] = [optimiser.param_groups[0]["lr"] for optimiser in self.optimisers]

    def _set_rates(self, phase: Phase) -> None:
        """Warm up, hold, then decay linearly to zero over the second half of the phase."""
        warmup = min(1.0, (self.ema_steps + 1) / self.config.train.warmup_steps)
        fall = min(1.0, 2 * (1 - self.seen / phase.images))
        for optimiser, rate in zip(self.optimisers, self.rates, strict=True):
            optimiser.param_groups[0]["lr"] = rate * warmup * fall

    def _run_phase(self, phase: Phase) -> None:
        train = self.config.train
        bar = tqdm(
            total=phase.images, initial=self.seen, desc=phase.name, unit=" images", smoothing=0.05, dynamic_ncols=True
        )
        started, losses, psnrs, images = Clock(), [], [], 0
        while self.seen < phase.images:
            self._set_rates(phase)
            loss, psnr = self._train_step(phase)
            losses.append(loss)
            psnrs.append(psnr)
            self.seen += train.batch_size
            self.total += train.batch_size
            self.step += 1
            images += train.batch_size
            bar.update(train.batch_size)
            bar.set_postfix(loss=f"{loss:.2f}", psnr=f"{psnr:.2f}", codes=f"{self._codes_in_use():.0%}")
            if self.step % train.validate_every == 0 or self.seen >= phase.images:
                elapsed = started.seconds
                self._spend(started)
                self._calibrate(phase)
                val_psnr, use = self.validate(phase.stage)
                self._log(phase, elapsed, images, losses, psnrs, val_psnr, use)
                bar.write(f"{phase.name} {self.total} images: val PSNR {val_psnr} dB, codebook use {use:.0%}")
                self._save("checkpoint.pt")
                started, losses, psnrs, images = Clock(), [], [], 0
        bar.close()

    # -- one step

    def _train_step(self, phase: Phase) -> tuple[float, float]:
        model = self.model
        pixels = self._shifted(to_pixels(self._batch()))
        # Experts pass no gradients to each other. So the causal loop runs without gradients, and one parallel pass
        # computes them.
        stages = range(phase.stage + 1) if phase.joint else [phase.stage]
        first, end = model.mocet.experts[stages[0]].start, self.config.model.stages[phase.stage]
        with self._autocast():
            with contextlib.nullcontext() if phase.stage == 0 or phase.joint else torch.no_grad():
                latents = model.encoder(self._noisy(pixels))
            with torch.no_grad():
                said, ids = model.mocet.generate(latents.float(), model.quantiser, end)
                codes = model.quantiser.lookup(ids)
            predicted = F.normalize(torch.cat([model.mocet.predict(latents, said, s) for s in stages], dim=1), dim=-1)
            straight_through = torch.cat([codes[:, :first], predicted + (codes[:, first:] - predicted).detach()], dim=1)
            drawn = model.decoder(straight_through, self._dropped_tail(len(pixels), end)).float()
        decibels = -10 * torch.log10(((drawn - pixels) / 2).square().mean(dim=(1, 2, 3)) + 1e-6)
        # the negative PSNR of each image (NAFNet, arXiv 2204.04676): training optimises the reported figure
        loss = -decibels.mean()
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for optimiser in self.optimisers:
            optimiser.step()
        codebook_learns = phase.stage == 0 or phase.joint
        if codebook_learns:
            model.quantiser.follow(predicted.detach().flatten(0, 1), ids[:, first:].flatten())
        self._update_ema(codebook_learns)
        return loss.item(), decibels.mean().item()

    def _batch(self) -> Tensor:
        """The next batch of images uint8 [B, H, W, 3], in a new random order each epoch, half of them mirrored."""
        size, count = self.config.train.batch_size, len(self.images)
        picks = []
        for position in range(self.total, self.total + size):
            epoch, place = divmod(position, count)
            if self._order_epoch != epoch:
                generator = torch.Generator().manual_seed(self.config.train.seed * 1000 + epoch)
                self._order, self._order_epoch = torch.randperm(count, generator=generator), epoch
            picks.append(self._order[place])
        batch = self.images[torch.stack(picks)].to(self.device)
        mirrored = torch.rand(size, device=self.device) < 0.5
        return torch.where(mirrored[:, None, None, None], batch.flip(2), batch)

    def _shifted(self, pixels: Tensor) -> Tensor:
        """Shift pixels [B, 3, H, W] by up to half a patch.

        Compressed photos have block borders. If these coincide with patch borders, a decoder learns to draw them.
        """
        most = self.config.model.patch_size // 2
        top, left = torch.randint(2 * most + 1, (2,)).tolist()
        padded = F.pad(pixels, [most] * 4, mode="reflect")
        return padded[:, :, top : top + pixels.shape[2], left : left + pixels.shape[3]]

    def _noisy(self, pixels: Tensor) -> Tensor:
        """Pixels as the encoder sees them in training: tokens must not depend on noise that nobody sees."""
        if not self.config.train.noise:
            return pixels
        return pixels + torch.randn_like(pixels) * (self.config.train.noise / 127.5)

    def _dropped_tail(self, batch: int, length: int) -> Tensor:
        """A mask of absent tokens, bool [B, length]: a random tail for a share of the batch."""
        keep = torch.randint(1, length + 1, (batch,), device=self.device)
        keep[torch.rand(batch, device=self.device) >= self.config.train.tail_drop] = length
        return torch.arange(length, device=self.device) >= keep[:, None]

    def _autocast(self) -> Any:
        precision = self.config.train.precision
        has = torch.cpu.get_capabilities()
        fast = self.device.type == "cuda" or bool(has.get("amx_bf16") or has.get("avx512_bf16"))
        enabled = precision == "bfloat16" or (precision == "auto" and fast)
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    @torch.no_grad()
    def _update_ema(self, codebook_learns: bool) -> None:
        self.ema_steps += 1
        decay = min(self.config.train.ema_decay, (1 + self.ema_steps) / (10 + self.ema_steps))
        for mean, value in zip(self.ema.parameters(), self.model.parameters(), strict=True):
            if value.requires_grad:
                mean.lerp_(value, 1 - decay)
        if codebook_learns:  # a frozen codebook must not change by a bit, and normalising it would round its entries
            self.ema.quantiser.codebook.copy_(
                F.normalize(self.ema.quantiser.codebook.lerp(self.model.quantiser.codebook, 1 - decay), dim=-1)
            )
            self.ema.quantiser.counts.copy_(self.model.quantiser.counts)

    def _sample(self, count: int) -> Tensor:
        """The same training images on each call: uint8 [count or fewer, H, W, 3]."""
        pick = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(0))[:count]
        return self.images[pick].to(self.device)

    @torch.no_grad()
    def _calibrate(self, phase: Phase) -> None:
        """Update the statistics that normalise the codes of the averaged experts, for those being trained."""
        end = self.config.model.stages[phase.stage]
        first = 0 if phase.joint else self.ema.mocet.experts[phase.stage].start
        latents = torch.cat([self.ema.encoder(to_pixels(batch)) for batch in self._sample(1024).split(256)])
        self.ema.mocet.calibrate(latents, self.ema.quantiser, first, end)

    # -- validation and log

    def _codes_in_use(self) -> float:
        counts = self.model.quantiser.counts
        return (counts > 0.1 * counts.mean()).float().mean().item()

    @torch.no_grad()
    def validate(self, stage: int) -> tuple[dict[int, float], float]:
        """Measure the averaged weights on the validation images.

        Returns the PSNR in dB at each stage length so far, and the share of the codebook in use, 0..1.
        """
        lengths = self.config.model.stages[: stage + 1]
        psnr: dict[int, list[Tensor]] = {length: [] for length in lengths}
        used = torch.zeros(self.config.model.codebook_size, dtype=torch.bool, device=self.device)
        for batch in self.validation.split(64):
            pixels = to_pixels(batch)
            _, ids = self.ema.mocet.generate(self.ema.encoder(pixels), self.ema.quantiser, lengths[-1])
            codes = self.ema.quantiser.lookup(ids)
            used[ids.flatten()] = True
            for length in lengths:
                absent = (torch.arange(lengths[-1], device=self.device) >= length).expand(len(batch), -1)
                drawn = self.ema.decoder(codes, absent).clamp(-1, 1)
                psnr[length].append(-10 * torch.log10(((drawn - pixels) / 2).square().mean(dim=(1, 2, 3)) + 1e-6))
        return {n: round(torch.cat(p).mean().item(), 3) for n, p in psnr.items()}, used.float().mean().item()

    def _log(
        self,
        phase: Phase,
        elapsed: float,
        images: int,
        losses: list[float],
        psnrs: list[float],
        val_psnr: dict[int, float],
        use: float,
    ) -> None:
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        row = [phase.name, trained, self.step, self.total, f"{self.seconds:.1f}", f"{self.cpu_seconds:.1f}"]
        row += [f"{images / elapsed:.1f}", f"{np.mean(losses):.4f}", f"{np.mean(psnrs):.3f}"]
        row += [" ".join(f"{length}:{psnr:.3f}" for length, psnr in val_psnr.items()), f"{use:.4f}"]
        path = self.out / "log.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(LOG_COLUMNS)
            writer.writerow(row)

    # -- checkpoints

    def _save(self, name: str) -> None:
        state = {key: getattr(self, key) for key in (*PLACE, "ema_steps")}
        state |= {"model": self.model.state_dict(), "ema": self.ema.state_dict(), "rng": torch.get_rng_state()}
        state["optimisers"] = [optimiser.state_dict() for optimiser in self.optimisers]
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state()
        partial = self.out / f"{name}.partial"
        torch.save(state, partial)
        partial.replace(self.out / name)

    def resume(self, path: Path) -> None:
        """Restore a checkpoint, so that the run continues exactly where it was written."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        for key in PLACE:
            setattr(self, key, state[key])
        self.model.load_state_dict(state["model"])
        if self.phase == len(self.phases):
            return  # nothing is left to train
        self._begin_phase()
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.ema.load_state_dict(state["ema"])
        self.ema_steps = state["ema_steps"]
        torch.set_rng_state(state["rng"].cpu())
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"].cpu())


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="YAML file with the model and the run, see training/configs")
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of images, or of train/ and val/, or of tar shards"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for checkpoints, log.csv and weights.safetensors"
    )
    parser.add_argument("--from-weights", type=Path, help="continue from released weights (.safetensors)")
    parser.add_argument("--seed", type=int, help="random seed (default: the configuration's)")
    args = parser.parse_args()
    # Attention weights far outside a head's window are so small that gradients through them become denormal numbers,
    # which CPUs multiply over twenty times more slowly. Threads inherit this setting, so it is set before they start.
    torch.set_flush_denormal(True)
    config = RunConfig.load(args.config)
    if args.seed is not None:
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=args.seed))
    size = config.model.image_size
    images = load_images(find_split(args.data, "train"), size)
    validation = load_images(find_split(args.data, "val"), size)
    start = load_weights(args.from_weights) if args.from_weights else None
    trainer = Trainer(config, images, validation, args.out, start)
    if (checkpoint := args.out / "checkpoint.pt").exists():
        trainer.resume(checkpoint)
    trainer.run()


if __name__ == "__main__":
    main()
