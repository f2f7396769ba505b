"""The package and its examples as a newcomer meets them."""

import json
import os
import re
import shutil
import subprocess
import venv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import FIXTURES, Service

HERE = Path(__file__).parents[1]


def test_it_installs_from_a_clean_folder_and_runs_the_first_lines_of_the_readme(
    service: Service, tmp_path: Path
) -> None:
    source = tmp_path / "python"
    unwanted = shutil.ignore_patterns("*.egg-info", "build", "__pycache__", ".*", "tests", "examples")
    shutil.copytree(HERE, source, ignore=unwanted)
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    install = [str(python), "-m", "pip", "install", "--quiet", str(source)]
    subprocess.run(install, check=True, env={**clean, "PIP_RETRIES": "0"})
    code = re.search(r"```python\n(.*?)```", (HERE / "README.md").read_text(), re.DOTALL)
    assert code
    lines = code[1].replace("http://localhost:8080", service.url)
    assert len(lines.strip().splitlines()) == 6
    shutil.copy(FIXTURES / "formats" / "cat.jpg", tmp_path)
    ran = subprocess.run(
        [str(python), "-c", lines], cwd=tmp_path, env=clean, capture_output=True, text=True, check=False
    )
    assert ran.stdout == "uint16 (1, 32) uint8 (1, 128, 128, 3)\n", ran.stderr
    where = subprocess.run(
        [str(python), "-c", "import nativetok_client; print(nativetok_client.__path__[0])"],
        env=clean,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (Path(where.stdout.strip()) / "py.typed").exists()

    # What an extra would bring is asked for by name.
    use = "from nativetok_client import Tokenizer; Tokenizer.open('anything')"
    ran = subprocess.run([str(python), "-c", use], env=clean, capture_output=True, text=True, check=False)
    assert "pip install 'nativetok-client[local]'" in ran.stderr
    shown = f"import numpy; from nativetok_client import Tokenizer; t = Tokenizer.connect({service.url!r}); "
    for call in ("t.encode(numpy.zeros((9, 9, 3), 'uint8'))", "t.encode([], progress=True)"):
        ran = subprocess.run([str(python), "-c", shown + call], env=clean, capture_output=True, text=True, check=False)
        assert "pip install 'nativetok-client[" in ran.stderr


def test_the_notebook_s_cells_run(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("study", reason="the generator needs pip install -e training")
    path = HERE / "examples" / "tour.ipynb"
    assert path.stat().st_size < 1_500_000
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] or "assert" in "".join(cell["source"]) for cell in cells), "it is kept with its pictures"
    monkeypatch.chdir(path.parent)
    monkeypatch.setenv("NATIVETOK_URL", service.url)
    shown: list[Any] = []
    names: dict[str, Any] = {}
    for cell in cells:
        source = "".join(cell["source"]).replace("from IPython.display import Image, display", "")
        names.update(Image=lambda data: data, display=shown.append)
        exec(compile(source, str(path), "exec"), names)
    pictures = sum(1 for cell in cells for output in cell["outputs"] if "image/jpeg" in output.get("data", {}))
    assert len(shown) == pictures
    assert all(file.startswith(b"\xff\xd8") for file in shown)
    quality = [float(value) for value in re.findall(r"bytes: ([\d.]+) dB", capsys.readouterr().out)]
    assert len(quality) == 8
    assert np.all(np.diff(quality) > 0), "every doubling of the tokens makes the pictures better"
