"""Curves of a training as PNG files, from a logger's metrics.csv or from plain lists."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

PALETTE = ("#3366aa", "#cc5533", "#448844", "#885599", "#997722", "#557788")


@dataclass(frozen=True)
class Curve:
    """One line: name and points, x ascending."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Level:
    """A horizontal line: something measured once, for comparison."""

    name: str
    value: float


@dataclass(frozen=True)
class Panel:
    """Curves that share their axes. `y_label` says what they are in, `levels` are what they are compared with."""

    title: str
    curves: tuple[Curve, ...]
    x_label: str = ""
    log: bool = False
    y_label: str = ""
    levels: tuple[Level, ...] = ()


def read_curves(path: Path, x: str) -> tuple[Curve, ...]:
    """One curve per logged quantity of a Lightning `metrics.csv`, over its column `x`.

    Lightning leaves cells empty where a quantity was not logged, and adds rows of different quantities at the
    same x. Raises ValueError where the file or that column is missing.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: curves are drawn from a run's metrics.csv (logger=csv)")
    points: dict[str, list[tuple[float, float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if x not in (reader.fieldnames or ()):
            raise ValueError(f"{path} has no column {x!r}: expected one of {', '.join(reader.fieldnames or ())}")
        for row in reader:
            place = _number(row[x])
            for name, cell in row.items():
                value = _number(cell)
                if name not in (x, "epoch", "step") and place is not None and value is not None:
                    points.setdefault(name, []).append((place, value))
    lines = ((name, sorted(pairs)) for name, pairs in points.items())
    return tuple(Curve(name, tuple(p for p, _ in pairs), tuple(v for _, v in pairs)) for name, pairs in lines)


def panels(curves: Sequence[Curve], groups: Mapping[str, Sequence[str]], x_label: str) -> tuple[Panel, ...]:
    """Sorts curves into panels by the names that each title lists; titles without a curve are left out."""
    named = {curve.name: curve for curve in curves}
    chosen = ((title, tuple(named[name] for name in names if name in named)) for title, names in groups.items())
    return tuple(Panel(title, found, x_label) for title, found in chosen if found)


def draw_curves(path: Path, shown: Sequence[Panel], caption: str) -> None:
    """Writes a PNG with up to three panels a row. Raises ValueError where there is nothing to draw."""
    if not shown:
        raise ValueError(f"no panel to draw for {path}: nothing was logged under the names asked for")
    across = min(3, len(shown))
    down = math.ceil(len(shown) / across)
    # Figure without pyplot: no window, no backend chosen and nothing kept alive for the caller.
    figure = Figure(figsize=(max(4.4 * across, 6.0), 3.1 * down + 0.4), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    figure.suptitle(caption, fontsize=10, x=0.01, ha="left")
    for place, panel in enumerate(shown):
        _draw(figure.add_subplot(down, across, place + 1), panel)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


def _draw(axes: Axes, panel: Panel) -> None:
    for number, curve in enumerate(panel.curves):
        marker = "o" if len(curve.x) < 25 else None
        colour = PALETTE[number % len(PALETTE)]
        axes.plot(curve.x, curve.y, label=curve.name, color=colour, marker=marker, markersize=3, linewidth=1.3)
    for number, level in enumerate(panel.levels):
        colour = PALETTE[(len(panel.curves) + number) % len(PALETTE)]
        axes.axhline(level.value, label=level.name, color=colour, linestyle="--", linewidth=1.0)
    axes.set_title(panel.title, fontsize=10, loc="left")
    axes.set_xlabel(panel.x_label, fontsize=9)
    axes.set_ylabel(panel.y_label or (panel.curves[0].name if len(panel.curves) == 1 else ""), fontsize=8)
    axes.tick_params(labelsize=8, which="both")
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if panel.log:
        # Plain numbers at 1, 2 and 5: powers of ten alone leave a panel of one decade without a number.
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    if len(panel.curves) + len(panel.levels) > 1:
        axes.legend(fontsize=7, frameon=False)


def _number(cell: str | None) -> float | None:
    if not cell:
        return None
    value = float(cell)
    return value if math.isfinite(value) else None
