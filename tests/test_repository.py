"""What may lie in the repository: small files, a small tree, notebooks without outputs, no machine's paths."""

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MEGABYTE = 1024 * 1024
TEXT = {".py", ".yaml", ".yml", ".toml", ".md", ".sh", ".txt", ".ipynb", ".cfg", ".json", ""}
# Folders that exist on somebody's machine only.
MACHINE_PATH = re.compile(r"""(?:^|[\s"'`(=:])(/(?:work|farm|root|home|Users|tmp|mnt|scratch)/\w)""")


def tracked() -> list[Path]:
    """Files that git tracks or would track."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("not a git repository, so there is no telling which files belong to it")
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def machine_paths(text: str) -> list[str]:
    return MACHINE_PATH.findall(text)


def outputs(notebook: str) -> int:
    """Number of code cells that hold an output or an execution count."""
    cells = json.loads(notebook)["cells"]
    return sum(bool(cell.get("outputs")) or cell.get("execution_count") is not None for cell in cells)


def test_files_and_tree_are_small() -> None:
    sizes = {path: path.stat().st_size for path in tracked()}
    large = {str(path.relative_to(ROOT)): size for path, size in sizes.items() if size > 4 * MEGABYTE}
    assert not large, f"over 4 MB: {large}"
    assert sum(sizes.values()) < 25 * MEGABYTE


def test_notebooks_hold_no_outputs() -> None:
    full = [path.name for path in tracked() if path.suffix == ".ipynb" and outputs(path.read_text())]
    assert not full, f"{full} hold outputs; clear them before committing"


def test_no_machines_paths() -> None:
    found = {
        str(path.relative_to(ROOT)): paths
        for path in tracked()
        if path.suffix in TEXT and path != Path(__file__) and (paths := machine_paths(path.read_text(errors="ignore")))
    }
    assert not found, f"paths of one machine: {found}"


def test_the_checks_can_fail() -> None:
    assert machine_paths('root: "/home/me/data"') and machine_paths("/tmp/x") and not machine_paths("a/tmp/x")
    cell = {"cell_type": "code", "outputs": [{"text": "1"}], "execution_count": 1}
    assert outputs(json.dumps({"cells": [cell]})) == 1
    assert outputs(json.dumps({"cells": [{"cell_type": "code", "outputs": [], "execution_count": None}]})) == 0
