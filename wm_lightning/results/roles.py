"""What executor, demonstrator and others reach on the same tasks, as plain values, a table and a file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from wm_lightning.results.results import write_whole
from wm_lightning.results.table import grid

RoleName = Literal["base", "vlm", "demonstrator", "distilled", "executor"]
CRITERIA = ("task", "agent", "consistency")
WORDS: dict[str, str] = {
    "base": "base, told the instruction",
    "vlm": "base, told a solution written at that moment",
    "demonstrator": "base, told the solution",
    "distilled": "executor by distillation alone, told the instruction",
    "executor": "executor, told the instruction",
}


@dataclass(frozen=True, kw_only=True)
class RoleRow:
    """One role on the `n` tasks of a table: shares of valid judgements that say yes, with Wilson's 95 % intervals.

    `valid` counts the tasks that all judges judged; `valid_by` the judgements of each criterion, over which its rate
    is taken. `average` is the mean of the rates. `gains` are differences in the rate of `task` to other roles on the
    same tasks, (value, low, high). `by_task` and `by_agent` are rates of `task` with their n, by kind. `seconds` is
    what one video takes from its words to its pixels.
    """

    role: RoleName
    task: float | None
    agent: float | None
    consistency: float | None
    average: float | None
    n: int
    valid: int
    valid_by: Mapping[str, int]
    intervals: Mapping[str, tuple[float, float] | None]
    gains: Mapping[str, tuple[float, float, float]]
    by_task: Mapping[str, tuple[float, int]]
    by_agent: Mapping[str, tuple[float, int]]
    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class RoleResults:
    """All roles of one run, and where the numbers come from."""

    rows: tuple[RoleRow, ...]
    name: str
    data: str
    world: str
    split: str
    judge: str
    steps: int
    revision: str
    config_hash: str
    seed: int
    seconds: float
    machine: str
    extra: Mapping[str, Any]

    def of(self, role: str) -> RoleRow | None:
        """The row of a role."""
        return next((row for row in self.rows if row.role == role), None)

    def summary(self) -> dict[str, float]:
        """The executor's rates by name, for whoever called the task; without what could not be judged."""
        row = self.of("executor")
        assert row is not None
        return {name: value for name in CRITERIA if (value := getattr(row, name)) is not None}

    def to_json(self, path: Path) -> None:
        """Writes the results, whole or not at all."""
        write_whole(path, json.dumps(asdict(self), indent=2, allow_nan=False) + "\n")

    @classmethod
    def from_json(cls, path: Path) -> "RoleResults":
        """Inverse of `to_json`. Raises ValueError, naming the file, for any other content."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{**values, "rows": tuple(RoleRow(**_with_tuples(row)) for row in values["rows"])})
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{path} is no table of an executor's roles ({error})") from error


def _with_tuples(row: Mapping[str, Any]) -> dict[str, Any]:
    """JSON turned what stands by name, such as intervals, into lists."""
    named = {key: value for key, value in row.items() if isinstance(value, dict)}
    pairs = {
        key: {name: tuple(x) if isinstance(x, list) else x for name, x in value.items()} for key, value in named.items()
    }
    return {**row, **pairs}


def shown(results: RoleResults) -> tuple[list[str], list[list[str]]]:
    """Head and cells of the table."""
    head = ["role", *(f"{name} (95 %)" for name in CRITERIA), "task above demonstrator", "n", "valid", "s a video"]
    return head, [_cells(row) for row in results.rows]


def _cells(row: RoleRow) -> list[str]:
    rates = [_rate(getattr(row, name), row.intervals[name]) for name in CRITERIA]
    gain = row.gains.get("demonstrator")
    above = "" if gain is None else f"{gain[0]:+.3f} ({gain[1]:+.3f} to {gain[2]:+.3f})"
    seconds = "" if row.seconds is None else f"{row.seconds:.2f}"
    return [WORDS[row.role], *rates, above, str(row.n), str(row.valid), seconds]


def _rate(value: float | None, interval: tuple[float, float] | None) -> str:
    return (
        "none valid" if value is None or interval is None else f"{value:.3f} ({interval[0]:.2f} to {interval[1]:.2f})"
    )


def terminal(results: RoleResults) -> Table:
    """For the console."""
    head, rows = shown(results)
    table = Table(title=_caption(results))
    for name in head:
        table.add_column(name)
    for cells in rows:
        table.add_row(*cells)
    return table


def write_markdown(results: RoleResults, path: Path) -> None:
    """The table, and the rate of the task by its kind and by who acts."""
    head, rows = shown(results)
    lines = [f"# {_caption(results)}", "", grid(head, rows, left=range(len(head))), ""]
    for name, title in (("by_task", "kind of task"), ("by_agent", "agent")):
        kinds = sorted({kind for row in results.rows for kind in getattr(row, name)})
        cells = [[WORDS[row.role], *(_share(getattr(row, name).get(kind)) for kind in kinds)] for row in results.rows]
        lines += [f"Task done, by {title} (n):", "", grid(["role", *kinds], cells, left=range(len(kinds) + 1)), ""]
    write_whole(path, "\n".join(lines))


def _share(entry: tuple[float, int] | None) -> str:
    return "" if entry is None else f"{entry[0]:.2f} ({entry[1]})"


def _caption(results: RoleResults) -> str:
    return f"{results.name}, {results.world} ({results.data}), {results.split} tasks, judged by {results.judge}"
