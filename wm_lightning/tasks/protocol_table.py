"""The table that a protocol prints."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def show(result: Mapping[str, Any], console: Console) -> None:
    """The result in a table: model with its interval, baseline, floor, N and extractor."""
    kind = "simulated" if result["simulated"] else "real"
    table = Table(
        title=f"{result['protocol']}: {result['clips']} of {result['clips_asked']} clips, {result['data']} ({kind})"
    )
    beside = [name for name in ("copy_last_frame", "reconstruction") if name in result]
    for column in ("", "model", "95 %", *(name.replace("_", " ") for name in beside), "floor", "features"):
        table.add_column(column, justify="left" if column in ("", "features") else "right")
    for name, entry in result["model"]["frames"].items():
        others = [_text(result[other]["frames"][name]["mean"]) for other in beside]
        row = (_text(entry["mean"]), _interval(entry), *others, "")
        table.add_row(name, *row, (entry["extractor"] or "")[:12])
    for place, entry in enumerate(result["model"]["distances"]):
        others = [_text(result[other]["distances"][place]["value"]) for other in beside]
        row = (_text(entry["value"]), _interval(entry), *others, _text(entry["floor"]))
        table.add_row(entry["name"], *row, entry["extractor"][:12])
    for name, value in (result["actions"] or {"means": {}})["means"].items():
        table.add_row(name.replace("_", " "), _text(value))
    console.print(table)
    for name, reason in result["missing"].items():
        console.print(f"{name}: {reason}")


def _interval(entry: Mapping[str, Any]) -> str:
    if entry["low"] is None:
        return ""
    return f"{_text(entry['low'])} .. {_text(entry['high'])}" + (" (excess)" if "excess" in entry else "")


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
