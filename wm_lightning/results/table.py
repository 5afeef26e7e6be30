"""Results as a table for the terminal and as Markdown, with nulls explained and targets judged."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from wm_lightning.results.results import Number, Results, Row, write_whole
from wm_lightning.results.targets import Statement, Targets, judge

ABSENT = "–"
# Narrow, so that every table fits into 80 columns.
STYLE = {"header_style": "bold", "box": SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False, "show_edge": False}


@dataclass(frozen=True)
class Column:
    """A measure with its heading (lines for the terminal), number format and the factor to the unit shown."""

    name: str
    heading: str
    form: str
    factor: float = 1.0


QUALITY = (
    Column("psnr", "PSNR\ndB", ".1f"),
    Column("ssim", "SSIM", ".3f"),
    Column("action_error", "action\nerror", ".3f"),
    Column("object_error", "object\nerror", ".3f"),
    Column("presence", "presence", ".3f"),
)
DISTANCE = (
    Column("perceptual", "LPIPS-\nlike", ".4f"),
    Column("frames_distance", "FID-\nlike", ".2f"),
    Column("distance", "distance", ".4f"),
    Column("distance_floor", "floor", ".4f"),
    Column("excess", "excess", ".4f"),
    Column("distance_low", "excess\nfrom", ".4f"),
    Column("distance_high", "to\n(95 %)", ".4f"),
)
SPEED = (
    Column("nfe", "forwards\nper chunk", "g"),
    Column("fps_b1", "frames/s\nbatch 1", ".1f"),
    Column("fps_b16", "frames/s\nbatch 16", ".1f"),
    Column("first_frame_latency", "first\nframe ms", ".1f", 1000.0),
    Column("peak_memory", "peak\nMiB", ".0f"),
)


class Footnotes:
    """Numbers the reasons of nulls, equal ones once, in the order of their first use."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def mark(self, reason: str) -> str:
        """The sign of a null with the number of its reason."""
        if reason not in self.reasons:
            self.reasons.append(reason)
        return f"{ABSENT} [{self.reasons.index(reason) + 1}]"


def caption(results: Results) -> str:
    """Where the numbers come from, in one line that starts with "simulated" or "real"."""
    true = "" if results.presence_truth is None else f" · presence of the truth {results.presence_truth:.3f}"
    where = f"seed {results.seed} · {results.machine}{true}"
    return (
        f"{results.data} data ({results.world}) · {results.clips} test clips, {results.context} given + "
        f"{results.horizon} generated frames in chunks of {results.chunk} · {where}"
    )


def cells(row: Row, columns: Sequence[Column], notes: Footnotes) -> list[str]:
    """The row's numbers as text, nulls as footnoted dashes."""
    texts = []
    for column in columns:
        value = row.measured(column.name)
        reason = row.reasons.get(column.name) or row.why("psnr") or row.why(column.name) or "not measured"
        texts.append(notes.mark(reason) if value is None else _number(value * column.factor, column.form))
    return texts


def _number(value: Number, form: str) -> str:
    """In the column's form; a number of an untrained network may be too long for it."""
    return format(value, form) if abs(value) < 1e5 else f"{value:.1e}"


def heads(row: Row) -> list[str]:
    """Role and name, steps and cache of a row; an empty cell where the word does not apply."""
    cache = "" if row.cached is None else "none" if not row.cached else (row.cache_commit or "yes")
    name = row.name if row.name.startswith(row.role) else f"{row.role}: {row.name}"
    return [name, "" if row.steps is None else str(row.steps), cache]


def columns(results: Results) -> tuple[tuple[str, tuple[Column, ...]], ...]:
    """Titles and columns of the tables; the world's extra measures join the quality."""
    names = dict.fromkeys(name for row in results.rows for name in row.extra)
    extra = tuple(Column(name, "\n".join(name.split("_")), ".3f") for name in names)
    return (("Quality", QUALITY + extra), ("Distance", DISTANCE), ("Speed and memory", SPEED))


def terminal(results: Results) -> list[Table]:
    """Tables for a rich console, readable from 80 columns on; the footnotes of all stand under the last."""
    notes, tables = Footnotes(), []
    for title, chosen in columns(results):
        table = Table(title=f"\n{title} · {results.data} · {results.world}", title_justify="left", **STYLE)
        table.add_column("", min_width=12)
        table.add_column("steps", justify="right", no_wrap=True)
        table.add_column("cache", no_wrap=True)
        for column in chosen:
            table.add_column(column.heading, justify="right", no_wrap=True)
        for row, after in zip(results.rows, (*results.rows[1:], None), strict=True):
            texts = [escape(text) for text in heads(row) + cells(row, chosen, notes)]
            last = after is None or after.role != row.role
            table.add_row(*texts, end_section=last, style="bold" if row.role == "student" else None)
        tables.append(table)
    lines = [f"{ABSENT} [{number}] {reason}" for number, reason in enumerate(notes.reasons, start=1)]
    tables[-1].caption = escape("\n".join([caption(results), *lines]))
    tables[-1].caption_justify = "left"
    return tables


