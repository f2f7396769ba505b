import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from study.markdown import rebuild, table
from study.report import FIGURES, REPOSITORY, main, quality_table

PAGES = ("docs/results.md", "docs/generators.md", "README.md")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of what the command reads and writes."""
    (tmp_path / "docs" / "images").mkdir(parents=True)
    shutil.copytree(REPOSITORY / "docs" / "results", tmp_path / "docs" / "results")
    for page in PAGES:
        shutil.copy(REPOSITORY / page, tmp_path / page)
    return tmp_path


def texts(root: Path) -> list[str]:
    return [(root / page).read_text() for page in PAGES]


def test_what_is_in_the_repository_is_what_the_command_makes(root: Path) -> None:
    main(["--root", str(root)])
    assert texts(root) == texts(REPOSITORY), "run python -m study.report"
    for name in ("rate-distortion", "order-curves", "ordered", "generators", "stages"):
        assert Image.open(root / "docs" / "images" / f"{name}.png").width > 800


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_that_changes_changes_the_page(name: str, root: Path) -> None:
    file = root / "docs" / "results" / f"{name}.json"
    figures = json.loads(file.read_text())
    changed = {
        "quality": lambda: figures["lengths"]["128"],
        "quality-other": lambda: figures["lengths"]["128"],
        "rate-distortion": lambda: figures["curves"]["AVIF"][0],
        "order": lambda: figures["add"]["prefixes"]["128"],
    }[name]()
    changed["psnr"] = 77.77
    file.write_text(json.dumps(figures))
    main(["--root", str(root)])
    results, _, readme = texts(root)
    assert results.count("77.77") == 1
    assert readme.count("77.77") == (name == "quality"), "README shows the quality on val alone"


def test_a_run_that_changes_changes_the_page(root: Path) -> None:
    file = root / "docs" / "results" / "runs" / "cross-s1" / "generator.json"
    figures = json.loads(file.read_text())
    figures["frechet"] = 777.7
    file.write_text(json.dumps(figures))
    main(["--root", str(root)])
    assert texts(root)[1].count("777.7") == 1


def test_only_what_is_between_markers_changes() -> None:
    text = "before\n\n<!-- a -->\nold\n<!-- /a -->\n\nbetween <!-- b --><!-- /b --> after\n"
    once = rebuild(text, {"a": r"new \1", "b": "two\nlines"})
    assert once == (
        "before\n\n<!-- a -->\n\nnew \\1\n\n<!-- /a -->\n\nbetween <!-- b -->\n\ntwo\nlines\n\n<!-- /b --> after\n"
    )
    assert rebuild(once, {"a": r"new \1", "b": "two\nlines"}) == once
    with pytest.raises(ValueError, match="<!-- c -->"):
        rebuild(text, {"c": ""})


def test_columns_line_up() -> None:
    assert table(["a", "long"], [["12345", "6"]]) == "| a     | long |\n| ----- | ---- |\n| 12345 | 6    |"


def test_the_frechet_distance_has_a_column_where_it_was_measured() -> None:
    figures = {"bytes": 48, "psnr": 18.0, "ssim": 0.4}
    assert "Fréchet" not in quality_table({"lengths": {"32": {**figures, "frechet": None}}})
    rows = quality_table({"lengths": {"32": {**figures, "frechet": 12.345}}}).split("\n")
    assert rows[0].split("|")[-2].strip() == "Fréchet distance"
    assert rows[2].split("|")[-2].strip() == "12.35"
