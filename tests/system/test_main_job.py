"""The two commands that make what the README shows, at full size: the distillation, and the teacher it starts from."""

import subprocess
from pathlib import Path

import pytest

from tests.system.conftest import command, environment
from wm_lightning.checkpoints import read_card
from wm_lightning.results.results import Results, Row
from wm_lightning.tasks.teachers import SHIPPED

CLIPS = 256


def made(words: list[str], cache: Path, folder: Path) -> Results:
    """The results of a command that is a program of its own, as a user runs it."""
    done = subprocess.run(
        command([*words, f"run_dir={folder}"]), env=environment(cache), cwd=folder.parent, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("results.md", "rollouts.gif", "rollouts.png", "curves.png", "checkpoints/best.ckpt", "config.yaml"):
        assert (folder / name).stat().st_size > 0
    return Results.from_json(folder / "results.json")


def excess(row: Row) -> float:
    found = row.measured("excess")
    assert found is not None
    return float(found)


@pytest.mark.slow
def test_the_student_is_closer_to_the_data_than_its_teacher_undistilled(cache: Path, tmp_path: Path) -> None:
    found = made(["experiment=dmd_chunkwise"], cache, tmp_path / "run")
    assert found.clips == CLIPS and found.data == "simulated"
    teacher = next(row for row in found.of("teacher") if row.steps == 32 and row.cached)
    student = next(row for row in found.of("student") if row.steps == 4)
    controls = [row for row in found.of("control") if row.steps == 4]
    assert excess(student) < min(map(excess, controls))
    assert excess(student) <= 2.5 * excess(teacher)
    assert student.action_error is not None and teacher.action_error is not None and student.presence is not None
    assert student.action_error <= teacher.action_error + 0.01
    assert student.presence >= 0.95


@pytest.mark.nightly
@pytest.mark.parametrize(("name", "words"), [
    ("simulated-worldmap", ["data=worldmap"]),
    ("simulated-pusher", ["data=rt1"]),
])  # fmt: skip
def test_the_teacher_of_the_repository_is_made_by_its_command(
    cache: Path, tmp_path: Path, name: str, words: list[str]
) -> None:
    """Other machines round otherwise, so a training from scratch ends near the card's numbers, not at them."""
    card = read_card(SHIPPED / f"{name}.safetensors").metrics
    row = made(["experiment=teacher", *words], cache, tmp_path / "run").of("teacher")[0]
    assert row.steps == card["steps"]
    assert excess(row) <= card["excess"] + 0.03
    assert row.action_error is not None and row.presence is not None
    assert row.action_error <= 1.2 * card["action_error"] + 0.005
    assert row.presence >= card["presence"] - 0.05
