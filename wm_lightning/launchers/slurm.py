"""Hands a grid's points to Slurm and returns."""

import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf

from wm_lightning.config_check import check
from wm_lightning.config_errors import ConfigError
from wm_lightning.launchers.manifest import Launch, Point, Sweep, held, locked, new_sweep
from wm_lightning.launchers.plan import Planned, begun
from wm_lightning.launchers.script import Request, batch_script, point_name, request_for, write_script
from wm_lightning.launchers.states import left, standings, summary


def hand_over(folder: Path, planned: Sequence[Planned], first: int, asked: Mapping[str, Any], *, dry_run: bool) -> None:
    """Submits new points, the grid's folder being `folder`; or prints their script and leaves nothing behind.

    Raises ConfigError for a point that could not run, before any is submitted.
    """
    for entry in planned:
        check(entry.config)
    points = [entry.point for entry in planned]
    request = request_for({point_name(entry.point): _trainer(entry.config) for entry in planned}, asked)
    if dry_run:
        print(batch_script(new_sweep(folder, points), points, request))
        return
    _need_sbatch()
    with locked(folder):
        sweep = begun(folder, planned, first)
        print(told(sweep, points, submit(sweep, points, request)))


def hand_over_again(loader: ConfigLoader, config: DictConfig, asked: Mapping[str, Any], *, dry_run: bool) -> None:
    """Submits the failed and missing points of the grid `config.task.resume`; or prints their script.

    sbatch gets the options that it got for them before, where they are not said anew.
    """
    if config.task.resume is None:
        raise ConfigError("task=sweep goes on with a grid; name its folder: task.resume=logs/NAME/DATE")
    with held(Path(config.task.resume)) as sweep:
        found = standings(sweep)
        print(summary(found))
        points = left(found, lost=bool(config.task.lost))
        if not points:
            return
        # What was said to this launcher composes beside it alone.
        own = f"launcher={config.hydra.runtime.choices['launcher']}"
        composed = {point_name(one): loader.load_sweep_config(config, [*one.words, own]) for one in points}
        trainers = {name: _trainer(node) for name, node in composed.items()}
        request = request_for(trainers, _as_before(sweep, asked))
        if dry_run:
            print(batch_script(sweep, points, request))
            return
        _need_sbatch()
        print(told(sweep, points, submit(sweep, points, request)))


def _as_before(sweep: Sweep, asked: Mapping[str, Any]) -> dict[str, Any]:
    """`asked`, with the options of the grid's last submission where there are none."""
    before = next((launch.options for launch in reversed(sweep.launches) if launch.options), None) or {}
    given = {name: value for name, value in asked["options"].items() if value is not None}
    return {**asked, "options": {**before, **given}}


def _trainer(config: DictConfig) -> dict[str, Any]:
    trainer = OmegaConf.to_container(config.trainer, resolve=True)
    assert isinstance(trainer, dict)
    return {str(key): value for key, value in trainer.items()}


def _need_sbatch() -> None:
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "launcher=slurm needs sbatch, which is not here: start it where jobs are submitted; "
            "hydra.launcher.dry_run=true prints the script anywhere"
        )


def submit(sweep: Sweep, points: Sequence[Point], request: Request) -> str:
    """Submits the points as one array, notes it in the manifest, and returns its number.

    Raises ConfigError where Slurm refuses.
    """
    path = write_script(sweep, batch_script(sweep, points, request))
    for point in points:
        sweep.place(point).mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["sbatch", "--parsable", str(path)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ConfigError(f"sbatch refuses {path}: {done.stderr.strip()}")
    options = {name: value for name, value in request.options.items() if value is not None}
    job = done.stdout.strip().split(";")[0]  # with the cluster's name behind it where there are several
    sweep.launched(Launch(tuple(point.number for point in points), time.time(), "slurm", job=job, options=options))
    return job


def told(sweep: Sweep, points: Sequence[Point], job: str) -> str:
    """What a user wants to know after a submission: the jobs, and how to look at them."""
    first, last = points[0].number, points[-1].number
    jobs = f"{job}_{first}" if len(points) == 1 else f"{job}_{first} to {job}_{last}"
    return "\n".join([
        f"Submitted: {len(points)} {'run' if len(points) == 1 else 'runs'} as job {job} ({jobs}) in {sweep.folder}",
        f"  squeue --array --job {job} --format='%.14i %.60j %.10T %.11M %R'",
        f"  python run.py task=report task.sweep={sweep.folder}",
        f"  tail -f {sweep.folder}/slurm_{first}.log",
        f"  scancel {job}",
    ])  # fmt: skip
