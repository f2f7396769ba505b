"""Rebuilds the tables and plots of docs/results.md, docs/generators.md and README.md from docs/results/*.json.

python -m study.report

Nothing is measured here. Each table stands between markers such as `<!-- quality -->` and `<!-- /quality -->`. Text
outside the markers is not changed.
"""

import argparse
import itertools
import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from study.comparison import (
    Run,
    budgets_table,
    cost_table,
    draw_generators,
    draw_training,
    experts_table,
    generators_table,
    load_runs,
    longer_table,
    prefixes_table,
    times_table,
)
from study.markdown import rebuild, table

REPOSITORY = Path(__file__).parents[2]
FIGURES = ("quality", "quality-other", "rate-distortion", "order")
Figures = Mapping[str, Any]

# Which configurations of training/study/configs are compared.
ORDERED = ("cross", "cross-random", "parallel")
TAIL_DROP = ("cross", "cross-whole", "parallel", "parallel-whole")
STAGES = ("cross", "hierarchical", "hierarchical-joint")

# Okabe and Ito's colours, which colour-blind readers can distinguish, and different markers.
STYLES: dict[str, dict[str, Any]] = {
    "NativeTok": {"color": "#D55E00", "marker": "*"},
    "thumbnail": {"color": "#555555", "marker": "x"},
    "JPEG": {"color": "#E69F00", "marker": "s"},
    "WebP": {"color": "#0072B2", "marker": "o"},
    "AVIF": {"color": "#009E73", "marker": "^"},
}


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def quality_table(quality: Figures) -> str:
    """Quality by number of tokens, from the figures of `nativetok.evaluate`."""
    lengths = quality["lengths"]
    frechet = any(figures["frechet"] is not None for figures in lengths.values())
    return table(
        ["tokens", "bytes", "PSNR, dB", "SSIM", *(["Fréchet distance"] if frechet else [])],
        (
            [
                length,
                f"{figures['bytes']}",
                f"{figures['psnr']:.2f}",
                f"{figures['ssim']:.3f}",
                *([f"{figures['frechet']:.2f}"] if frechet else []),
            ]
            for length, figures in lengths.items()
        ),
    )


def rate_distortion_table(figures: Figures) -> str:
    """Quality at low rates: tokens, thumbnails, reduced images, and each codec's smallest file at full size."""
    rows = []
    for name, curve in figures["curves"].items():
        full = max(point.get("side", 0) for point in curve)
        first = next((point for point in curve if point.get("side") == full), None)
        for point in curve:
            if name not in ("NativeTok", "thumbnail") and point["side"] == full and point is not first:
                continue
            rows.append(
                [
                    name,
                    f"{point['tokens']} tokens" if "tokens" in point else f"{point['side']}x{point['side']}",
                    f"{point['quality']}" if "quality" in point else "",
                    f"{point['bytes']:,.0f}",
                    f"{point['payload']:,.0f}",
                    f"{point['psnr']:.2f}",
                    f"{point['ssim']:.3f}",
                ]
            )
    return table(["code", "size", "quality", "bytes, file", "bytes, payload", "PSNR, dB", "SSIM"], rows)


def tell_table(order: Figures) -> str:
    """Entropy and information by position, averaged over octaves of positions."""
    tell = order["tell"]
    return table(
        ["position", "entropy, bits", "information on coarse content, bits", "information on fine content, bits"],
        (
            [
                f"{start + 1}" if end == start + 1 else f"{start + 1}-{end}",
                f"{np.mean(tell['entropy'][start:end]):.2f}",
                f"{np.mean(tell['coarse']['information'][start:end]):.3f}",
                f"{np.mean(tell['fine']['information'][start:end]):.3f}",
            ]
            for start, end in _octaves(len(tell["entropy"]))
        ),
    )


def add_table(order: Figures) -> str:
    """What each prefix adds to the next shorter one, by band of spatial frequency."""
    add = order["add"]
    rows = [[length, f"{prefix['psnr']:.2f}", *_frequencies(prefix)] for length, prefix in add["prefixes"].items()] + [
        ["the photo", "", *_frequencies(add["photos"])]
    ]
    return table(["tokens", "PSNR, dB", "mean frequency", *_band_names(add["band_edges"])], rows)


def _frequencies(change: Figures) -> list[str]:
    return [f"{change['mean_frequency']:.1f}", *(f"{share:.0%}" for share in change["shares"])]


def _band_names(edges: Sequence[int]) -> list[str]:
    between = [f"{low}-{high}" for low, high in itertools.pairwise(edges)]
    return [f"below {edges[0]}", *between, f"{edges[-1]} up"]


