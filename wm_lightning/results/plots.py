"""Columns of a table as pictures: a panel a column, means with intervals, every seed a dot."""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from wm_lightning.results.comparison import own_row, require_common
from wm_lightning.results.configs import Axis
from wm_lightning.results.curves import PALETTE
from wm_lightning.results.results import Row
from wm_lightning.results.seeds import Group
from wm_lightning.results.table import QUALITY, Column, heads

MARKERS = {"teacher": "o", "control": "s", "student": "D", "baseline": "^"}
BY_FRAME = (*QUALITY, Column("mse", "MSE", ".4f"))
MOST_TICKS = 13  # of an axis of numbers; of more, every second or third has one


@dataclass
class Line:
    """Places on the axis, and at each the rows of all seeds."""

    name: str
    role: str
    rows: dict[float, Sequence[Row]] = field(default_factory=dict)


def over_steps(group: Group, columns: Sequence[Column]) -> str | None:
    """The rows of one group over their denoising steps, as SVG; None where none has steps."""
    lines: dict[str, Line] = {}
    for rows in group.rows():
        if rows[0].steps is not None:
            name, _, cache = heads(rows[0])
            line = lines.setdefault(f"{name}, cache {cache}", Line(f"{name}, cache {cache}", rows[0].role))
            line.rows[float(rows[0].steps)] = rows
    return drawn(list(lines.values()), columns, Axis("denoising steps", ())) if lines else None


def over_horizon(group: Group) -> str | None:
    """Every measure of frames by generated frame, as SVG: the network made, the best teacher and the baselines.

    None where the results do not say, as old ones.
    """
    use, teachers, lines = group.first.deployed, 0, []
    for rows in group.rows():
        first = rows[0]
        teachers += first.role == "teacher"
        own = use is not None and (first.role, first.steps, first.cache_commit) == (use.role, use.steps, use.commit)
        best = first.role == "teacher" and teachers == 1
        if first.by_horizon and (own or best or first.role == "baseline"):
            name, steps, _ = heads(first)
            frames = max(map(len, first.by_horizon.values()))
            places: dict[float, Sequence[Row]] = {
                float(place): [row.at(place) for row in rows] for place in range(frames)
            }
            lines.append(Line(f"{name}, {steps} steps" if steps else name, first.role, places))
    return drawn(lines, BY_FRAME, Axis("generated frame", ())) if lines else None


def over_axis(found: Sequence[Group], columns: Sequence[Column], axis: Axis) -> str:
    """The network that each group made over what the groups differ in, as SVG.

    Raises ValueError where the groups may not be joined, as for another feature extractor.
    """
    require_common(found)
    line = Line("", "student")
    for place, group in enumerate(found):
        value = axis.values[place]
        where = value if isinstance(value, float) and axis.numeric else float(place)
        line.rows[where] = [own_row(run.results.deployed_row, str(run.path)) for run in group.runs]
    return drawn([line], columns, axis)


def drawn(lines: Sequence[Line], columns: Sequence[Column], axis: Axis) -> str:
    """A panel per column that has a number, three a row, as SVG whose text stays text."""
    shown = [column for column in columns if any(_has(line, column) for line in lines)]
    across, down = min(3, max(1, len(shown))), max(1, math.ceil(len(shown) / 3))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "wm_lightning"}):
        figure = Figure(figsize=(4.2 * across, 3.0 * down + 0.5), layout="constrained")
        FigureCanvasSVG(figure)
        for place, column in enumerate(shown, start=1):
            _panel(figure.add_subplot(down, across, place), lines, column, axis)
        if any(line.name for line in lines):
            handles, labels = figure.axes[0].get_legend_handles_labels() if figure.axes else ([], [])
            figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue().decode()
    return text[text.index("<svg") :]


def _panel(axes: Axes, lines: Sequence[Line], column: Column, axis: Axis) -> None:
    middles: list[float] = []
    for number, line in enumerate(lines):
        colour = PALETTE[number % len(PALETTE)]
        places = sorted(place for place, rows in line.rows.items() if _known(rows, column))
        means, below, above = [], [], []
        for place in places:
            values = [value for row in line.rows[place] if (value := _number(row, column)) is not None]
            mean = sum(values) / len(values)
            low, high = _interval(values, mean, line.rows[place][0], column)
            means.append(mean)
            below.append(mean - low)
            above.append(high - mean)
            if len(values) > 1:
                axes.plot([place] * len(values), values, ".", color=colour, alpha=0.35, markersize=5)
        style = {"color": colour, "marker": MARKERS[line.role], "markersize": 4, "linewidth": 1.2, "capsize": 2}
        # Names have no order, so nothing joins their values; a colour that comes again is dashed.
        style["linestyle"] = "none" if not _ordered(axis) else "-" if number < len(PALETTE) else "--"
        axes.errorbar(places, means, yerr=(below, above), label=line.name or None, **style)
        middles += means
    axes.set_title(column.heading.replace("\n", " "), fontsize=10, loc="left")
    axes.set_xlabel(axis.label, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if min(middles) > 0 and max(middles) > 20 * min(middles):
        axes.set_yscale("log")
    _ticks(axes, lines, axis)


def _ticks(axes: Axes, lines: Sequence[Line], axis: Axis) -> None:
    places = sorted({place for line in lines for place in line.rows})
    label: Callable[[float, int | None], str] = lambda value, _: f"{value:g}"  # noqa: E731
    if not _ordered(axis):
        names = dict(enumerate(axis.values))
        label = lambda value, _: str(names.get(round(value), ""))  # noqa: E731
    elif places[0] > 0 and places[-1] > 4 * places[0]:
        axes.set_xscale("log", base=2)
    shown = places[:: math.ceil(len(places) / MOST_TICKS)] if _ordered(axis) else places
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(label))
    if not _ordered(axis):
        for text in axes.get_xticklabels():
            text.set(rotation=30, horizontalalignment="right", rotation_mode="anchor")


def _ordered(axis: Axis) -> bool:
    return not axis.values or axis.numeric


def _interval(values: Sequence[float], mean: float, row: Row, column: Column) -> tuple[float, float]:
    """Standard deviation over seeds; for one seed the 95 % interval of the excess, where it was measured."""
    if len(values) > 1:
        deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
        return mean - deviation, mean + deviation
    low, high = row.distance_low, row.distance_high
    if column.name == "excess" and low is not None and high is not None:
        return min(mean, low * column.factor), max(mean, high * column.factor)
    return mean, mean


def _number(row: Row, column: Column) -> float | None:
    value = row.measured(column.name)
    return None if value is None else float(value) * column.factor


def _has(line: Line, column: Column) -> bool:
    return any(_known(rows, column) for rows in line.rows.values())


def _known(rows: Sequence[Row], column: Column) -> bool:
    return any(_number(row, column) is not None for row in rows)
