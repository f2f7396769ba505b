"""Tables and plots that compare tokenizers whose training differs in one respect (training/study/configs).

Each run has a folder named CONFIGURATION-sSEED with `training.json` and `log.csv` from `nativetok.train` and
`evaluation.json` from `nativetok.evaluate`. Optional are `generator.json` from `study.generator`, the same from longer
training as `generator-longer.json`, and `graphs.json`, the timing of the exported bundle (bench/gpu/graphs.ts).
"""

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from study.markdown import table

# How each configuration is named and drawn.
NAMES = {
    "cross": "experts",
    "cross-random": "experts, random start",
    "cross-whole": "experts, no tail drop",
    "parallel": "parallel, random start",
    "parallel-whole": "parallel, random start, no tail drop",
    "self": "self-attending experts",
    "hierarchical": "stages",
    "hierarchical-joint": "stages, then all",
}
STYLES: dict[str, dict[str, Any]] = {
    "cross": {"color": "#D55E00"},
    "cross-random": {"color": "#E69F00"},
    "cross-whole": {"color": "#D55E00", "linestyle": "--"},
    "parallel": {"color": "#0072B2"},
    "parallel-whole": {"color": "#0072B2", "linestyle": "--"},
    "self": {"color": "#CC79A7"},
    "hierarchical": {"color": "#009E73"},
    "hierarchical-joint": {"color": "#009E73", "linestyle": "--"},
}
TARGETS = (14.0, 15.0, 16.0, 17.0, 18.0)
"""PSNRs in dB at which the cost of an image is compared."""
REACHED = (17.75, 18.0, 18.1)
"""PSNRs in dB at which the training time to reach them is compared."""


@dataclass(frozen=True)
class Run:
    """The files of a run. Generators are None if none was trained, `graphs` is None if no bundle was timed."""

    config: str
    seed: int
    training: dict[str, Any]
    evaluation: dict[str, Any]
    log: list[dict[str, str]]
    generator: dict[str, Any] | None
    longer_generator: dict[str, Any] | None
    graphs: dict[str, Any] | None

    @property
    def name(self) -> str:
        """The run's name in tables and plots."""
        return NAMES[self.config] + (f", seed {self.seed}" if self.seed else "")

    @property
    def minutes(self) -> float:
        """Processor time of the training in minutes, including initialisation."""
        return float(self.log[-1]["cpu_seconds"]) / 60

    def psnr(self, length: int) -> float:
        """PSNR of a prefix on the val photos, in dB."""
        return float(self.evaluation["lengths"][str(length)]["psnr"])

    def progress(self, length: int) -> list[tuple[float, float]]:
        """Minutes and validation PSNR of a prefix in dB, for each line of the log whose stage has this length."""
        points = []
        for row in self.log:
            psnr = dict(part.split(":") for part in row["val_psnr"].split())
            if str(length) in psnr:
                points.append((float(row["cpu_seconds"]) / 60, float(psnr[str(length)])))
        return points


def load_runs(folder: Path) -> list[Run]:
    """All runs in a folder, in the order of NAMES, then by seed. Raises ValueError for an unknown name."""
    runs = []
    for path in sorted(p for p in folder.iterdir() if p.is_dir()):
        config, _, seed = path.name.rpartition("-s")
        if config not in NAMES or not seed.isdigit():
            raise ValueError(f"{path}: a run is named CONFIGURATION-sSEED, with one of {', '.join(NAMES)}")
        with (path / "log.csv").open(newline="") as file:
            log = list(csv.DictReader(file))
        training, evaluation = (json.loads((path / f"{name}.json").read_text()) for name in ("training", "evaluation"))
        optional = (
            json.loads(written.read_text()) if (written := path / f"{name}.json").exists() else None
            for name in ("generator", "generator-longer", "graphs")
        )
        runs.append(Run(config, int(seed), training, evaluation, log, *optional))
    return sorted(runs, key=lambda run: (list(NAMES).index(run.config), run.seed))


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def generators_table(runs: Sequence[Run]) -> str:
    """The cost of each tokenizer's sequences to a generator, and the Fréchet distance of its samples."""
    rows = []
    for run in runs:
        if not (figures := run.generator):
            continue
        bits = np.array(figures["bits_by_position"])
        rows.append(
            [
                run.name,
                f"{run.psnr(len(bits)):.2f}",
                *(f"{part.mean():.2f}" for part in (bits[:1], bits[1:8], bits[8:])),
                f"{bits.sum():.1f}",
                f"{figures['frechet_reconstructions']:.1f}",
                f"{figures['frechet']:.1f}",
            ]
        )
    header = ["tokenizer", "PSNR, dB", "bits: token 1", "2-8", "9 on", "whole", "Fréchet: reconstructions", "samples"]
    return table(header, rows)


def longer_table(runs: Sequence[Run]) -> str:
    """What longer training of the generator gains, for the tokenizers for which it was tried."""
    rows = []
    for run in runs:
        if not (run.generator and run.longer_generator):
            continue
        for figures in (run.generator, run.longer_generator):
            rows.append(
                [
                    run.name,
                    f"{figures['sequences']:,}",
                    f"{sum(figures['bits_by_position']):.1f}",
                    f"{figures['frechet_reconstructions']:.1f}",
                    f"{figures['frechet']:.1f}",
                ]
            )
    return table(["tokenizer", "sequences", "bits, whole", "Fréchet: reconstructions", "samples"], rows)