def _octaves(length: int) -> list[tuple[int, int]]:
    """Ranges of positions that double in length: 0..1, 1..2, 2..4, 4..8, ..., the last one cut off at `length`."""
    ends = [1]
    while ends[-1] < length:
        ends.append(min(2 * ends[-1], length))
    return list(itertools.pairwise([0, *ends]))


def stability_table(stability: Figures) -> str:
    """Tokens that stay the same when images change imperceptibly, of the first, middle and last position and of all."""
    rows = []
    for change, figure in stability.items():
        by_position = figure["equal_by_position"]
        places = [by_position[0], by_position[len(by_position) // 2], by_position[-1]]
        shares = [f"{share:.1%}" for share in (figure["equal"], *places)]
        rows.append([change, *shares, f"{figure['rms']:.1f}"])
    return table(["change", "tokens that stay", "first", "middle", "last", "rms of the picture"], rows)


def results_blocks(figures: Mapping[str, Figures]) -> dict[str, str]:
    """The content between the markers of docs/results.md, by name."""
    order, stability = figures["order"], figures["quality"]["stability"]
    val, train = order["images"]["val"], order["images"]["train"]
    coarse, fine = order["tell"]["coarse"], order["tell"]["fine"]
    note = (
        f"{val:,} photos of the val split and {train:,} of the train split, so measured entropy is at most "
        f"{np.log2(val + train):.2f} bits. Information is at most the entropy of the content clusters, "
        f"{coarse['entropy']:.2f} bits (coarse) and {fine['entropy']:.2f} bits (fine). The standard deviation of one "
        f"position's estimate by chance is {coarse['noise']:.3f} bits (coarse) and {fine['noise']:.3f} bits (fine)."
    )
    return {
        "quality": _counted(quality_table(figures["quality"]), figures["quality"]["images"]),
        "stability": _counted(stability_table(stability), next(iter(stability.values()))["images"]),
        "quality-other": _counted(quality_table(figures["quality-other"]), figures["quality-other"]["images"]),
        "rate-distortion": _counted(
            rate_distortion_table(figures["rate-distortion"]), figures["rate-distortion"]["images"]
        ),
        "order-add": _counted(add_table(order), val),
        "order-tell": f"{tell_table(order)}\n\n{textwrap.fill(note, 120)}",
    }


def generators_blocks(runs: Sequence[Run]) -> dict[str, str]:
    """The content between the markers of docs/generators.md, by name."""
    return {
        "ordered": budgets_table(runs, ORDERED),
        "generators": generators_table(runs),
        "generator-costs": cost_table(runs),
        "longer-generators": longer_table(runs),
        "tail-drop": prefixes_table(runs, TAIL_DROP),
        "stages": budgets_table(runs, STAGES),
        "stage-times": times_table(runs, STAGES, 32),
        "experts": experts_table(runs),
    }


def _counted(content: str, images: int) -> str:
    return f"{content}\n\n{images:,} photos."


# ---------------------------------------------------------------------------------------------------------------------
# Plots


def draw_rate_distortion(figures: Figures) -> Figure:
    """Plot PSNR and SSIM against bytes: whole files above, only the payload below."""
    figure = Figure(figsize=(11, 8.5), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey="col")
    for row, (counted, what) in enumerate((("bytes", "whole file"), ("payload", "payload only"))):
        for column, (measure, label) in enumerate((("psnr", "PSNR, dB"), ("ssim", "SSIM"))):
            ax = axes[row, column]
            for name, curve in figures["curves"].items():
                _draw_curve(ax, name, curve, counted, measure)
            ax.set(xscale="log", title=f"{label.split(',')[0]}, {what}", ylabel=label)
            ax.set_xticks([50, 100, 200, 500, 1000, 2000], ["50", "100", "200", "500", "1,000", "2,000"])
            ax.minorticks_off()
            ax.grid(alpha=0.3)
            if row == 1:
                ax.set_xlabel("bytes per image (mean)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def _draw_curve(ax: Axes, name: str, curve: Sequence[Figures], counted: str, measure: str) -> None:
    style = STYLES[name]
    if name in ("NativeTok", "thumbnail"):
        x, y = [point[counted] for point in curve], [point[measure] for point in curve]
        ours = name == "NativeTok"
        label = "NativeTok, tokens" if ours else "raw RGB thumbnail"
        ax.plot(x, y, **style, linestyle="-" if ours else "", markersize=14 if ours else 8, label=label, zorder=3)
        for point, left, bottom in zip(curve, x, y, strict=True):
            text = f"{point['tokens']}" if ours else f"{point['side']}x{point['side']}"
            ax.annotate(text, (left, bottom), (2, -19) if ours else (7, -4), textcoords="offset points")
        return
    full = max(point["side"] for point in curve)
    for points, smaller in (
        ([point for point in curve if point["side"] == full], False),
        ([point for point in curve if point["side"] < full], True),
    ):
        ax.plot(
            [point[counted] for point in points],
            [point[measure] for point in points],
            **style,
            linestyle=":" if smaller else "-",
            markerfacecolor="white" if smaller else style["color"],
            markersize=5,
            label=f"{name}, reduced image" if smaller else name,
        )


def draw_order(order: Figures) -> Figure:
    """Plot entropy and information by position, PSNR by prefix, and what each prefix adds by band."""
    tell, add = order["tell"], order["add"]
    figure = Figure(figsize=(11, 8.5), layout="constrained")
    (entropy, information), (quality, bands) = figure.subplots(2, 2)
    positions = np.arange(1, len(tell["entropy"]) + 1)

    entropy.plot(positions, tell["entropy"], ".", color="#0072B2")
    limit = np.log2(sum(order["images"].values()))
    entropy.axhline(limit, color="#555555", linestyle="--", linewidth=1)
    entropy.annotate("upper bound for this number of photos", (1, limit), (0, 4), textcoords="offset points")
    entropy.set(title="Entropy of the ids", ylabel="bits", ylim=(0, limit + 1.5))

    for name, colour, marker in (("coarse", "#D55E00", "o"), ("fine", "#0072B2", "^")):
        bits = tell[name]["information"]
        information.plot(positions, bits, marker, color=colour, markersize=3, alpha=0.4, linestyle="")
        octaves = _octaves(len(bits))
        centres = [np.sqrt((start + 1) * end) for start, end in octaves]
        means = [np.mean(bits[start:end]) for start, end in octaves]
        information.plot(centres, means, color=colour, marker=marker, label=f"on {name} content")
    information.set(title="Information in a single token (lines: means over octaves)", ylabel="bits")
    information.legend(frameon=False)
    for ax in (entropy, information):
        ax.set_xlabel("position")
        _log2_axis(ax, len(positions))

    lengths = [int(length) for length in add["prefixes"]]
    quality.plot(lengths, [prefix["psnr"] for prefix in add["prefixes"].values()], "o-", color="#D55E00")
    quality.set(title="PSNR by prefix", xlabel="tokens", ylabel="dB")
    _log2_axis(quality, lengths[-1])

    columns = [*map(str, lengths), "photo"]
    shares = np.array([change["shares"] for change in (*add["prefixes"].values(), add["photos"])])
    bottoms = np.cumsum(shares, axis=1) - shares
    for band, name in enumerate(_band_names(add["band_edges"])):
        shade = colormaps["cividis"](band / len(add["band_edges"]))
        bands.bar(columns, shares[:, band], bottom=bottoms[:, band], color=shade, label=name, width=0.85)
    bands.set(
        title="What each prefix adds to the next shorter one", xlabel="tokens", ylabel="share of energy", ylim=(0, 1)
    )
    handles, names = bands.get_legend_handles_labels()
    bands.legend(
        handles[::-1], names[::-1], title="cycles per image", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False
    )
    for ax in (entropy, information, quality):
        ax.grid(alpha=0.3)
    return figure


def _log2_axis(ax: Axes, length: int) -> None:
    ticks = [end for _, end in _octaves(length)]
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, [str(tick) for tick in ticks])


# ---------------------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: rewrite the tables and plots of both pages and the README's table."""
    parser = argparse.ArgumentParser(prog="python -m study.report", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--root", type=Path, default=REPOSITORY, help="the repository (default: the one that contains this file)"
    )
    root = parser.parse_args(arguments).root

    figures = {name: json.loads((root / "docs" / "results" / f"{name}.json").read_text()) for name in FIGURES}
    runs = load_runs(root / "docs" / "results" / "runs")
    pages = {
        root / "docs" / "results.md": results_blocks(figures),
        root / "docs" / "generators.md": generators_blocks(runs),
        root / "README.md": {"quality": quality_table(figures["quality"])},
    }
    for page, contents in pages.items():
        page.write_text(rebuild(page.read_text(), contents))
    plots = {
        "rate-distortion": draw_rate_distortion(figures["rate-distortion"]),
        "order-curves": draw_order(figures["order"]),
        "ordered": draw_training([run for run in runs if run.config in ORDERED], 32),
        "stages": draw_training([run for run in runs if run.config in STAGES], 32),
        "generators": draw_generators(runs),
    }
    for name, plot in plots.items():
        plot.savefig(root / "docs" / "images" / f"{name}.png", dpi=110)


if __name__ == "__main__":
    main()
