"""What became of every point of a grid, from its diary and from whoever was asked to run it."""

import logging
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from wm_lightning.config_errors import ConfigError
from wm_lightning.launchers.manifest import Launch, Point, Process, Sweep, diary

log = logging.getLogger(__name__)

State = Literal["done", "running", "pending", "failed", "missing", "unknown"]
# Somebody has to start these again; nobody is at work on them.
LEFT = ("failed", "missing")
_WITHOUT_A_WORD = "ended without a word: killed, or its machine went down"


@dataclass(frozen=True)
class Standing:
    """A point, its state, and what there is to say about it.

    `pending` waits for its turn, `missing` was never begun and nobody is about to, of an `unknown` one nobody here can
    tell.
    """

    point: Point
    state: State
    remark: str = ""


def queue() -> dict[str, str] | None:
    """Slurm's word for every job of this user that is not over, by its id (`123_4`); None without an answer."""
    if shutil.which("squeue") is None:
        return None
    command = ["squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%i %T"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        log.warning("squeue does not answer: %s", done.stderr.strip())
        return None
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line.strip())


def standings(sweep: Sweep) -> list[Standing]:
    """Where every point of the grid stands."""
    jobs = queue() if any(launch.kind == "slurm" for launch in sweep.launches) else {}
    return [standing(sweep, point, jobs) for point in sweep.points]


def standing(sweep: Sweep, point: Point, jobs: Mapping[str, str] | None) -> Standing:
    """Where one point stands, `jobs` being Slurm's queue (None: Slurm does not answer)."""
    past, launch = diary(sweep.place(point)), sweep.launch_of(point)
    if any(entry["state"] == "done" for entry in past):
        return Standing(point, "done", _spent(past))
    found = _at_work(point, launch, past, jobs)
    if found is not None:
        return Standing(point, *found)
    last = past[-1] if past else None
    if last is None:
        return Standing(point, "missing")
    words = {
        "running": _WITHOUT_A_WORD,
        "stopped": "told to stop, and saved",
        "requeued": "told to stop, and gone from the queue",
    }
    return Standing(point, "failed", str(words.get(last["state"]) or last.get("why") or last["state"]))


def _at_work(
    point: Point, launch: Launch | None, past: Sequence[Mapping[str, Any]], jobs: Mapping[str, str] | None
) -> tuple[State, str] | None:
    """The state of a point that somebody is at work on or will be; None where nobody is."""
    if launch is None:
        return None
    if launch.kind == "slurm":
        if jobs is None:
            return "unknown", f"ask where squeue is: job {launch.job}_{point.number}"
        word = jobs.get(f"{launch.job}_{point.number}")
        if word is None:
            return None
        return ("pending" if word == "PENDING" else "running"), f"job {launch.job}_{point.number}"
    last = past[-1] if past else {}
    process = Process(**last["process"]) if last.get("state") == "running" and "process" in last else None
    # What was begun before somebody was asked for the point again counts no more: it failed, was killed, or is lost.
    newest = bool(past) and last["at"] >= launch.at
    alive = process is not None and process.alive()
    if process is not None and (alive or (alive is None and newest)):
        return ("running" if alive else "unknown"), f"process {process.pid} on {process.host}"
    ended = newest and (last["state"] == "failed" or process is not None)
    if launch.by is None or ended or launch.by.alive() is False:
        return None
    return ("pending" if launch.by.alive() else "unknown"), f"process {launch.by.pid} on {launch.by.host}"


def left(found: Sequence[Standing], *, lost: bool) -> list[Point]:
    """The points that somebody has to start again; with `lost` also those that nobody here can tell of.

    Raises ConfigError without it where there are such: none would ever begin them again.
    """
    unknown = [entry for entry in found if entry.state == "unknown"]
    if unknown and not lost:
        numbers = ", ".join(str(entry.point.number) for entry in unknown)
        where = list(dict.fromkeys(entry.remark for entry in unknown))
        more = f" and {len(where) - 3} more" if len(where) > 3 else ""
        raise ConfigError(
            f"of {len(unknown)} points nobody here can tell whether they are at work: {numbers} "
            f"({'; '.join(where[:3])}{more}). Go on with the grid there; where that machine or job is gone for good, "
            "have them begun again by task.lost=true"
        )
    return [entry.point for entry in found if entry.state in LEFT or entry.state == "unknown"]


def _spent(past: Sequence[Mapping[str, Any]]) -> str:
    """How often the point was begun, where that was more than once."""
    begun = sum(entry["state"] == "running" for entry in past)
    return f"begun {begun} times" if begun > 1 else ""


def summary(found: Sequence[Standing]) -> str:
    """`12 points: 3 done, 1 running`, states in the order of their importance."""
    counts = Counter(entry.state for entry in found)
    order = ("done", "running", "pending", "failed", "missing", "unknown")
    return f"{len(found)} points: " + ", ".join(f"{counts[state]} {state}" for state in order if counts[state])


def table(found: Sequence[Standing], sweep: Sweep) -> str:
    """A Markdown table with a line per point."""
    head = ["| point | state | run | folder | |", "| --: | :-- | :-- | :-- | :-- |"]
    lines = [f"**{sweep.folder.name}**, {summary(found)}", "", *head]
    for entry in found:
        point = entry.point
        run = f"{point.name} {point.shown}".strip()
        lines.append(f"| {point.number} | {entry.state} | {run} | {point.folder} | {entry.remark.replace('|', '/')} |")
    return "\n".join(lines)
