"""The batch script: what Slurm is asked for, what a job runs, what is refused before; and bash's part, run for real."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.launchers.making import grid
from wm_lightning.config_errors import ConfigError
from wm_lightning.launchers.manifest import DIARY, Point, diary, note
from wm_lightning.launchers.script import Request, batch_script, job_name, point_name, request_for

ASKED: dict[str, Any] = {
    "nodes": None, "ntasks_per_node": None, "parallel": 2, "notice": 90, "setup": (), "options": {"partition": "gpu"},
}  # fmt: skip
ONE = {"a": {"devices": 1}}


def test_the_script_asks_for_an_array_of_the_points_alone(tmp_path: Path) -> None:
    sweep = grid(tmp_path)
    options = {"partition": "gpu", "gpus_per_node": 8, "time": "1-00:00:00", "account": None}
    request = request_for(ONE, {**ASKED, "options": options, "setup": ("module load cuda",)})
    text = batch_script(sweep, sweep.chosen([1, 3]), request)
    for line in (
        'job-name="dmd/seed"', 'array="1,3%2"', 'ntasks-per-node="1"', 'signal="USR1@90"', 'gpus-per-node="8"',
        'time="1-00:00:00"', f'output="{tmp_path}/slurm_%a.log"', 'open-mode="append"', "requeue",
    ):  # fmt: skip
        assert f"#SBATCH --{line}\n" in text
    assert "account" not in text and "seed=0" not in text
    assert f"words=(seed=3 size=debug run_dir={tmp_path}/3 hydra.mode=RUN)" in text
    assert text.index("module load cuda") < text.index("srun ")
    assert text.count("scontrol requeue") == 1


def test_names_say_what_differs() -> None:
    points = [Point(n, (), "", "dmd_steps", f"steps={n},text='a b'", "") for n in (1, 2)]
    assert (job_name(points), point_name(points[1])) == ("dmd_steps/steps,text", "dmd_steps/steps=2,text=-a-b-")
    others = [Point(n, (), "", name, "", "") for n, name in enumerate(("flow", "world"))]
    assert (job_name(others), point_name(others[0])) == ("flow+1", "flow")


def test_a_task_is_asked_for_every_device() -> None:
    request = request_for(
        {"a": {"devices": 8, "num_nodes": 2}, "b": {"devices": [0, 1, 2, 3, 4, 5, 6, 7], "num_nodes": 2}}, ASKED
    )
    assert (request.nodes, request.ntasks_per_node) == (2, 8)


@pytest.mark.parametrize(
    ("trainers", "asked", "said"),
    [
        ({"a": {"devices": 8}}, {"ntasks_per_node": 4}, r"a trains on .*1 x trainer.devices=8, but 1 x 4 tasks"),
        ({"a": {"devices": 8, "num_nodes": 2}}, {"nodes": 1}, "num_nodes=2 x trainer.devices=8, but 1 x 8"),
        ({"a": {"devices": 1}, "b": {"devices": 2}}, {}, "b trains on .*devices=2, but 1 x 1"),
        ({"a": {"devices": "auto"}}, {}, "devices=auto, .* trainer.devices=N"),
        ({"a": {"devices": -1}}, {}, "devices=-1, .* trainer.devices=N"),
        (ONE, {"options": {"ntasks": 3}}, "options.ntasks is set by launcher=slurm itself"),
        (ONE, {"options": {"job_name": "x"}}, "options.job_name is set by"),
        (ONE, {"parallel": 0}, "give 1 or more"),
        (ONE, {"options": {"qos=x\nrm": "y"}}, "is no option of sbatch"),
    ],
)
def test_what_slurm_would_start_wrongly_is_refused(trainers: Any, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        request_for(trainers, {**ASKED, **asked})


def test_folders_that_no_script_holds_are_refused(tmp_path: Path) -> None:
    sweep = grid(tmp_path / 'a"b')
    with pytest.raises(ConfigError, match="rename it"):
        batch_script(sweep, sweep.points, request_for(ONE, ASKED))


class Job:
    """Runs the script of a point of a grid in bash; srun and scontrol are programs that note how they were called."""

    def __init__(self, folder: Path, run: str, requeue: str = "exit 0") -> None:
        self.folder, self.log = folder, folder / "called"
        sweep = grid(folder / "it's a grid")
        self.place = sweep.place(sweep.points[1])
        self.script = folder / "script"
        request: Request = request_for(ONE, ASKED)
        self.script.write_text(batch_script(sweep, sweep.points, request))
        self.program("srun", run)
        self.program("scontrol", f'[ "$1" != requeue ] || {requeue}')

    def program(self, name: str, does: str) -> None:
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/bash\necho "{name} $*" >> "{self.log}"\n{does}\n')
        path.chmod(0o755)

    def run(self, number: int = 7) -> int:
        """The exit code of the job, as one of the array `number`."""
        environment = {
            "SLURM_ARRAY_JOB_ID": str(number),
            "SLURM_ARRAY_TASK_ID": "1",
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
        }
        return subprocess.run(["bash", str(self.script)], env={**os.environ, **environment}, check=False).returncode

    @property
    def states(self) -> list[str]:
        return [entry["state"] for entry in diary(self.place)]

    @property
    def called(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


def test_a_job_that_ends_well_is_done_and_never_again(tmp_path: Path) -> None:
    job = Job(tmp_path, "exit 0")
    assert (job.run(), job.states) == (0, ["running", "done"])
    assert f" seed=1 size=debug run_dir='{tmp_path}/it\\'s a grid/1' hydra.mode=RUN\n" in job.called
    assert "scontrol update JobId=7_1 JobName=dmd/seed=1\n" in job.called
    before = job.called
    assert (job.run(), job.states, job.called) == (0, ["running", "done"], before)


def test_a_job_that_fails_is_not_queued_again(tmp_path: Path) -> None:
    job = Job(tmp_path, "exit 3")
    assert (job.run(), job.states) == (3, ["running", "failed"])
    assert "exit code 3, see slurm_1.log" in diary(job.place)[-1]["why"]
    assert "requeue" not in job.called


@pytest.mark.parametrize("code", [75, 138, 143])
def test_a_job_that_was_told_to_stop_is_queued_again_once(tmp_path: Path, code: int) -> None:
    job = Job(tmp_path, f"exit {code}")
    assert (job.run(), job.states) == (code, ["running", "requeued"])
    assert job.called.count("scontrol requeue 7_1\n") == 1


def test_a_job_that_never_gets_anywhere_does_not_come_back_for_ever(tmp_path: Path) -> None:
    job = Job(tmp_path, "exit 75")
    for _ in range(3):
        job.run()
    assert job.called.count("scontrol requeue") == 2
    assert (job.states[-1], diary(job.place)[-1]["why"].split("; ")[-1]) == ("failed", "give it more time")


def test_a_job_that_is_submitted_anew_is_counted_anew(tmp_path: Path) -> None:
    job = Job(tmp_path, "exit 75")
    for _ in range(3):
        job.run()
    assert job.states[-1] == "failed"
    for _ in range(2):
        job.run(71)
        assert job.states[-1] == "requeued"
    job.run(71)
    assert job.states[-1] == "failed" and job.called.count("requeue 71_1") == 2


def test_a_job_that_saves_comes_back_as_often_as_it_is_stopped(tmp_path: Path) -> None:
    place = tmp_path / "it's a grid/1/checkpoints"
    # A new file while the old one is there, as a checkpoint is written.
    written = f'mkdir -p "{place}"; mv "$(mktemp -p "{place}")" "{place}/last.ckpt"'
    job = Job(tmp_path, f"{written}; exit 75")
    for _ in range(4):
        job.run()
    assert job.called.count("scontrol requeue") == 4 and job.states[-1] == "requeued"


def test_a_rank_that_srun_killed_does_not_hide_that_the_first_has_saved(tmp_path: Path) -> None:
    line = json.dumps({"state": "stopped", "at": 1.0})
    job = Job(tmp_path, f"echo '{line}' >> \"$WM_POINT_DIARY\"; exit 137")
    assert job.run() == 137
    assert "scontrol requeue 7_1" in job.called


def test_a_job_that_cannot_be_queued_again_has_failed(tmp_path: Path) -> None:
    job = Job(tmp_path, "exit 75", requeue="exit 1")
    job.run()
    assert job.states == ["running", "requeued", "failed"]


def test_a_job_goes_on_where_a_checkpoint_is_with_the_same_identity(tmp_path: Path) -> None:
    job = Job(tmp_path, 'echo "id $WANDB_RUN_ID" >> "$0.id"')
    job.run()
    note(job.place, "running")  # as after a lost node
    (job.place / DIARY).write_text("")
    (job.place / "checkpoints").mkdir()
    (job.place / "checkpoints/last.ckpt").touch()
    job.run()
    first, second = (line for line in job.called.splitlines() if line.startswith("srun"))
    assert "ckpt_path" not in first and second.endswith("hydra.mode=RUN ckpt_path=last")
    assert (tmp_path / "bin/srun.id").read_text() == "id key1\nid key1\n"
