"""Grids as a user starts, follows and finishes them; Slurm's commands are programs that note how they were called."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.conftest import Done, Run
from tests.system.server import ROOT
from wm_lightning.config import CONFIG_DIR
from wm_lightning.launchers.manifest import MANIFEST, diary, note

Own = Callable[..., Done]
# The second point needs a variable that is not there, and is mended by setting it.
TWO = ("-m", "+data.note=fine,'${oc.env:GRID_NOTE}'")
MENDED = {"GRID_NOTE": "mended", "PYTHONPATH": str(ROOT)}


@pytest.fixture
def own(run: Run, project: Path) -> Own:
    """Runs the `run.py` of the small project in its folder, with the real tasks of grids beside its own."""
    for task in ("report", "sweep"):
        shutil.copy(CONFIG_DIR / f"task/{task}.yaml", project / f"conf/task/{task}.yaml")
    (project / "conf/metrics/default.yaml").write_text("targets: null\n")
    return lambda *words, **more: run(*words, folder=project, script=project / "run.py", **more)


@pytest.fixture
def slurm(project: Path) -> dict[str, str]:
    """The environment of a machine whose sbatch and squeue always answer the same, and note what they were asked."""
    for name, does in (("sbatch", "echo 31"), ("squeue", "cat queue 2>/dev/null")):
        path = project / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/bash\necho "{name} $*" >> called\n{does}\n')
        path.chmod(0o755)
    return {"PATH": f"{project}/bin:/usr/bin:/bin"}


def states(folder: Path, number: int) -> list[str]:
    return [entry["state"] for entry in diary(folder / str(number))]


def test_a_point_that_fails_keeps_no_other_from_running_and_is_told(own: Own, project: Path) -> None:
    assert own(*TWO, "run_dir=grid").code != 0
    folder = project / "grid"
    assert (states(folder, 0), states(folder, 1)) == (["running", "done"], ["running", "failed"])
    assert "GRID_NOTE" in diary(folder / "1")[-1]["why"]
    again = own(*TWO, "run_dir=grid", **MENDED)
    assert again.code == 2 and "task=sweep task.resume=" in again.err and "2 points: 1 done, 1 failed" in again.err
    assert states(folder, 0) == ["running", "done"]


def test_the_report_of_a_grid_says_where_it_stands(own: Own, project: Path) -> None:
    own(*TWO, "run_dir=grid")
    note(project / "grid/0", "failed", why="by hand")
    (project / "grid/0/point.jsonl").write_text('{"state": "failed", "at": 1}\n')
    done = own("task=report", "task.sweep=grid", "run_dir=report").must_succeed()
    assert "2 points: 2 failed" in done.out and "| 1 | failed | run note='${oc.env:GRID_NOTE}' | 1 |" in done.out
    assert "2 points: 2 failed" in (project / "report/report.md").read_text()


@pytest.mark.nightly
def test_a_grid_that_is_gone_on_with_runs_what_is_left_and_nothing_else(own: Own, project: Path) -> None:
    own(*TWO, "run_dir=grid")
    own("task=sweep", "task.resume=grid", **MENDED).must_succeed()
    assert states(project / "grid", 0) == ["running", "done"]
    assert states(project / "grid", 1) == ["running", "failed", "running", "done"]
    assert "note: '<environment: GRID_NOTE>'" in (project / "grid/1/config.yaml").read_text()
    last = own("task=sweep", "task.resume=grid", **MENDED).must_succeed()
    assert "2 points: 2 done" in last.out
    assert states(project / "grid", 1) == ["running", "failed", "running", "done"]


def test_slurm_gets_the_points_and_the_command_returns(own: Own, project: Path, slurm: dict[str, str]) -> None:
    words = ("ablation=widths", "size=debug", "run_dir=grid", "launcher=slurm", "hydra.launcher.options.partition=gpu")
    done = own(*words, **slurm).must_succeed()
    folder = project / "grid"
    assert "Submitted: 2 runs as job 31 (31_0 to 31_1)" in done.out and "squeue --array --job 31" in done.out
    assert f"sbatch --parsable {folder}/slurm.sh" in (project / "called").read_text()
    script = (folder / "slurm.sh").read_text()
    assert f"words=(network.width=8 ablation=widths size=debug run_dir={folder}/1 hydra.mode=RUN)" in script
    assert json.loads((folder / MANIFEST).read_text())["launches"][0]["job"] == "31"
    # Point 0 is over, of point 1 Slurm knows; then of none.
    note(folder / "0", "done")
    (project / "queue").write_text("31_1 PENDING\n")
    assert "2 points: 1 done, 1 pending" in own("task=report", "task.sweep=grid", "run_dir=a", **slurm).out
    (project / "queue").write_text("")
    here = own("task=sweep", "task.resume=grid", **slurm)
    assert here.code == 2 and "launcher=slurm" in here.err and "task.here=true" in here.err
    own("task=sweep", "task.resume=grid", "launcher=slurm", "hydra.launcher.options.time=9", **slurm).must_succeed()
    script = (folder / "slurm.sh").read_text()
    assert '--array="1"' in script and '--partition="gpu"' in script and '--time="9"' in script
    assert "network.width=8" in script and "network.width=7" not in script
    assert (project / "called").read_text().count("sbatch") == 2
    (project / "queue").write_text("31_1 RUNNING\n")
    done = own("task=sweep", "task.resume=grid", "launcher=slurm", **slurm).must_succeed()
    assert "2 points: 1 done, 1 running" in done.out
    assert (project / "called").read_text().count("sbatch") == 2


def test_a_dry_run_prints_the_script_and_leaves_nothing(own: Own, project: Path) -> None:
    done = own("seed=3", "run_dir=grid", "launcher=slurm", "hydra.launcher.dry_run=true", PATH="/bin").must_succeed()
    assert done.out.startswith("#!/bin/bash\n#SBATCH --job-name=")
    assert not (project / "grid").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trainer=ddp"], "trainer.devices=auto"),
        (["hydra.launcher.ntasks_per_node=2"], "1 x 2 tasks"),
        (["+hydra.launcher.options.array=3"], "options.array is set by launcher=slurm"),
        (["+trainer.precison=3"], "did you mean precision?"),
        ([], "needs sbatch"),
    ],
)
def test_what_could_not_run_is_refused_before_it_is_submitted(
    own: Own, project: Path, words: list[str], said: str
) -> None:
    done = own("run_dir=grid", "launcher=slurm", *words, PATH="/nowhere")
    assert done.code == 2 and said in done.err and "Traceback" not in done.err
    assert not (project / "grid").exists()


@pytest.mark.parametrize("words", [[], ["task.resume=absent"]])
def test_a_grid_that_is_not_there(own: Own, words: list[str]) -> None:
    done = own("task=sweep", *words)
    assert done.code == 2 and "logs/NAME/DATE" in done.err
