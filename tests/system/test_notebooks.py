"""The notebooks are well formed and empty of outputs, and their code runs from top to bottom at the smallest size."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.system.conftest import environment
from tests.system.server import ROOT
from tests.test_repository import machine_paths, outputs

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Runs a notebook's cells as Jupyter would: one after another, in one namespace, in the notebook's folder.
RUNNER = """
import json, sys
cells = [cell for cell in json.load(open(sys.argv[1]))["cells"] if cell["cell_type"] == "code"]
found = {"__name__": "__main__"}
for cell in cells:
    exec(compile("".join(cell["source"]), f"cell {cell['id']}", "exec"), found)
"""


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def test_there_are_five() -> None:
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_well_formed(path: Path) -> None:
    """As nbformat 4.5 asks: cells with ids of their own, of known kinds and with all keys they must have."""
    whole = json.loads(path.read_text())
    assert (whole["nbformat"], whole["nbformat_minor"]) == (4, 5) and whole["metadata"]["language_info"]["name"]
    ids = [cell["id"] for cell in whole["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in ids)
    for cell in whole["cells"]:
        kept = {"cell_type", "id", "metadata", "source"}
        assert set(cell) == (kept | {"execution_count", "outputs"} if cell["cell_type"] == "code" else kept)
        assert cell["cell_type"] in ("code", "markdown") and all(isinstance(line, str) for line in cell["source"])
    assert 8 <= len(whole["cells"]) <= 15 and whole["cells"][0]["cell_type"] == "markdown"
    assert outputs(path.read_text()) == 0 and not machine_paths(path.read_text())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_code_is_plain_python(path: Path) -> None:
    """No magics, nothing of IPython, and what it imports of the suite is there."""
    code = "\n".join(map(source, cells(path, "code")))
    tree = ast.parse(code)
    assert "IPython" not in code and "get_ipython" not in code
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("wm_lightning"):
            module = __import__(str(node.module), fromlist=["_"])
            absent = [alias.name for alias in node.names if not hasattr(module, alias.name)]
            assert not absent, f"{path.name} imports {absent} from {node.module}"


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, cache: Path, tmp_path: Path) -> None:
    before = path.read_text()
    changes = {"WM_SIZE": "debug", "WM_RUNS": str(tmp_path), "MPLBACKEND": "Agg", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, str(path)],
        cwd=path.parent, env=environment(cache) | changes, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{path.name}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
    assert path.read_text() == before and not (path.parent / "logs").exists()
