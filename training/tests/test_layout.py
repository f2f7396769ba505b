import ast
from pathlib import Path

import pytest

TRAINING = Path(__file__).parents[1]
PRODUCT = sorted((TRAINING / "nativetok").rglob("*.py"))


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(TRAINING)))
def test_the_product_does_not_need_the_study(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not [name for name in names if name.split(".")[0] == "study"]
