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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

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

    def __post_init__(self) -> None:
        for point in self.points:
            if not self._holds(self.place(point)):
                raise ConfigError(
                    f"point {point.number} of the grid in {self.folder} has the folder {point.folder}, outside of it; "
                    f"give all points one run_dir, or set it to {point.number} in {MANIFEST}"
                )

    def _holds(self, place: Path) -> bool:
        """Whether the folder is in the grid's own, or in that of the same date beside it, where experiments differ."""
        above = self.folder.parent.parent
        beside = place.relative_to(above).parts if place.is_relative_to(above) else ()
        return place.is_relative_to(self.folder) or (len(beside) > 2 and beside[1] == self.folder.name)

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

    @classmethod
    def load(cls, folder: Path) -> "Sweep":
        """The grid of a folder. Raises ConfigError where there is no manifest, or one that no grid wrote.

        A manifest may come from somebody else, so that it names no program, and nothing of Hydra's own, which builds
        unchecked what it is told.
        """
        path = _existing(folder)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            sweep = _built(cls, {**_object(content), "folder": path.parent})
            if not os.path.isabs(sweep.cwd):
                raise ValueError(f"cwd is {sweep.cwd!r}, not an absolute path")
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(
                f"{path} is damaged: {error}. Put back what was there, or start the grid again in another run_dir; the "
                "runs in its folder stay as they are"
            ) from error
        words = [word for point in sweep.points for word in point.words]
        if foreign := [word for word in words if word[:1] == "-" or not of_a_point([word])]:
            raise ConfigError(
                f"{path} has points with {foreign[0]}, which is none of a point's settings; remove it there"
            )
        return sweep


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Held by whoever decides what of the grid in `folder` runs, so that two do not hand out one point.

    From before the manifest is read until who runs what stands in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "sweep.lock"):
        yield


@contextmanager
def held(folder: Path) -> Iterator[Sweep]:
    """The grid of a folder as it is once nobody else decides what runs, locked. Raises as `Sweep.load` does."""
    _existing(folder)
    with locked(folder):
        yield Sweep.load(folder)


def _existing(folder: Path) -> Path:
    path = folder.resolve() / MANIFEST
    if not path.is_file():
        raise ConfigError(f"{folder} holds no {MANIFEST}; name the folder of a grid, logs/NAME/DATE")
    return path


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


def _built(kind: type[Any], values: Any) -> Any:
    """A dataclass from its JSON. Raises ValueError that says which field is missing, unknown, or of another type."""
    known = {field.name: field for field in fields(kind)}
    needed = {name for name, field in known.items() if field.default is MISSING}
    given = _object(values)
    if wrong := [f"no {name}" for name in sorted(needed - given.keys())]:
        raise ValueError(f"a {kind.__name__.lower()} has {', '.join(wrong)}")
    if wrong := sorted(given.keys() - known.keys()):
        raise ValueError(f"a {kind.__name__.lower()} has {', '.join(wrong)}, which none has")
    return kind(**{name: _read(known[name].type, value, name) for name, value in given.items()})


def _read(kind: Any, value: Any, name: str) -> Any:
    """The value of a field of the type `kind`."""
    if get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_read(get_args(kind)[0], entry, name) for entry in value)
    if get_origin(kind) is UnionType:
        return None if value is None else _read(get_args(kind)[0], value, name)
    if isinstance(kind, type) and is_dataclass(kind):
        return _built(kind, value)
    if get_origin(kind) is Literal:
        fits = value in get_args(kind)
    else:
        fits = isinstance(value, (int, float) if kind is float else get_origin(kind) or kind)
    if not fits or isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}, which should be {getattr(kind, '__name__', kind)}")
    return value


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{str(value)[:60]!r} stands where there should be an object")
    return value


def _started(pid: int) -> int | None:
    """The 22nd field of Linux's `stat`; None elsewhere, and for a process that is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field, the program's name in brackets, may hold blanks and brackets.
    return int(text.rpartition(")")[2].split()[19])
