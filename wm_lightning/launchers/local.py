"""Runs the points of a grid on this machine, and keeps their diaries."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from wm_lightning.config_errors import ConfigError
from wm_lightning.launchers.manifest import MANIFEST, Launch, Point, Process, Sweep, locked, note, program
from wm_lightning.launchers.plan import Planned, begun
from wm_lightning.launchers.stopping import DIARY_VARIABLE, INTERRUPTED

_WANDB = "WANDB_RUN_ID"
_PATIENCE = 60.0  # seconds that a program which is told to end may take to save


def begin_local(sweep: Sweep, points: Sequence[Point]) -> Sweep:
    """The grid with the note that this process is about to run these points, one after the other."""
    numbers = tuple(point.number for point in points)
    return sweep.launched(Launch(numbers, time.time(), "local", by=Process.of(os.getpid())))


def start_local(folder: Path, planned: Sequence[Planned], first: int) -> Sweep:
    """The grid in `folder` with these new points, which this process is about to run. Raises as `begun` does."""
    with locked(folder):
        return begin_local(begun(folder, planned, first), [entry.point for entry in planned])


def noting(task: Callable[[Any], Any], sweep: Sweep) -> Callable[[Any], Any]:
    """The task of a point that Hydra runs in this process, its diary kept, with its own run in Weights & Biases."""

    def run(config: Any) -> Any:
        [point] = sweep.chosen([int(HydraConfig.get().job.num)])
        place = sweep.place(point)
        with _identity(point):
            note(place, "running", process=vars(Process.of(os.getpid())))
            try:
                result = task(config)
            except BaseException as error:
                interrupted = isinstance(error, KeyboardInterrupt) or getattr(error, "code", None) == INTERRUPTED
                note(place, "failed", why="interrupted" if interrupted else _why(error))
                if interrupted:
                    _say_how_to_go_on(sweep)
                raise
            note(place, "done")
        return result

    return run


def run_again(sweep: Sweep, points: Sequence[Point]) -> list[Point]:
    """Runs the points one after the other, each as a program of its own that goes on where it was; returns the failed.

    Ctrl-C ends them all.
    """
    return [point for point in points if _run(sweep, point) != 0]


def _run(sweep: Sweep, point: Point) -> int:
    if not os.path.isdir(sweep.cwd):
        raise ConfigError(
            f"the grid in {sweep.folder} was started in {sweep.cwd}, which is no folder here; set cwd in {MANIFEST} to "
            "the one where its relative paths begin"
        )
    place = sweep.place(point)
    begun = (place / "checkpoints/last.ckpt").is_file()
    words = [*program(), *sweep.line(point), *(["ckpt_path=last"] if begun else [])]
    environment = {**os.environ, _WANDB: point.key}
    environment.pop(DIARY_VARIABLE, None)
    run = subprocess.Popen(words, cwd=sweep.cwd, env=environment)
    note(place, "running", process=vars(Process.of(run.pid)))
    try:
        code = run.wait()
    except BaseException:
        _end(run)
        note(place, "failed", why="interrupted")
        _say_how_to_go_on(sweep)
        raise
    if code == 0:
        note(place, "done")
    else:
        note(place, "failed", why=f"exit code {code}")
    return code


def _end(run: subprocess.Popen[bytes]) -> None:
    """Returns once the program is over: told to end, and killed where that takes too long or at a second Ctrl-C."""
    run.terminate()
    try:
        run.wait(timeout=_PATIENCE)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        run.kill()
        run.wait()


@contextmanager
def _identity(point: Point) -> Iterator[None]:
    """The point's own run in Weights & Biases, which would go on with the one of the point before."""
    before = os.environ.get(_WANDB)
    os.environ[_WANDB] = point.key
    try:
        yield
    finally:
        os.environ.pop(_WANDB)
        if before is not None:
            os.environ[_WANDB] = before
        if "wandb" in sys.modules:
            sys.modules["wandb"].finish()
            sys.modules["wandb"].teardown()  # or the next point would be read into this one's settings


def _say_how_to_go_on(sweep: Sweep) -> None:
    folder = os.path.relpath(sweep.folder)
    print(f"The grid's other points, and this one, go on by task=sweep task.resume={folder}", file=sys.stderr)


def _why(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