def verdict(statements: Sequence[Statement]) -> Table:
    """The targets as a table for a rich console."""
    judged = [entry.met for entry in statements if entry.met is not None]
    title = f"\nWhat it says: {sum(judged)} of {len(judged)} targets are met"
    table = Table(title=title, title_justify="left", **STYLE)
    for heading in ("", "found", "target", "met"):
        table.add_column(heading)
    colours = {True: "green", False: "red", None: "dim"}
    for entry in statements:
        word = _word(entry)
        table.add_row(escape(entry.subject), escape(entry.found), entry.target, f"[{colours[entry.met]}]{word}[/]")
    return table


def markdown(results: Results, targets: Targets | None) -> str:
    """The whole report; without targets, or a student for them to be about, the numbers only."""
    notes = Footnotes()
    how = [f"Made with {', '.join(results.extra['how'])}."] if results.extra.get("how") else []
    parts = [f"# {results.name} ({results.data})", *how, caption(results) + "."]
    for title, chosen in columns(results):
        head = ["", "steps", "cache", *(column.heading.replace("\n", " ") for column in chosen)]
        rows = [heads(row) + cells(row, chosen, notes) for row in results.rows]
        parts += [f"## {title}", grid(head, rows, left=(0, 2))]
    parts.append(_drift(results))
    if notes.reasons:
        parts.append("\n".join(f"{ABSENT} [{n}] {reason}  " for n, reason in enumerate(notes.reasons, start=1)))
    if targets is not None and results.of("student"):
        parts += ["## What it says", paragraph(results, judge(results, targets))]
    return "\n\n".join([*parts, _origin(results)]) + "\n"


def paragraph(results: Results, statements: Sequence[Statement]) -> str:
    """One sentence on how many targets are met, then every statement."""
    judged = [entry for entry in statements if entry.met is not None]
    met = sum(bool(entry.met) for entry in judged)
    open_ones = sum(entry.met is None and entry.target != "no target" for entry in statements)
    lead = f"{met} of {len(judged)} targets that could be judged are met, on {results.data} data"
    lead += f"; {open_ones} could not be judged." if open_ones else "."
    rows = [[entry.subject, entry.found, entry.target, _word(entry)] for entry in statements]
    return lead + "\n\n" + grid(["", "found", "target", "met"], rows, left=range(4))


def write_markdown(results: Results, targets: Targets | None, path: Path) -> None:
    """Writes `markdown` in one step."""
    write_whole(path, markdown(results, targets))


def _drift(results: Results) -> str:
    shown = [row for row in results.rows if row.drift]
    if not shown:
        return f"Drift ({results.drift_of} by generated frame) was not measured."
    length = max(len(row.drift) for row in shown)
    places = sorted({round(step * (length - 1) / 7) for step in range(8)})
    head = ["", "steps", "cache", *(f"+{place + 1}" for place in places)]
    rows = []
    for row in shown:
        values = [row.drift[place] if place < len(row.drift) else None for place in places]
        rows.append(heads(row) + [ABSENT if value is None else f"{value:.3g}" for value in values])
    return f"## Drift: {results.drift_of} by generated frame\n\n" + grid(head, rows, left=(0, 2))


def _origin(results: Results) -> str:
    extractor = results.extractor_hash or "none"
    return (
        f"`distance` is an unbiased kernel distance on features of a fixed random network (`kd_rand`, extractor "
        f"`{extractor[:12]}`): it can be compared with distances of the same extractor only, and with no published "
        f"FID or FVD. `floor` is that of real clips at the same number of clips, `excess` is distance − floor.\n\n"
        f"Revision `{results.revision}`, config `{results.config_hash}`, {results.seconds:.0f} s."
    )


def _word(entry: Statement) -> str:
    if entry.met is None:
        return ABSENT if entry.target == "no target" else "cannot be judged"
    return "yes" if entry.met else "no"


def grid(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[int]) -> str:
    """A Markdown table; the columns `left` are words, the others numbers."""
    sides = [":--" if place in left else "--:" for place in range(len(head))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, sides, *rows))
