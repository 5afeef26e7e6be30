"""Where every point of a grid stands, whoever was asked to run it, and which points are begun again."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.launchers.making import grid, launched
from wm_lightning.config_errors import ConfigError
from wm_lightning.launchers.manifest import DIARY, MANIFEST, Process, Sweep, diary, note, of_a_point, quoted
from wm_lightning.launchers.states import LEFT, left, standing, standings, summary, table

HERE = Process.of(os.getpid())


@pytest.fixture
def dead() -> Process:
    """A process of this machine that is over."""
    program = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = Process.of(program.pid)
    assert process.alive()
    program.communicate()
    return process


def states(sweep: Sweep, jobs: dict[str, str] | None = None) -> list[str]:
    return [standing(sweep, point, jobs).state for point in sweep.points]


def test_a_manifest_is_read_back_as_it_was(tmp_path: Path) -> None:
    sweep = launched(grid(tmp_path), "local", by=HERE)
    assert Sweep.load(tmp_path) == sweep
    with pytest.raises(ConfigError, match="name the folder of a grid"):
        Sweep.load(tmp_path / "0")


@pytest.mark.parametrize("word", ["+hydra.callbacks.x._target_=os.system", "--config-dir=elsewhere"])
def test_a_manifest_of_somebody_elses_brings_nothing_that_is_built_unchecked(tmp_path: Path, word: str) -> None:
    sweep = grid(tmp_path)
    replace(sweep, points=(replace(sweep.points[0], words=("seed=0", word)),)).save()
    with pytest.raises(ConfigError, match="none of a point's settings"):
        Sweep.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text[:-9], "damaged: .*line"),
        (lambda _: "[]", "an object"),
        (lambda text: text.replace('"cwd"', '"cwt"'), "a sweep has no cwd"),
        (lambda text: text.replace('"shown"', '"show"'), "a point has no shown"),
        (lambda text: text.replace('"key":', '"colour": "red", "key":'), "a point has colour, which none has"),
        (lambda text: text.replace('"number": 1', '"number": "1"'), "number is '1', which should be int"),
        (lambda text: text.replace('"local"', '"far"'), "kind is 'far'"),
        (lambda text: text.replace('"cwd": "', '"cwd": "../'), "not an absolute path"),
        (lambda text: text.replace('"pid"', '"pit"'), "a process has no pid"),
    ],
)
def test_a_damaged_manifest_is_told_with_what_is_wrong(tmp_path: Path, change: Callable[[str], str], said: str) -> None:
    launched(grid(tmp_path), "local", by=HERE)
    path = tmp_path / MANIFEST
    path.write_text(change(path.read_text()))
    with pytest.raises(ConfigError, match=said) as raised:
        Sweep.load(tmp_path)
    assert str(path) in str(raised.value) and "another run_dir" in str(raised.value)


@pytest.mark.parametrize("folder", ["../..", "/etc", "../2026", "../../dmd/2025/1", "../../dmd/2026", "../../../a/b/1"])
def test_no_point_leaves_the_folder_of_its_grid(tmp_path: Path, folder: str) -> None:
    place = tmp_path / "logs/run/2026-11"
    grid(place)
    path = place / MANIFEST
    path.write_text(path.read_text().replace('"folder": "1"', f'"folder": "{folder}"'))
    with pytest.raises(ConfigError, match=f"point 1 .* has the folder {re.escape(folder)}, outside"):
        Sweep.load(place)


def test_points_of_several_experiments_stand_beside_one_another(tmp_path: Path) -> None:
    sweep = grid(tmp_path / "logs/run/2026-11", 1)
    beside = replace(sweep, points=(replace(sweep.points[0], folder="../../dmd/2026-11/0"),))
    beside.save()
    assert Sweep.load(sweep.folder) == beside


def test_points_that_nobody_runs(tmp_path: Path) -> None:
    sweep = grid(tmp_path)
    note(tmp_path / "1", "done")
    assert states(sweep) == ["missing", "done", "missing", "missing"]


def test_a_grid_at_work_on_this_machine(tmp_path: Path) -> None:
    sweep = launched(grid(tmp_path), "local", by=HERE)
    for number, state in enumerate(("done", "failed", "running")):
        note(tmp_path / str(number), "running", process=vars(HERE))
        if state != "running":
            note(tmp_path / str(number), state, why="ValueError: x" if state == "failed" else "")
    assert states(sweep) == ["done", "failed", "running", "pending"]
    assert standing(sweep, sweep.points[1], {}).remark == "ValueError: x"


def test_a_grid_whose_process_was_killed(tmp_path: Path, dead: Process) -> None:
    sweep = launched(grid(tmp_path), "local", by=dead)
    note(tmp_path / "0", "done")
    note(tmp_path / "1", "running", process=vars(dead))
    assert states(sweep) == ["done", "failed", "missing", "missing"]
    assert "without a word" in standing(sweep, sweep.points[1], {}).remark


def test_a_later_process_of_the_same_number_is_another(tmp_path: Path) -> None:
    reborn = replace(HERE, started=(HERE.started or 1) - 1)
    assert HERE.alive() is True and reborn.alive() is False


def test_nobody_knows_of_another_machine(tmp_path: Path) -> None:
    sweep = launched(grid(tmp_path, 2), "local", by=replace(HERE, host="elsewhere"))
    note(tmp_path / "0", "running", process=vars(replace(HERE, host="elsewhere")))
    assert states(sweep) == ["unknown", "unknown"]
    assert not {"unknown", "running", "pending", "done"} & set(LEFT)


def test_of_points_that_nobody_knows_of_the_user_says_what_became(tmp_path: Path) -> None:
    gone = replace(HERE, host="elsewhere", pid=71)
    sweep = launched(grid(tmp_path, 3), "local", by=gone)
    note(tmp_path / "0", "done")
    note(tmp_path / "1", "running", process=vars(gone))
    with pytest.raises(ConfigError, match=r"2 points .* 1, 2 \(process 71 on elsewhere\).*task.lost=true"):
        left(standings(sweep), lost=False)
    assert left(standings(sweep), lost=True) == list(sweep.points[1:])
    # Handed to this process they are nobody else's, the one that was begun there no less.
    again = launched(sweep, "local", by=HERE, at=time.time() + 1)
    assert states(again) == ["done", "pending", "pending"]


def test_a_point_that_was_killed_waits_once_it_is_asked_for_again(tmp_path: Path, dead: Process) -> None:
    sweep = launched(grid(tmp_path, 1), "local", by=dead)
    note(tmp_path / "0", "running", process=vars(dead))
    assert states(launched(sweep, "local", by=HERE, at=time.time() + 1)) == ["pending"]


def test_a_point_that_failed_waits_once_it_is_asked_for_again(tmp_path: Path) -> None:
    sweep = grid(tmp_path, 1)
    note(tmp_path / "0", "failed")
    assert states(launched(sweep, "local", by=HERE, at=time.time() + 1)) == ["pending"]


def test_slurms_word_on_points(tmp_path: Path) -> None:
    sweep = launched(grid(tmp_path, 6), "slurm")
    for number, past in enumerate((["running", "done"], ["running"], ["running", "stopped"], ["running"], ["failed"])):
        for state in past:
            note(tmp_path / str(number), state)
    jobs = {"7_0": "COMPLETING", "7_1": "RUNNING", "7_2": "PENDING", "8_3": "RUNNING"}
    assert states(sweep, jobs) == ["done", "running", "pending", "failed", "failed", "missing"]
    # Where Slurm does not answer, what is over is known, and of the rest nothing.
    assert states(sweep, None) == ["done", *["unknown"] * 5]


def test_what_was_done_in_an_earlier_launch_stays_done(tmp_path: Path) -> None:
    sweep = launched(grid(tmp_path, 1), "slurm")
    note(tmp_path / "0", "done")
    assert states(launched(sweep, "local", by=HERE)) == ["done"]


def test_a_torn_line_of_a_diary_is_left_out(tmp_path: Path) -> None:
    note(tmp_path, "running")
    with (tmp_path / DIARY).open("a") as file:
        file.write('{"state": "do')
    assert [entry["state"] for entry in diary(tmp_path)] == ["running"]


def test_the_table_counts_and_names(tmp_path: Path) -> None:
    sweep = grid(tmp_path, 2)
    note(tmp_path / "0", "running")
    note(tmp_path / "0", "running")
    note(tmp_path / "0", "done")
    found = standings(sweep)
    assert summary(found) == "2 points: 1 done, 1 missing"
    assert "| 0 | done | dmd seed=0 | 0 | begun 2 times |" in table(found, sweep)


def test_what_the_command_of_a_point_repeats() -> None:
    words = ["seed=1", "launcher=slurm", "hydra.launcher.parallel=2", "run_dir=here", "+data.note=run_dir", "hydra/x=y"]
    assert of_a_point(words) == ("seed=1", "+data.note=run_dir")
    assert (quoted("logs/a-b_1.5"), quoted("my logs/it's")) == ("logs/a-b_1.5", r"'my logs/it\'s'")
