"""Several runs of one config seen together: which may be joined, and the mean and spread of every row."""

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wm_lightning.config_record import changes_numbers
from wm_lightning.results.freshness import Freshness, freshness
from wm_lightning.results.results import Results, Row

# (revision, the files that made the results where they name them) -> whether they still hold
Age = Callable[[str, Sequence[str] | None], Freshness]
# Overrides that do not tell groups apart: the names of what tables say by themselves, and where a run was started.
_SAY_NOTHING = ("name", "experiment", "ablation", "seed", "data", "size", "launcher")
# A grid's own list of its points lies beside their folders.
GRID = "sweep.json"
Joined = tuple[str | int | None, ...]


@dataclass(frozen=True)
class Run:
    """One saved result, where it lies, and whether its code is still the code."""

    path: Path
    results: Results
    freshness: Freshness


@dataclass(frozen=True)
class Spread:
    """Mean over `count` seeds, and their standard deviation (None for one seed)."""

    mean: float
    deviation: float | None
    count: int


@dataclass(frozen=True)
class Group:
    """Runs that differ by their seed alone, in the order of seeds; `told` is what tells them from others so named."""

    runs: tuple[Run, ...]
    told: str = ""

    @property
    def first(self) -> Results:
        """The results that speak for what all have in common."""
        return self.runs[0].results

    @property
    def label(self) -> str:
        """The experiment's name, and what it was run with where others of that name were run with something else."""
        return f"{self.first.name} ({self.told})" if self.told else self.first.name

    @property
    def stale(self) -> bool:
        """Whether the code of any of the runs is outdated."""
        return any(run.freshness.stale for run in self.runs)

    def rows(self) -> tuple[tuple[Row, ...], ...]:
        """For every row of the table, the rows of all runs that have it."""
        found: dict[Joined, list[Row]] = {}
        for run in self.runs:
            for row in run.results.rows:
                found.setdefault((row.role, row.name, row.steps, row.cached, row.cache_commit), []).append(row)
        return tuple(tuple(rows) for rows in found.values())


def spread(rows: Sequence[Row], name: str) -> Spread | None:
    """Of the column `name` over the rows that have it; None where none has."""
    values = [float(value) for row in rows if (value := row.measured(name)) is not None]
    if not values:
        return None
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def read_runs(patterns: Iterable[str], *, root: Path, age: Age = freshness) -> tuple[Run, ...]:
    """Results that paths or globs lead to, relative to `root`: files, or run folders that hold a results.json.

    Raises ValueError where a pattern leads to none, and to no result of a protocol or benchmark either.
    """
    files: dict[Path, None] = {}
    for pattern in patterns:
        found = [path / "results.json" if path.is_dir() else path for path in matching(pattern, root)]
        found = [path for path in found if path.is_file() and path.suffix == ".json" and path.name != GRID]
        found = [path for path in found if not _other(path)]
        if not found and not any(_other(path) for path in _below(pattern, root)):
            raise ValueError(f"{pattern} leads to no results.json from {root}; name run folders, or the files")
        files |= dict.fromkeys(found)
    return tuple(
        Run(path, results := Results.from_json(path), age(results.revision, results.extra.get("code")))
        for path in files
    )


def groups(runs: Iterable[Run]) -> tuple[Group, ...]:
    """The runs sorted into what may be joined; real never meets simulated, nor one extractor another.

    Raises ValueError for two runs of the same config and seed: they are no two samples.
    """
    found: dict[Joined, list[Run]] = {}
    for run in runs:
        found.setdefault(_joined_by(run.results), []).append(run)
    for together in found.values():
        together.sort(key=lambda run: run.results.seed)
        for one, other in zip(together, together[1:], strict=False):
            if one.results.seed == other.results.seed:
                raise ValueError(f"{one.path} and {other.path} are the same config and seed; leave one of them out")
    joined = [Group(tuple(together)) for together in found.values()]
    return tuple(replace(group, told=_told(group, joined)) for group in joined)


def _told(group: Group, every: Sequence[Group]) -> str:
    """The overrides of a group that not all groups of its name have, by the last part of their keys."""
    same = [_overrides(other.first) for other in every if other.first.name == group.first.name]
    common = set(same[0]).intersection(*same)
    own = [word.split("=", 1) for word in _overrides(group.first) if word not in common]
    return ", ".join(f"{key.lstrip('+~').rsplit('.', 1)[-1]}={''.join(value)}" for key, *value in own)


def _overrides(results: Results) -> list[str]:
    return [word for word in results.extra.get("overrides", ()) if _tells(word.split("=", 1)[0])]


def _tells(key: str) -> bool:
    return key.lstrip("+~") not in _SAY_NOTHING and changes_numbers(key)


def family(results: Results) -> str:
    """What the config computes whatever its seed, where the run stored that; else the config itself."""
    return str(results.extra.get("family", results.config_hash))


def _joined_by(results: Results) -> Joined:
    return (
        results.data, results.world, results.extractor_hash, family(results), results.name, results.clips,
        results.context, results.horizon, results.chunk, results.machine,
    )  # fmt: skip


def matching(pattern: str, root: Path) -> list[Path]:
    """The paths that a glob leads to, relative to `root` unless it is absolute."""
    if Path(pattern).is_absolute():
        anchor = Path(Path(pattern).anchor)
        return sorted(anchor.glob(str(Path(pattern).relative_to(anchor))))
    return sorted(root.glob(pattern))


def _below(pattern: str, root: Path) -> list[Path]:
    return [file for path in matching(pattern, root) for file in (path.iterdir() if path.is_dir() else [path])]


def _other(path: Path) -> bool:
    return of_protocol(path) or of_bench(path) or of_roles(path)


def of_roles(path: Path) -> bool:
    """Whether a file holds an executor's table, whose rows are no generators of given clips."""
    if path.suffix != ".json" or not path.is_file():
        return False
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False  # whoever reads it as a result says what is wrong
    rows = content.get("rows") if isinstance(content, dict) else None
    return isinstance(rows, list) and bool(rows) and isinstance(rows[0], dict) and "agent" in rows[0]


def of_bench(path: Path) -> bool:
    """Whether a file's name is that of a benchmark."""
    return (path.name == "bench.json" or path.name.startswith("bench-")) and path.suffix == ".json"


def of_protocol(path: Path) -> bool:
    """Whether a file's name is that of a protocol's result."""
    return path.name.startswith("protocol_") and path.suffix == ".json"
