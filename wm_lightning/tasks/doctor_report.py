"""What `task=doctor` prints of recordings: splits, action columns, alignment."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from wm_lightning.data.alignment import EPISODES, Alignment, Verdict
from wm_lightning.data.checks import Column
from wm_lightning.data.source_datamodule import SourceDataModule
from wm_lightning.tasks.doctor_look import Findings

LISTED = 5  # of a kind, before the rest is only counted


def line(console: Console, text: str) -> None:
    """One line as it is: not broken, so that paths and commands can be copied."""
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def some(console: Console, lines: Sequence[str]) -> None:
    """The first of some lines, and how many there are beyond."""
    for text in lines[:LISTED]:
        line(console, f"  {text}")
    if len(lines) > LISTED:
        line(console, f"  ... {len(lines) - LISTED} more")


def show_splits(console: Console, data: SourceDataModule, findings: Findings) -> None:
    """What is stored of every split, and how much of it was decoded."""
    kind = "simulated" if data.simulated else "real"
    table = Table(title=f"{data.home} · {data.format} · {kind}", title_justify="left")
    for head in ("split", "episodes", "frames", "unusable", "decoded"):
        table.add_column(head)
    for split, found in findings.items():
        counts = found.episodes, found.frames, len(found.bad), f"{found.decoded} of {len(found.actions)}"
        table.add_row(split, *map(str, counts))
    console.print(table)
    decoded = sum(found.decoded for found in findings.values())
    there = sum(len(found.actions) for found in findings.values())
    if decoded < there:
        line(
            console,
            f"  {decoded} of {there} episodes were decoded, drawn over the whole set; what is wrong with pictures of "
            f"others is not known: task.decoded=null decodes all",
        )
    some(console, [f"unusable: {error}" for found in findings.values() for error in found.bad])


def show_columns(console: Console, columns: Sequence[Column]) -> None:
    """Every action column against its bounds."""
    table = Table(title="actions", title_justify="left")
    for head in ("column", "least", "most", "bounds", "outside"):
        table.add_column(head)
    for column in columns:
        note = " (constant)" if column.constant else ""
        bounds = f"{column.low:.3g} .. {column.high:.3g}"
        table.add_row(column.name + note, f"{column.least:.3g}", f"{column.most:.3g}", bounds, str(column.outside))
    console.print(table)
    if small := [column.name for column in columns if column.moves_little]:
        line(
            console,
            f"  warning: {', '.join(small)}: less than a tenth of the bounds is used. The bounds may be those of "
            f"rescaled actions and these be raw (docs/data.md), and a network sees numbers near 0: give data.bounds",
        )


def show_alignment(console: Console, found: Alignment) -> None:
    """Correlations by lag, with the actions of an episode and of others, and what they say."""
    looked = f"alignment, {found.used} of {found.looked} decoded episodes"
    if not found.lags:
        line(
            console,
            f"{looked}: cannot be told; {EPISODES} episodes are needed that are long enough (from 7 frames on; all "
            f"lags from 9 on) and in which actions and pictures change",
        )
        return
    for name, values in (("its own actions", found.own), ("actions of other episodes", found.others)):
        said = "  ".join(f"{lag:+d}: {value:.2f}" for lag, value in zip(found.lags, values, strict=True))
        line(console, f"{looked}, correlation of motion by lag with {name}: {said}")
    odds = f"actions of other episodes do as well with a chance of {found.chance:.3f}"
    if found.verdict is not Verdict.UNTOLD:
        line(console, f"  peak {found.peak:+d}: {found.verdict.value} ({odds})")
        return
    line(
        console,
        f"  warning: cannot be told ({odds}): these actions belong to other pictures, or these episodes are too few to "
        f"show it; look at some yourself, give more episodes, or task.decoded=null where not all were decoded",
    )
