"""Results of protocols side by side: runs on equal clips share a table, other features have columns of their own."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from wm_lightning.results.curves import PALETTE
from wm_lightning.results.freshness import STALE, Freshness, freshness
from wm_lightning.results.seeds import Age, matching, of_protocol
from wm_lightning.results.table import grid

BESIDE = ("copy_last_frame", "reconstruction")
# What a measure and the features it was taken on are called: numbers of different features share no column.
Measure = tuple[str, str]


@dataclass(frozen=True)
class Score:
    """A number with its 95 % interval, and what real clips have, where these are known."""

    value: float
    low: float | None
    high: float | None
    floor: float | None


@dataclass(frozen=True)
class Scored:
    """One protocol's JSON, where it lies, and whether its code is still the code."""

    path: Path
    result: Mapping[str, Any]
    freshness: Freshness

    @property
    def name(self) -> str:
        """The run's name, that of its folder where the result has none, and its checkpoint, which no two runs share."""
        return f"{self.result.get('name', self.path.parent.name)} {self.result['checkpoint'][:8]}"

    @property
    def clips(self) -> tuple[Any, ...]:
        """What two runs must have in common to be compared: protocol, data, clips, scored frames and their size."""
        keys = ("protocol", "data", "simulated", "content", "index", "context", "frames")
        scored = (self.result["frames_scored"], self.result["video_frames"], self.result["resized"]["scored"])
        return (*(self.result[key] for key in keys), json.dumps(scored))

    def scores(self, of: str) -> dict[Measure, Score]:
        """What was measured of `model` or of something beside it; without what could not be measured."""
        entries = [(name, entry) for name, entry in self.result[of]["frames"].items()]
        entries += [(entry["name"], entry) for entry in self.result[of]["distances"]]
        found = {
            (name, entry["extractor"] or ""): _score(entry)
            for name, entry in entries
            if entry.get("mean", entry.get("value")) is not None
        }
        return found | (_driven(self.result.get("actions")) if of == "model" else {})


def read_protocols(patterns: Sequence[str], *, root: Path, age: Age = freshness) -> tuple[Scored, ...]:
    """The protocol_*.json that paths or globs lead to, relative to `root`: files, or run folders that hold some.

    Raises ValueError for a file that is no result of a protocol.
    """
    files: dict[Path, None] = {}
    for pattern in patterns:
        for path in matching(pattern, root):
            files |= dict.fromkeys(sorted(path.glob("protocol_*.json")) if path.is_dir() else [path])
    return tuple(_read(path, age) for path in files if of_protocol(path))


def protocol_groups(found: Sequence[Scored]) -> list[list[Scored]]:
    """Runs that may stand in one table."""
    groups: dict[tuple[Any, ...], list[Scored]] = {}
    for scored in found:
        groups.setdefault(scored.clips, []).append(scored)
    return list(groups.values())


def protocol_table(group: Sequence[Scored]) -> str:
    """A line per run, the baselines of the first and the floors of real clips; a column per measure and features."""
    first = group[0].result
    measures = list(dict.fromkeys(measure for scored in group for measure in scored.scores("model")))
    lines = [
        [f"{scored.name} {STALE}" if scored.freshness.stale else scored.name]
        + [_text(scored.scores("model").get(measure)) for measure in measures]
        for scored in group
    ]
    for scored in group:
        for of in BESIDE if scored is group[0] else BESIDE[1:]:
            if of in scored.result:
                shown = of.replace("_", " ") + ("" if of == BESIDE[0] else f" of {scored.name}")
                lines.append([shown, *(_text(scored.scores(of).get(measure)) for measure in measures)])
    floors = group[0].scores("model")
    lines.append(["real clips (floor)", *(_floor(floors.get(measure)) for measure in measures)])
    kind = "simulated" if first["simulated"] else "real"
    caption = (
        f"**{first['protocol']}**, {kind} data ({first['data']}) · {first['clips']} of {first['clips_asked']} clips, "
        f"list `{first['index'][:12]}` · {first['context']} of {first['frames']} frames given · 95 % intervals"
    )
    departures = [
        f"- {text}" for text in dict.fromkeys(text for scored in group for text in scored.result["departures"])
    ]
    said = "\n".join(["Not the paper's numbers:\n", *departures]) if departures else ""
    head = ["", *(_heading(measure, measures) for measure in measures)]
    ages = [f"**Stale** ({scored.name}): {scored.freshness.reason}." for scored in group if scored.freshness.stale]
    return "\n\n".join(filter(None, [caption, grid(head, lines, left=range(1)), said, *ages]))


def protocol_plot(group: Sequence[Scored]) -> str:
    """A panel per measure with a dot per run and its interval, and a line where real clips lie, as SVG."""
    measures = list(dict.fromkeys(measure for scored in group for measure in scored.scores("model")))
    across = min(3, len(measures))
    down = -(-len(measures) // across)
    figure = Figure(figsize=(4.2 * across, (0.9 + 0.35 * len(group)) * down), layout="constrained")
    for place, measure in enumerate(measures):
        axes = figure.add_subplot(down, across, place + 1)
        axes.set_title(_heading(measure, measures), fontsize=9)
        axes.set_yticks(range(len(group)), [scored.name for scored in group], fontsize=8)
        axes.invert_yaxis()
        for row, scored in enumerate(group):
            if (score := scored.scores("model").get(measure)) is None:
                continue
            if score.low is not None and score.high is not None:
                axes.hlines(row, score.low, score.high, color=PALETTE[0])
            axes.plot(score.value, row, "o", color=PALETTE[0])
            if score.floor is not None:
                axes.axvline(score.floor, color=PALETTE[1], linewidth=0.8)
    written = io.StringIO()
    FigureCanvasSVG(figure).print_svg(written, metadata={"Date": None})
    return written.getvalue()[written.getvalue().index("<svg") :]


def _read(path: Path, age: Age) -> Scored:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        scored = Scored(path, result, age(result["revision"], result.get("code")))
        _ = scored.name, scored.clips, scored.scores("model"), result["departures"], result["clips_asked"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no result of a protocol ({error!r}); task=evaluate protocol=NAME writes one"
        ) from error
    return scored


def _score(entry: Mapping[str, Any]) -> Score:
    low, high = entry.get("low"), entry.get("high")
    if "excess" in entry and low is not None:  # these bound what lies above the floor
        low, high = low + entry["floor"], high + entry["floor"]
    return Score(entry.get("mean", entry.get("value")), low, high, entry.get("floor"))


def _driven(actions: Mapping[str, Any] | None) -> dict[Measure, Score]:
    """Action fidelity; of the gap also the interval of 1.96 standard errors."""
    means = {} if actions is None else actions["means"]
    error = means.get("action_gap_error")
    found = {}
    for name, value in means.items():
        if value is not None and name != "action_gap_error":
            half = 1.96 * error if name == "action_gap" and error is not None else None
            bounds = (None, None) if half is None else (value - half, value + half)
            found[name, ""] = Score(value, *bounds, None)
    return found


def _heading(measure: Measure, measures: Sequence[Measure]) -> str:
    name, extractor = measure
    several = sum(other == name for other, _ in measures) > 1
    return f"{name.replace('_', ' ')} [{extractor[:6]}]" if several else name.replace("_", " ")


def _text(score: Score | None) -> str:
    if score is None:
        return "–"
    interval = "" if score.low is None else f" ({score.low:.4g} to {score.high:.4g})"
    return f"{score.value:.4g}{interval}"


def _floor(score: Score | None) -> str:
    return "–" if score is None or score.floor is None else f"{score.floor:.4g}"
