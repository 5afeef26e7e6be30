"""A grid on a real Slurm: told to stop, put back and killed in the middle, and every point done exactly once."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.conftest import QUICK, environment
from tests.system.server import ROOT
from tests.system.slurm import PATH, cluster, missing, wait
from tests.tiny_run import NETWORK, WORLD
from wm_lightning.checkpoint_io import AtomicCheckpointIO
from wm_lightning.launchers.manifest import Sweep, diary
from wm_lightning.launchers.states import standings

ITERATIONS = 200
PATIENCE = 900  # seconds, of a machine that does other things as well
WORDS = (
    "-m", "seed=0,1,2", "experiment=teacher", *NETWORK, *WORLD, *QUICK, f"module.iterations={ITERATIONS}",
    f"module.validate_every={ITERATIONS}", "module.batch_size=2", "trainer.precision=32-true",
    "callbacks.checkpoint.every=10", "launcher=slurm", "hydra.launcher.parallel=2",
)  # fmt: skip
pytestmark = [pytest.mark.slurm, pytest.mark.slow]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Slurm that is there for the test. Skipped without one, unless WM_SLURM=required."""
    if absent := missing():
        said = f"no Slurm: {', '.join(absent)} not installed (Debian: slurm-wlm, munge)"
        assert os.environ.get("WM_SLURM") != "required", said
        pytest.skip(said)
    monkeypatch.setenv("PATH", PATH)
    with cluster(tmp_path / "slurm") as conf:
        monkeypatch.setenv("SLURM_CONF", str(conf))
        yield


class Grid:
    """A submitted grid, seen from where jobs are submitted."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache, self.place = folder, cache, folder / "grid"

    def start(self, *words: str) -> str:
        """What `python run.py WORDS` prints, once it has returned."""
        settings = {**environment(self.cache), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, str(ROOT / "run.py"), *words]
        done = subprocess.run(command, cwd=self.folder, env=settings, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    @property
    def sweep(self) -> Sweep:
        return Sweep.load(self.place)

    def states(self) -> list[str]:
        return [entry.state for entry in standings(self.sweep)]

    def past(self, number: int) -> list[str]:
        return [entry["state"] for entry in diary(self.place / str(number))]

    def job(self, number: int) -> str:
        return f"{self.sweep.launches[-1].job}_{number}"

    def saved(self, number: int) -> bool:
        return (self.place / str(number) / "checkpoints/last.ckpt").is_file()

    def told(self) -> str:
        """What there is to know when something does not come to its end."""
        logs = [f"{path.name}: {path.read_text()[-1500:]}" for path in sorted(self.place.glob("slurm_*.log"))]
        return "\n".join([str(self.states()), *(str(self.past(number)) for number in range(3)), *logs])

    def until(self, states: list[str]) -> None:
        """Waits for these states, and sees to it that a job which was put back need not wait for minutes."""

        def reached() -> bool:
            for number, state in enumerate(self.states()):
                if state == "pending" and self.past(number):
                    call("scontrol", "update", f"JobId={self.job(number)}", "StartTime=now")
            return self.states() == states

        wait(reached, PATIENCE, self.told)


def call(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def processes(word: str) -> list[int]:
    """The Python processes that have `word` among their arguments; srun has it too."""
    return [int(pid) for pid in call("pgrep", "--full", rf"^\S*python\S* .*{word}").split()]


def test_a_grid_that_is_stopped_put_back_and_killed_is_done_and_nothing_twice(
    slurm: None, tmp_path: Path, cache: Path
) -> None:
    grid = Grid(tmp_path, cache)
    out = grid.start(*WORDS, f"run_dir={grid.place}")
    assert "Submitted: 3 runs" in out and "done" not in grid.states()
    # One is told that its time is nearly up, one loses its place on the node, and one is killed.
    wait(lambda: grid.saved(0), PATIENCE, grid.told)
    assert "teacher/seed=0" in call("squeue", "--noheader", "--array", "--format=%j").split()
    # scancel asks again and again where the job is on its way back into the queue by then.
    call("timeout", "5", "scancel", "--signal=USR1", grid.job(0))
    wait(lambda: grid.saved(1), PATIENCE, grid.told)
    call("scontrol", "requeue", grid.job(1))
    wait(lambda: grid.saved(2), PATIENCE, grid.told)
    for pid in processes(f"run_dir={grid.place}/2"):
        os.kill(pid, 9)
    grid.until(["done", "done", "failed"])
    out = grid.start("task=sweep", f"task.resume={grid.place}", "launcher=slurm")
    assert "Submitted: 1 run as job" in out
    grid.until(["done", "done", "done"])
    assert grid.past(0) == ["running", "stopped", "requeued", "running", "done"]
    assert grid.past(1).count("running") == 2 and grid.past(2) == ["running", "failed", "running", "done"]
    assert all(grid.past(number).count("done") == 1 for number in range(3))
    for number in range(3):
        assert saved(grid.place / str(number))["state_dict"]["iteration"] == ITERATIONS
        assert "Continuing" in (grid.place / str(number) / "run.log").read_text()
        assert len({entry["job"] for entry in diary(grid.place / str(number)) if "job" in entry}) == 1 + (number == 2)
    # Lightning has written no checkpoint of its own, and queued nothing.
    assert not list(grid.place.rglob("hpc_ckpt*"))
    report = grid.start("task=report", f"task.sweep={grid.place}", f"run_dir={tmp_path / 'report'}")
    assert "3 points: 3 done" in report


def saved(folder: Path) -> dict[str, Any]:
    return AtomicCheckpointIO().load_checkpoint(folder / "checkpoints/last.ckpt")
