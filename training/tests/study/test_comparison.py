import csv
import json
from pathlib import Path
from typing import Any

import pytest

from study.comparison import (
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


def write_run(
    folder: Path,
    psnr: dict[int, float],
    bits: list[float] | None = None,
    log: list[dict[str, str]] | None = None,
    encode: dict[int, float] | None = None,
) -> None:
    """A run's folder, as the commands write it. `encode`: milliseconds a batch."""
    folder.mkdir(parents=True)
    lengths = {str(length): {"psnr": value} for length, value in psnr.items()}
    (folder / "evaluation.json").write_text(json.dumps({"lengths": lengths}))
    (folder / "training.json").write_text(json.dumps({"images_seen": 28_800}))
    stage = {"phase": "stage-1", "trained_parameters": "17300000"}
    log = log or [
        {**stage, "images": "3200", "cpu_seconds": "520", "val_psnr": "1:13.5"},
        {**stage, "images": "28800", "cpu_seconds": "1800", "val_psnr": "32:18.1"},
    ]
    with (folder / "log.csv").open("w", newline="") as file:
        rows = csv.DictWriter(file, log[0])
        rows.writeheader()
        rows.writerows(log)
    if bits:
        prefixes = {str(k): {"bits": sum(bits[:k]), "psnr": psnr[k]} for k in psnr}
        generator = {"bits_by_position": bits, "prefixes": prefixes, "frechet": 50.0, "frechet_reconstructions": 20.25}
        (folder / "generator.json").write_text(json.dumps(generator))
    if encode:
        graphs = [{"batch": batch, "encodeImagesPerSecond": batch * 1000 / ms} for batch, ms in encode.items()]
        (folder / "graphs.json").write_text(json.dumps({"graphs": graphs}))


@pytest.fixture
def runs(tmp_path: Path) -> list[Any]:
    write_run(tmp_path / "parallel-s0", {1: 8.0, 8: 7.0, 16: 12.0, 32: 18.5}, [11.0] * 32)
    write_run(
        tmp_path / "cross-s1",
        {1: 14.0, 8: 16.5, 16: 17.25, 32: 18.25},
        [8.0] + [9.0] * 7 + [10.0] * 24,
        encode={1: 8.5, 32: 200.0},
    )
    log = [
        {"phase": "stage-1", "trained_parameters": "9000000", "cpu_seconds": "600", "val_psnr": "8:16.2"},
        {"phase": "stage-2", "trained_parameters": "6500000", "cpu_seconds": "1200", "val_psnr": "8:16.3 32:17.9"},
        {"phase": "stage-2", "trained_parameters": "6500000", "cpu_seconds": "1500", "val_psnr": "8:16.4 32:18.3"},
    ]
    write_run(tmp_path / "hierarchical-s0", {1: 14.1, 8: 16.6, 16: 17.5, 32: 18.4}, log=log)
    return load_runs(tmp_path)


def cells(text: str) -> list[list[str]]:
    """The rows of a Markdown table, less its header."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.split("\n")[2:]]


def test_runs_come_in_the_order_of_their_configurations(runs: list[Any]) -> None:
    assert [(run.config, run.seed) for run in runs] == [("cross", 1), ("parallel", 0), ("hierarchical", 0)]
    assert runs[0].name != "cross"
    assert runs[0].name.endswith("seed 1")


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    write_run(tmp_path / "mine", {32: 18.0})
    with pytest.raises(ValueError, match="mine"):
        load_runs(tmp_path)


def test_what_tokens_cost_a_generator(runs: list[Any]) -> None:
    rows = cells(generators_table(runs))
    assert len(rows) == 2, "of runs with a generator"
    assert rows[0][1:] == ["18.25", "8.00", "9.00", "10.00", "311.0", "20.2", "50.0"]
    assert rows[1][1:] == ["18.50", "11.00", "11.00", "11.00", "352.0", "20.2", "50.0"]


def test_a_generator_trained_longer_stands_under_the_shorter_one(tmp_path: Path) -> None:
    for name in ("cross-s0", "parallel-s0"):
        write_run(tmp_path / name, {8: 16.0, 16: 17.0}, [11.0] * 16)
    short = json.loads((tmp_path / "cross-s0" / "generator.json").read_text()) | {"sequences": 72_000}
    (tmp_path / "cross-s0" / "generator.json").write_text(json.dumps(short))
    longer = {**short, "sequences": 216_000, "bits_by_position": [10.0] * 16, "frechet": 40.0}
    (tmp_path / "cross-s0" / "generator-longer.json").write_text(json.dumps(longer))
    rows = cells(longer_table(load_runs(tmp_path)))
    assert [row[1:] for row in rows] == [
        ["72,000", "176.0", "20.2", "50.0"],
        ["216,000", "160.0", "20.2", "40.0"],
    ]


def test_a_quality_costs_what_lies_between_prefixes(runs: list[Any]) -> None:
    rows = cells(cost_table(runs))
    # 14, 15, 16, 17 and 18 dB; 16.5 dB cost 8 + 7 * 9 bits, 17.25 dB 80 more
    assert rows[0][1] == "8.0"
    assert float(rows[0][4]) == pytest.approx(71 + 80 * (17 - 16.5) / (17.25 - 16.5), abs=0.06)
    # a longer prefix that draws worse is none to stop at
    assert float(rows[1][1]) == pytest.approx(176 + 176 * (14 - 12) / (18.5 - 12), abs=0.06)
    assert cells(cost_table([runs[0]]))[0][5] != ""
    write = [run for run in runs if run.config == "cross"]
    write[0].generator["prefixes"]["32"]["psnr"] = 17.9
    assert cells(cost_table(write))[0][5] == "", "18 dB are not reached"


def test_prefixes_and_budgets(runs: list[Any]) -> None:
    assert cells(prefixes_table(runs, ("cross",)))[0][1:] == ["14.00", "16.50", "17.25", "18.25"]
    (row,) = cells(budgets_table(runs, ("hierarchical",)))
    assert row[1:] == ["9.0 / 6.5", "28,800", "25", "14.10", "16.60", "17.50", "18.40"]


def test_how_long_a_quality_takes(runs: list[Any]) -> None:
    (row,) = cells(times_table(runs, ("hierarchical",), 32))
    # 17.9 dB after 20 minutes, 18.3 after 25: 17.75 was reached before anything was measured
    assert row[1] == ""
    assert [float(cell) for cell in row[2:]] == pytest.approx([21.25, 22.5], abs=0.51)


def test_what_experts_take(runs: list[Any]) -> None:
    (row,) = cells(experts_table(runs))
    assert row[1:] == ["18.25", "28,800", "30", "20.0", "8.5", "200"]


def test_plots_show_a_line_a_run(runs: list[Any]) -> None:
    assert [len(ax.lines) for ax in draw_generators(runs).axes] == [2, 2]
    (ax,) = draw_training(runs, 32).axes
    assert [list(line.get_xdata()) for line in ax.lines] == [[30], [30], [20, 25]]
