"""A grid's manifest: its points, the command of each, who was asked to run them, and the diary of every point.

`sweep.json` lies in the grid's folder. A point's diary, `point.jsonl` in its run folder, gets a line whenever the point
begins, ends, fails or is told to stop; a batch script can write it as well as Python.
"""

import json
import os
import re
import socket
import sys
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from wm_lightning.config_errors import ConfigError
from wm_lightning.results.results import write_whole

MANIFEST, DIARY = "sweep.json", "point.jsonl"
# Said anew for every point, or of the launch and not of what is computed.
_NOT_OF_A_POINT = ("launcher", "run_dir", "hydra")
# Needs no quotes in Hydra's grammar.
_PLAIN = re.compile(r"[\w./:@%+-]+")


@dataclass(frozen=True)
class Process:
    """A process of a machine; `started` (clock ticks since the machine did) tells it from a later one of its number."""

    host: str
    pid: int
    started: int | None

    @classmethod
    def of(cls, pid: int) -> "Process":
        """The process `pid` of this machine."""
        return cls(socket.gethostname(), pid, _started(pid))

    def alive(self) -> bool | None:
        """Whether it runs; None on another machine, where nobody can tell."""
        if self.host != socket.gethostname():
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # somebody else's
            pass
        return _started(self.pid) == self.started


@dataclass(frozen=True)
class Point:
    """One run of a grid: its number, the overrides that make it, its run folder relative to the grid's, and a name.

    `shown` is what tells it from the other points, `key` the identity it has wherever it is logged.
    """

    number: int
    words: tuple[str, ...]
    folder: str
    name: str
    shown: str
    key: str


@dataclass(frozen=True)
class Launch:
    """Points that were handed to the process `by` of a machine, or to Slurm as the array `job` with `options`."""

    points: tuple[int, ...]
    at: float
    kind: Literal["local", "slurm"]
    job: str | None = None
    by: Process | None = None
    options: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Sweep:
    """A grid in its folder; `cwd` is the folder where relative paths begin."""

    folder: Path
    cwd: str
    points: tuple[Point, ...]
    launches: tuple[Launch, ...] = ()

    def place(self, point: Point) -> Path:
        """The point's run folder, absolute."""
        return Path(os.path.normpath(self.folder / point.folder))

    def line(self, point: Point) -> list[str]:
        """What follows `python run.py` for the point, in its folder; where it goes on is for the launcher to add."""
        return [*point.words, f"run_dir={quoted(str(self.place(point)))}", "hydra.mode=RUN"]

    def chosen(self, numbers: Iterable[int]) -> list[Point]:
        """The points of these numbers."""
        wanted = set(numbers)
        return [point for point in self.points if point.number in wanted]

    def launch_of(self, point: Point) -> Launch | None:
        """Who was last asked to run the point."""
        return next((launch for launch in reversed(self.launches) if point.number in launch.points), None)

    def launched(self, launch: Launch) -> "Sweep":
        """The grid with one launch more, written down."""
        sweep = replace(self, launches=(*self.launches, launch))
        sweep.save()
        return sweep

    def save(self) -> None:
        """Writes the manifest in one step."""
        content = {key: value for key, value in asdict(self).items() if key != "folder"}
        write_whole(self.folder / MANIFEST, json.dumps(content, indent=1) + "\n")

    def lock(self) -> AbstractContextManager[Any]:
        """Held by whoever decides what runs, so that two do not hand out one point."""
        return FileLock(self.folder / "sweep.lock")

    @classmethod
    def load(cls, folder: Path) -> "Sweep":
        """The grid of a folder. Raises ConfigError where there is no manifest, or one with words that no grid wrote.

        A manifest may come from somebody else, so that it names no program, and nothing of Hydra's own, which builds
        unchecked what it is told.
        """
        path = folder.resolve() / MANIFEST
        if not path.is_file():
            raise ConfigError(f"{folder} holds no {MANIFEST}; name the folder of a grid, logs/NAME/DATE")
        content = json.loads(path.read_text(encoding="utf-8"))
        points = tuple(Point(**{**point, "words": tuple(point["words"])}) for point in content["points"])
        if foreign := [word for point in points for word in point.words if word[:1] == "-" or not of_a_point([word])]:
            raise ConfigError(
                f"{path} has points with {foreign[0]}, which is none of a point's settings; remove it there"
            )
        return cls(path.parent, content["cwd"], points, tuple(_launch(launch) for launch in content["launches"]))


def new_sweep(folder: Path, points: Sequence[Point]) -> Sweep:
    """A grid that this command starts in `folder`; nothing is written yet."""
    return Sweep(folder.resolve(), os.getcwd(), tuple(points))


def program() -> list[str]:
    """`python run.py`, of this very program."""
    return [sys.executable, str(Path(sys.argv[0]).resolve())]


def new_key() -> str:
    """An identity that no other run has."""
    return uuid.uuid4().hex[:12]


def of_a_point(words: Iterable[str]) -> tuple[str, ...]:
    """The overrides that a point's own command repeats."""
    return tuple(word for word in words if re.split(r"[=./@]", word.lstrip("+~"))[0] not in _NOT_OF_A_POINT)


def quoted(value: str) -> str:
    """A value as an override takes it."""
    return value if _PLAIN.fullmatch(value) else "'" + value.replace("'", r"\'") + "'"


def note(folder: Path, state: str, **facts: Any) -> None:
    """Writes a line into the diary of the point in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / DIARY).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"state": state, "at": time.time(), **facts}) + "\n")


def diary(folder: Path) -> list[dict[str, Any]]:
    """What was noted of the point in `folder`, oldest first; a torn line is left out."""
    path = folder / DIARY
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return [entry for line in lines if (entry := _entry(line))]


def _entry(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:
        return None
    return entry if isinstance(entry, dict) and "state" in entry else None


def _launch(values: dict[str, Any]) -> Launch:
    by = None if values["by"] is None else Process(**values["by"])
    return Launch(**{**values, "points": tuple(values["points"]), "by": by})


def _started(pid: int) -> int | None:
    """The 22nd field of Linux's `stat`; None elsewhere, and for a process that is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field, the program's name in brackets, may hold blanks and brackets.
    return int(text.rpartition(")")[2].split()[19])
