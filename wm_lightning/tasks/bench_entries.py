"""What a benchmark found: ratios of two ways to do the same, the time spent waiting, and both as a table and a page."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from wm_lightning.results.table import grid

HEADINGS = ("", "ours", "other", "unit", "ratio", "target", "met")


@dataclass(frozen=True)
class Comparison:
    """Two ways to do the same, in units per second (more is better).

    `same` says whether they ended equal, `least` what ratio is aimed at; None where nothing is said.
    """

    name: str
    unit: str
    ours: str
    other: str
    ours_value: float
    other_value: float
    same: bool | None = None
    least: float | None = None

    @property
    def ratio(self) -> float:
        """Ours against the other."""
        return self.ours_value / self.other_value

    @property
    def met(self) -> bool | None:
        """Whether the ratio is as large as aimed at."""
        return None if self.least is None else self.ratio >= self.least

    def plain(self) -> dict[str, Any]:
        """All of it for JSON."""
        return {**asdict(self), "ratio": self.ratio, "met": self.met}

    def cells(self) -> tuple[str, ...]:
        """A line under `HEADINGS`."""
        same = {True: " (same result)", False: " (other result)", None: ""}[self.same]
        target = "" if self.least is None else f"at least {self.least:g}×"
        values = f"{self.ours}: {self.ours_value:.3g}", f"{self.other}: {self.other_value:.3g}"
        return self.name, *values, self.unit, f"{self.ratio:.2f}×{same}", target, _word(self.met)


@dataclass(frozen=True)
class Waiting:
    """The `seconds` that `steps` steps of a training took, and those of them that it waited for batches."""

    name: str
    steps: int
    seconds: float
    waited: float
    most: float

    @property
    def share(self) -> float:
        """Of all time, 0..1."""
        return self.waited / self.seconds

    @property
    def met(self) -> bool:
        """Whether the share is as small as aimed at."""
        return self.share < self.most

    def plain(self) -> dict[str, Any]:
        """All of it for JSON."""
        return {**asdict(self), "share": self.share, "met": self.met}

    def cells(self) -> tuple[str, ...]:
        """A line under `HEADINGS`."""
        waited, all_of_it = f"waiting for data: {self.waited:.3g}", f"{self.steps} steps: {self.seconds:.3g}"
        target = f"under {100 * self.most:g} %"
        return self.name, waited, all_of_it, "s", f"{100 * self.share:.2g} %", target, _word(self.met)


Entry = Comparison | Waiting


def shown(found: Sequence[Entry], caption: str) -> Table:
    """The entries as a table for a rich console."""
    table = Table(title=f"Benchmark: {caption}", title_justify="left")
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold")
    for entry in found:
        table.add_row(*entry.cells())
    return table


def page(found: Sequence[Entry], report: Mapping[str, Any]) -> str:
    """The entries as Markdown, with what was measured, where, and how many decoded frames are kept."""
    table = grid(HEADINGS, [entry.cells() for entry in found], left=range(len(HEADINGS)))
    cache = report.get("cache")
    kept = f"\n\nDecoded frames kept: {cache['mib']:.1f} MiB, {cache['gib_allowed']:g} GiB allowed." if cache else ""
    return (
        f"# Benchmark: {report['name']}, {report['data']} data ({report['world']})\n\n{table}{kept}\n\n"
        f"{report['device']}, {report['threads']} threads, {report['precision']}, torch {report['torch']}. Medians of "
        f"{report['settings']['repeats']} rounds. Revision `{report['revision']}`, config `{report['config_hash']}`.\n"
    )


def _word(met: bool | None) -> str:
    return {True: "yes", False: "no", None: ""}[met]