def experts_table(runs: Sequence[Run]) -> str:
    """Quality of each kind of expert, and the cost of training and encoding."""
    rows = []
    for run in runs:
        if not run.graphs:
            continue
        encode = {
            graph["batch"]: graph["batch"] * 1000 / graph["encodeImagesPerSecond"] for graph in run.graphs["graphs"]
        }
        # from the first to the last line of the log, to leave out the initialisation
        first, last = run.log[0], run.log[-1]
        images, seconds = (float(last[column]) - float(first[column]) for column in ("images", "cpu_seconds"))
        rows.append(
            [
                run.name,
                f"{run.psnr(32):.2f}",
                f"{run.training['images_seen']:,}",
                f"{run.minutes:.0f}",
                f"{images / seconds:.1f}",
                f"{encode[1]:.1f}",
                f"{encode[32]:.0f}",
            ]
        )
    header = ["experts", "PSNR, dB", "images", "minutes", "images/s", "encode 1, ms", "encode 32, ms"]
    return table(header, rows)


def cost_table(runs: Sequence[Run]) -> str:
    """Bits that a generator spends to reach each PSNR of TARGETS, interpolated between prefixes."""
    rows = []
    for run in runs:
        if run.generator:
            bits, psnr = _cost(run)
            costs = np.interp(TARGETS, psnr, bits, left=np.nan, right=np.nan)
            rows.append([run.name, *("" if np.isnan(cost) else f"{cost:.1f}" for cost in costs)])
    return table(["tokenizer", *(f"{target:.0f} dB" for target in TARGETS)], rows)


def _cost(run: Run) -> tuple[list[float], list[float]]:
    """Bits and PSNR of the prefixes, from the shortest on, as long as PSNR rises."""
    assert run.generator
    return _rising((prefix["bits"], prefix["psnr"]) for prefix in run.generator["prefixes"].values())


def _rising(points: Iterable[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """The costs and qualities of the points that are better than all points before them."""
    spent: list[float] = []
    quality: list[float] = []
    for cost, psnr in points:
        if not quality or psnr > quality[-1]:
            spent.append(cost)
            quality.append(psnr)
    return spent, quality


def prefixes_table(runs: Sequence[Run], configs: Sequence[str]) -> str:
    """PSNR by prefix length."""
    chosen = [run for run in runs if run.config in configs]
    lengths = list(chosen[0].evaluation["lengths"]) if chosen else []
    rows = [[run.name, *(f"{run.psnr(int(length)):.2f}" for length in lengths)] for run in chosen]
    return table(["tokens", *lengths], rows)


def budgets_table(runs: Sequence[Run], configs: Sequence[str]) -> str:
    """Images, time and quality of runs, and the number of parameters that each phase trains."""
    rows = []
    for run in runs:
        if run.config not in configs:
            continue
        phases = {row["phase"]: int(row["trained_parameters"]) for row in run.log}
        rows.append(
            [
                run.name,
                " / ".join(f"{count / 1e6:.1f}" for count in phases.values()),
                f"{run.training['images_seen']:,}",
                f"{run.minutes:.0f}",
                *(f"{run.psnr(length):.2f}" for length in (1, 8, 16, 32)),
            ]
        )
    header = ["tokenizer", "million parameters trained", "images", "minutes", "1 token", "8", "16", "32"]
    return table(header, rows)


def times_table(runs: Sequence[Run], configs: Sequence[str], length: int) -> str:
    """Minutes until a prefix reaches each PSNR of REACHED on the validation photos, interpolated."""
    rows = []
    for run in runs:
        if run.config in configs:
            minutes, psnr = _rising(run.progress(length))
            times = np.interp(REACHED, psnr, minutes, left=np.nan, right=np.nan)
            rows.append([run.name, *("" if np.isnan(time) else f"{time:.0f}" for time in times)])
    return table(["tokenizer", *(f"{target:.2f} dB" for target in REACHED)], rows)


# ---------------------------------------------------------------------------------------------------------------------
# Plots


def draw_generators(runs: Sequence[Run]) -> Figure:
    """Plot bits by position, and PSNR against the bits spent."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    by_position, quality = figure.subplots(1, 2)
    for run in runs:
        if not run.generator:
            continue
        bits = run.generator["bits_by_position"]
        by_position.plot(range(1, len(bits) + 1), bits, **_style(run))
        quality.plot(*_cost(run), **_style(run), marker=".")
    by_position.set(title="What a token costs the generator", xlabel="position", ylabel="bits")
    quality.set(title="Quality of the prefixes", xlabel="bits spent on it by the generator", ylabel="PSNR, dB")
    _finish(figure, (by_position, quality))
    return figure


def draw_training(runs: Sequence[Run], length: int) -> Figure:
    """Plot the validation PSNR of a length against the minutes of training."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    ax = figure.subplots()
    for run in runs:
        ax.plot(*zip(*run.progress(length), strict=True), **_style(run), marker=".")
    ax.set(title=f"{length} tokens while training", xlabel="minutes on one core", ylabel="PSNR, dB")
    _finish(figure, (ax,))
    return figure


def _style(run: Run) -> dict[str, Any]:
    return {**STYLES[run.config], "alpha": 0.6 if run.seed else 1.0, "label": run.name}


def _finish(figure: Figure, axes: Sequence[Axes]) -> None:
    for ax in axes:
        ax.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
