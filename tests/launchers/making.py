"""Grids as their launchers leave them, without a run."""

import time
from pathlib import Path
from typing import Any, Literal

from wm_lightning.launchers.manifest import Launch, Point, Process, Sweep


def grid(folder: Path, count: int = 4, **other: Any) -> Sweep:
    """A grid of `count` points over the seed, written in `folder`, that nobody was asked to run."""
    points = tuple(Point(n, (f"seed={n}", "size=debug"), str(n), "dmd", f"seed={n}", f"key{n}") for n in range(count))
    values: dict[str, Any] = dict(folder=folder, cwd=str(folder), points=points)
    sweep = Sweep(**values | other)
    folder.mkdir(parents=True, exist_ok=True)
    sweep.save()
    return sweep


def launched(
    sweep: Sweep, kind: Literal["local", "slurm"], *, by: Process | None = None, at: float | None = None
) -> Sweep:
    """The grid after all of its points were handed to the process `by`, or to Slurm as the array 7."""
    numbers = tuple(point.number for point in sweep.points)
    job = "7" if kind == "slurm" else None
    return sweep.launched(Launch(numbers, time.time() if at is None else at, kind, job=job, by=by))
