"""Executors of several runs seen together: which may be joined, and their tables over seeds."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from wm_lightning.config_record import changes_numbers, recorded_overrides
from wm_lightning.results.freshness import STALE, Freshness, freshness
from wm_lightning.results.roles import CRITERIA, WORDS, RoleResults, RoleRow
from wm_lightning.results.seeds import Age, matching, of_roles
from wm_lightning.results.table import grid

# What an executor is held against, the most telling first.
OTHERS = ("demonstrator", "distilled", "base", "vlm")
# Overrides that do not tell groups apart.
_SAY_NOTHING = ("name", "ablation", "seed", "data", "size", "launcher")
UNKNOWN = "–"


@dataclass(frozen=True)
class RoleRun:
    """One saved table, where it lies, and whether its code is still the code."""

    path: Path
    results: RoleResults
    freshness: Freshness

    @property
    def overrides(self) -> list[str]:
        """What tells it from other runs, of what it was started with."""
        known = self.results.extra.get("overrides") or recorded_overrides(self.path.parent)
        return sorted(word for word in known if _tells(word.split("=", 1)[0].lstrip("+~")))

    @property
    def family(self) -> str:
        """What its config computes whatever its seed; of runs that do not say so, what they were started with."""
        return str(self.results.extra.get("family") or self.overrides or self.results.config_hash)


@dataclass(frozen=True)
class RoleGroup:
    """Runs that differ by their seed alone, in the order of seeds; `told` is what tells them from others so named."""

    runs: tuple[RoleRun, ...]
    told: str = ""

    @property
    def first(self) -> RoleResults:
        """The results that speak for what all have in common."""
        return self.runs[0].results

    @property
    def label(self) -> str:
        """The experiment's name, and what it was run with where others of that name were run with something else."""
        name = f"{self.first.name} ({self.told})" if self.told else self.first.name
        return f"{name} {STALE}" if any(run.freshness.stale for run in self.runs) else name

    def rows(self, role: str) -> list[RoleRow]:
        """A role's row of every run that has it."""
        return [row for run in self.runs if (row := run.results.of(role)) is not None]


def read_roles(patterns: Iterable[str], *, root: Path, age: Age = freshness) -> tuple[RoleRun, ...]:
    """The tables of executors that paths or globs lead to, relative to `root`; benchmarks of tasks are left out."""
    files: dict[Path, None] = {}
    for pattern in patterns:
        found = [path / "results.json" if path.is_dir() else path for path in matching(pattern, root)]
        files |= dict.fromkeys(
            path for path in found if of_roles(path) and "verdicts" not in json.loads(path.read_text())
        )
    return tuple(
        RoleRun(path, results := RoleResults.from_json(path), age(results.revision, results.extra.get("code")))
        for path in files
    )


def role_groups(runs: Iterable[RoleRun]) -> list[RoleGroup]:
    """The runs sorted into what may be joined. Raises ValueError for two runs of the same config and seed."""
    found: dict[tuple[Any, ...], list[RoleRun]] = {}
    for run in runs:
        found.setdefault((run.results.name, run.family, run.results.steps, *_tasks(run)), []).append(run)
    for together in found.values():
        together.sort(key=lambda run: run.results.seed)
        for one, other in zip(together, together[1:], strict=False):
            if one.results.seed == other.results.seed:
                raise ValueError(f"{one.path} and {other.path} are the same config and seed; leave one of them out")
    joined = [RoleGroup(tuple(together)) for together in found.values()]
    return [replace(group, told=_told(group, joined)) for group in joined]


def role_table(group: RoleGroup) -> str:
    """A line a role, the executor's gains over the others, and where the numbers come from."""
    roles = [role for role in WORDS if group.rows(role)]
    lines = [[WORDS[role], *_cells(group.rows(role))] for role in roles]
    gains = [[f"over {WORDS[other]}", gain_text(group, other)] for other in OTHERS if group.rows(other)]
    head = ["role", *CRITERIA, "n", "valid", "s a video"]
    parts = [f"**{group.label}**, {_said(group)}", grid(head, lines, left=range(1))]
    return "\n\n".join([*parts, grid(["the executor's gain in tasks done", ""], gains, left=range(1)), *_ends(group)])


