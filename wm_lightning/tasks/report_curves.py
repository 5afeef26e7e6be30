"""Curves of executors' trainings side by side, from what their runs logged."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from wm_lightning.results.curves import Curve, Level, Panel, draw_curves
from wm_lightning.results.freshness import STALE
from wm_lightning.results.role_runs import RoleGroup
from wm_lightning.tasks.curves import X, curves_of, joined

# What is drawn, and which of the demonstrator's rates on the test tasks stands beside it.
DRAWN = {
    "Validation: task done": ("val/task_met", "task"),
    "Validation: held together": ("val/consistency_met", "consistency"),
    "Rollouts: task done": ("train/task_met", None),
    "Rollouts: held together": ("train/consistency_met", None),
}


def draw_role_curves(found: Sequence[RoleGroup], path: Path) -> Path | None:
    """A panel a measure and a curve a group, the mean over its seeds; None where no run lies beside its log."""
    # That a row is stale is a matter of tables.
    names = [group.label.removesuffix(f" {STALE}") for group in found]
    logged = {name: [_logged(run.path.parent) for run in group.runs] for name, group in zip(names, found, strict=True)}
    panels = []
    for title, (name, criterion) in DRAWN.items():
        curves = [curve for label, runs in logged.items() if (curve := mean_of(label, name, runs)) is not None]
        if curves:
            levels = () if criterion is None else _levels(found, criterion)
            panels.append(Panel(title, tuple(curves), X, y_label="share, 0 to 1", levels=levels))
    if not panels:
        return None
    draw_curves(path, panels, "means over seeds; dashed: the demonstrator on the test tasks")
    return path


def mean_of(label: str, name: str, runs: Sequence[dict[str, Curve]]) -> Curve | None:
    """The mean over the runs that logged a measure, at the iterations that all of them have."""
    curves = [dict(zip(run[name].x, run[name].y, strict=True)) for run in runs if name in run]
    places = sorted(set.intersection(*map(set, curves))) if curves else []
    return Curve(label, tuple(places), tuple(fmean(run[x] for run in curves) for x in places)) if places else None


def _levels(found: Sequence[RoleGroup], criterion: str) -> tuple[Level, ...]:
    rates = [getattr(row, criterion) for group in found for row in group.rows("demonstrator")]
    known = [rate for rate in rates if rate is not None]
    return (Level("demonstrator", fmean(known)),) if known else ()


def _logged(folder: Path) -> dict[str, Curve]:
    files = sorted((folder / "csv").rglob("metrics.csv"), key=lambda path: path.stat().st_mtime)
    return joined([curves_of(path) for path in files])
