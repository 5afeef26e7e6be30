"""The curves of a training, drawn from what its csv logger wrote."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from wm_lightning.results.curves import Curve, Level, Panel, draw_curves, panels, read_curves
from wm_lightning.results.results import Results

log = logging.getLogger(__name__)

X = "iteration"
# One measure a panel: they share no unit.
GROUPS = {
    "Loss": ["train/loss"],
    "Validation: loss": ["val/loss"],
    "Initialisation": ["train/init"],
    "Student": ["train/student"],
    "Critic": ["train/critic"],
    "Gap between the scores": ["train/score_gap"],
    "Validation: score": ["val/score"],
    "Validation: excess distance": ["val/excess"],
    "Validation: action error": ["val/action_error"],
    "Validation: object error": ["val/object_error"],
    "Validation: presence": ["val/presence"],
    "Validation: PSNR (dB)": ["val/psnr"],
    "Rollouts: task done": ["train/task_met"],
    "Rollouts: held together": ["train/consistency_met"],
    "Distance to the demonstrator": ["train/gap"],
    "Validation: task done": ["val/task_met"],
    "Validation: held together": ["val/consistency_met"],
}


# What a panel's numbers are.
UNITS = {
    "train/loss": "loss", "val/loss": "loss", "train/init": "loss", "train/student": "loss", "train/critic": "loss",
    "train/score_gap": "mean absolute difference", "val/score": "less is better",
    "val/excess": "kernel distance above that of real clips", "val/action_error": "in the world's unit",
    "val/object_error": "in the world's unit", "val/presence": "share, 0 to 1", "val/psnr": "dB",
    "train/task_met": "share, 0 to 1", "train/consistency_met": "share, 0 to 1", "val/task_met": "share, 0 to 1",
    "val/consistency_met": "share, 0 to 1", "train/gap": "mean squared difference of velocities",
}  # fmt: skip


def draw_run_curves(run_dir: Path, caption: str, results: Results | None = None) -> Path | None:
    """Writes `curves.png` into the run folder; None, said in the log, where nothing was logged.

    Every start of a run has its own metrics.csv; where a continued run repeats iterations, its values stand. Where
    `results` are known, controls and teacher are lines of what they reach on the test clips.
    """
    files = sorted((run_dir / "csv").rglob("metrics.csv"), key=lambda path: path.stat().st_mtime)
    shown = panels(tuple(joined([curves_of(path) for path in files]).values()), GROUPS, X)
    if not shown:
        log.info("No curves: no metrics.csv in %s has values over a column %r", run_dir / "csv", X)
        return None
    path = run_dir / "curves.png"
    drawn = tuple(explained(with_log_axis(panel), results) for panel in shown)
    draw_curves(path, drawn, caption + dashed(drawn))
    return path


def dashed(drawn: Sequence[Panel]) -> str:
    """What the caption says of lines of what is reached on the test clips, where there are any."""
    return "; dashed: measured on the test clips" if any(panel.levels for panel in drawn) else ""


def explained(panel: Panel, results: Results | None) -> Panel:
    """The panel with its unit, and with what controls and the teacher reach, where that is measured."""
    names = [curve.name for curve in panel.curves]
    return replace(panel, y_label=UNITS.get(names[0], ""), levels=levels(names[0], results))


def levels(name: str, results: Results | None) -> tuple[Level, ...]:
    """The controls at the steps of the network that was trained, and the teacher at its most steps."""
    use = None if results is None else results.deployed
    if results is None or use is None or use.role != "student" or not name.startswith("val/"):
        return ()
    teachers = [row for row in results.of("teacher") if row.cached and row.cache_commit == "clean"]
    most = sorted(teachers, key=lambda row: row.steps or 0)[-1:]
    rows = [*(row for row in results.of("control") if row.steps == use.steps), *most]
    known = [(row, row.measured(name.removeprefix("val/"))) for row in rows if name != "val/score"]
    return tuple(Level(f"{row.name}, {row.steps} steps", float(value)) for row, value in known if value is not None)


def final_losses(run_dir: Path) -> dict[str, float]:
    """Where the losses of a run's training ended: `train`, the mean over its last tenth, and `val`, the last one.

    Empty where nothing was logged.
    """
    files = sorted((run_dir / "csv").rglob("metrics.csv"), key=lambda path: path.stat().st_mtime)
    curves = joined([curves_of(path) for path in files])
    values = {name: curves[f"{name}/loss"].y for name in ("train", "val") if f"{name}/loss" in curves}
    tail = {"train": 0.1, "val": 0.0}
    return {name: fmean(y[-max(1, round(tail[name] * len(y))) :]) for name, y in values.items()}


def curves_of(path: Path) -> tuple[Curve, ...]:
    """The curves of one file; none where it holds no iteration, as after a run too short to log."""
    with path.open(encoding="utf-8") as file:
        named = X in file.readline().strip().split(",")
    return read_curves(path, X) if named else ()


def joined(starts: list[tuple[Curve, ...]]) -> dict[str, Curve]:
    """The curves of several starts of one run, by name; a later start replaces what came after its beginning."""
    found: dict[str, Curve] = {}
    for curves in starts:
        begin = min((curve.x[0] for curve in curves), default=float("inf"))
        for name, curve in found.items():
            kept = sum(x < begin for x in curve.x)
            found[name] = Curve(name, curve.x[:kept], curve.y[:kept])
        for curve in curves:
            old = found.get(curve.name, Curve(curve.name, (), ()))
            found[curve.name] = Curve(curve.name, old.x + curve.x, old.y + curve.y)
    return found


def with_log_axis(panel: Panel) -> Panel:
    """The panel on a logarithmic axis where its values are positive and span more than a decade."""
    values = [value for curve in panel.curves for value in curve.y]
    wide = bool(values) and min(values) > 0 and max(values) > 10 * min(values)
    return replace(panel, log=wide)