def roles_compared(found: Sequence[RoleGroup]) -> str:
    """A line for the executor of every group, and for what they were made from, once where all agree.

    Raises ValueError, naming the runs, where tasks or judges differ.
    """
    kinds = {_tasks(group.runs[0]) for group in found}
    if len(kinds) > 1:
        said = "; ".join(f"{group.runs[0].path}: {_tasks(group.runs[0])}" for group in found)
        raise ValueError(f"these executors cannot stand in one table, their tasks or judges differ: {said}")
    head = ["", *CRITERIA, "n", "valid", "s a video", *(f"task above {other}" for other in OTHERS), "seeds"]
    lines = [
        [
            group.label, *_cells(group.rows("executor")), *(gain_text(group, other) for other in OTHERS),
            str(len(group.runs)),
        ]
        for group in found
    ]  # fmt: skip
    for role in ("demonstrator", "base"):
        cells: dict[tuple[str, ...], list[str]] = {}
        for group in found:
            if group.rows(role):
                cells.setdefault(tuple(_cells(group.rows(role))[:-1]), []).append(group.label)
        for values, labels in cells.items():
            whose = "" if len(cells) == 1 else f" of {', '.join(labels)}"
            lines.append([f"{role}{whose}", *values, "", *[""] * len(OTHERS), ""])
    ends = dict.fromkeys(end for group in found for end in _ends(group))
    return "\n\n".join([f"Executors, {_said(found[0])}", grid(head, lines, left=range(1)), *ends])


def gain_text(group: RoleGroup, other: str) -> str:
    """How many more tasks the executor does: of one seed with its 95 % interval, of several with their spread."""
    gains = [row.gains[other] for row in group.rows("executor") if other in row.gains]
    if not gains:
        return UNKNOWN
    if len(gains) == 1:
        value, low, high = gains[0]
        return f"{value:+.3f} ({low:+.3f} to {high:+.3f})"
    values, above = [gain[0] for gain in gains], sum(gain[1] > 0 for gain in gains)
    lowest = min(gain[1] for gain in gains)
    return (
        f"{fmean(values):+.3f} ± {stdev(values):.3f} (above 0 in {above} of {len(gains)}, lowest bound {lowest:+.3f})"
    )


def _cells(rows: Sequence[RoleRow]) -> list[str]:
    seconds = [row.seconds for row in rows if row.seconds is not None]
    rates = (
        [_rate([getattr(row, name) for row in rows], rows[0].intervals.get(name)) for name in CRITERIA] if rows else []
    )
    counts = [str(sum(getattr(row, name) for row in rows)) for name in ("n", "valid")]
    return [*(rates or [UNKNOWN] * len(CRITERIA)), *counts, f"{fmean(seconds):.2f}" if seconds else UNKNOWN]


def _rate(values: Sequence[float | None], interval: Sequence[float] | None) -> str:
    """Mean ± standard deviation over seeds; of one seed the rate and Wilson's interval."""
    known = [value for value in values if value is not None]
    if not known:
        return "none valid"
    if len(known) > 1:
        lost = f" ({len(known)} of {len(values)})" if len(known) < len(values) else ""
        return f"{fmean(known):.3f} ± {stdev(known):.3f}{lost}"
    return f"{known[0]:.3f}" + (f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else "")


def _tasks(run: RoleRun) -> tuple[Any, ...]:
    """What two runs must have in common for their rates to mean the same."""
    results = run.results
    return results.data, results.world, results.split, results.judge, results.rows[0].n


def _said(group: RoleGroup) -> str:
    first, seeds = group.first, [run.results.seed for run in group.runs]
    spread = f"seeds {', '.join(map(str, seeds))}: mean ± standard deviation" if len(seeds) > 1 else f"seed {seeds[0]}"
    return (
        f"{first.data} data ({first.world}) · {first.rows[0].n} {first.split} tasks a seed, judged by {first.judge} · "
        f"{first.steps} steps · {spread} · gains by a paired bootstrap over tasks, 95 % · {first.machine}"
    )


def _ends(group: RoleGroup) -> Iterator[str]:
    for run in group.runs:
        if run.freshness.stale:
            yield f"**Stale** (seed {run.results.seed}): {run.freshness.reason}."
    results = [run.results for run in group.runs]
    revisions = ", ".join(dict.fromkeys(f"`{one.revision[:9]}`" for one in results))
    hashes = ", ".join(dict.fromkeys(f"`{one.config_hash}`" for one in results))
    seconds = fmean(one.seconds for one in results)
    yield f"{group.label}: revision {revisions}, config {hashes}, {seconds:.0f} s a run."


def _told(group: RoleGroup, every: Sequence[RoleGroup]) -> str:
    """The overrides of a group that not all groups of its name have, by the last part of their keys."""
    same = [other.runs[0].overrides for other in every if other.first.name == group.first.name]
    common = set(same[0]).intersection(*same)
    own = [word.split("=", 1) for word in group.runs[0].overrides if word not in common]
    return ", ".join(f"{key.lstrip('+~').rsplit('.', 1)[-1]}={''.join(value)}" for key, *value in own)


def _tells(key: str) -> bool:
    return key not in _SAY_NOTHING and changes_numbers(key)
