"""A ladder of experiments: each against the one below it over seeds, beside what others have published of theirs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from wm_lightning.results.curves import Curve, Panel, draw_curves
from wm_lightning.results.results import Number, Results
from wm_lightning.results.seeds import Group, spread

# Two-sided 95 % quantiles of Student's t by degrees of freedom; for more than nine the last one, which is cautious.
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
# How the row of a network that was driven by another clip's actions begins.
SHUFFLED = "shuffled actions"
VERDICTS = {True: "supported", False: "contradicted", None: "open"}


@dataclass(frozen=True, kw_only=True)
class Claim:
    """That `better` has less of the measure `by` than `than`, both experiments, at their own steps or as NAME@STEPS.

    `by` is a column, or `train_loss`. With a `margin` the claim is that `better` is comparable: less than 1 + margin
    times as much.
    """

    says: str
    better: str
    than: str
    by: str
    margin: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """`baselines` are rows of that role shown below the rungs; `published` maps rungs to what `source` says of them.

    `steps_of` are measures of the experiments `drawn`, drawn against the number of steps, into `picture` where that
    names a file. `gains` are measures whose change is told against the same network driven by another clip's actions.
    """

    baselines: Sequence[str]
    published: Mapping[str, Mapping[str, Number | str]]
    source: str
    claims: Sequence[Claim | Mapping[str, Any]]
    steps_of: Sequence[str]
    drawn: Sequence[str]
    picture: str | None
    gains: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("baselines", "steps_of", "drawn", "claims", "gains"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @property
    def judged(self) -> tuple[Claim, ...]:
        """The claims, which files give as plain values."""
        return tuple(claim if isinstance(claim, Claim) else Claim(**claim) for claim in self.claims)


@dataclass(frozen=True)
class Difference:
    """Mean of `better` minus `than` over `seeds`, with its 95 % interval (t); `than` counts 1 + margin times."""

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def verdict(self) -> bool | None:
        """True where all of the interval lies below 0, False where all lies above, None otherwise."""
        return True if self.high < 0 else False if self.low > 0 else None


def difference(claim: Claim, found: Sequence[Group]) -> Difference | None:
    """The claim's paired difference over the seeds that both have; None where fewer than two have it."""
    better, than = (_values(name, claim.by, found) for name in (claim.better, claim.than))
    seeds = sorted(better.keys() & than.keys())
    if len(seeds) < 2:
        return None
    gaps = [better[seed] - (1 + claim.margin) * than[seed] for seed in seeds]
    half = T95[min(len(gaps) - 1, len(T95)) - 1] * stdev(gaps) / len(gaps) ** 0.5
    return Difference(fmean(gaps), fmean(gaps) - half, fmean(gaps) + half, len(seeds))


def claim_lines(ladder: Ladder, found: Sequence[Group]) -> list[list[str]]:
    """A line per claim: what it says, the measure, the difference with its interval, the verdict."""
    lines = []
    for claim in ladder.judged:
        gap = difference(claim, found)
        factor = f"{1 + claim.margin:g} × " if claim.margin else ""
        pair = f"{claim.better} − {factor}{claim.than}, {claim.by.replace('_', ' ')}"
        if gap is None:
            lines.append([claim.says, pair, _why_no_gap(claim, found), "–"])
        else:
            text = f"{gap.mean:+.4f} ({gap.low:+.4f} to {gap.high:+.4f}, {gap.seeds} seeds)"
            lines.append([claim.says, pair, text, VERDICTS[gap.verdict]])
    return lines


def _why_no_gap(claim: Claim, found: Sequence[Group]) -> str:
    """A single seed has a difference and no interval, which is what a claim is judged by."""
    better, than = (_values(name, claim.by, found) for name in (claim.better, claim.than))
    return "one seed, no interval" if better.keys() & than.keys() else "not measured"


def loss_lines(found: Sequence[Group]) -> list[list[str]]:
    """A line per rung: losses where the training ended, and the duration of a run, mean over seeds."""
    lines = []
    for group in found:
        losses = [run.results.extra.get("losses", {}) for run in group.runs]
        texts = [_mean([loss[key] for loss in losses if key in loss], ".4f") for key in ("train", "val")]
        lines.append([group.label, *texts, _mean([float(run.results.seconds) for run in group.runs], ".0f")])
    return lines


def gain_lines(ladder: Ladder, found: Sequence[Group]) -> list[list[str]]:
    """A line per rung: by how many per cent each measure differs from that under another clip's actions, over seeds.

    (M(true) − M(other)) / M(other), Vid2World (2505.14357), table 4.
    """
    lines = []
    for group in found:
        gains = [[gain for run in group.runs for gain in _gain(run.results, name)] for name in ladder.gains]
        lines.append([group.label, *(_mean(values, "+.1f") for values in gains)])
    return lines


def _gain(results: Results, measure: str) -> list[float]:
    other = next((row for row in results.of("baseline") if row.name.startswith(SHUFFLED)), None)
    own = results.deployed_row
    if own is None or other is None:
        return []
    true, random = own.measured(measure), other.measured(measure)
    return [] if true is None or not random else [100 * (true - random) / abs(random)]


def published_lines(ladder: Ladder) -> list[list[str]]:
    """A heading of the published columns, and a line per rung; a dash where nothing is said."""
    names = list(dict.fromkeys(name for said in ladder.published.values() for name in said))
    lines = [[rung, *(str(said.get(name, "–")) for name in names)] for rung, said in ladder.published.items()]
    return [["published", *names], *lines]


def draw_steps(path: Path, ladder: Ladder, found: Sequence[Group]) -> None:
    """Writes a PNG: every measure of `steps_of` against the number of steps, a curve per experiment."""
    panels = []
    for measure in ladder.steps_of:
        curves = [_by_steps(group, measure) for group in found if group.label in ladder.drawn]
        shown = tuple(curve for curve in curves if len(curve.x) > 1)
        positive = min((y for curve in shown for y in curve.y), default=0.0) > 0
        panels.append(Panel(measure.replace("_", " "), shown, "steps", log=positive))
    first = found[0].first
    draw_curves(path, panels, f"{first.world} ({first.data} data), mean over seeds")


def _by_steps(group: Group, measure: str) -> Curve:
    points = {}
    for rows in group.rows():
        value = spread(rows, measure)
        if rows[0].role == "teacher" and rows[0].steps is not None and value is not None:
            points[rows[0].steps] = value.mean
    steps = sorted(points)
    return Curve(group.label, tuple(map(float, steps)), tuple(points[step] for step in steps))


def _values(name: str, measure: str, found: Sequence[Group]) -> dict[int, float]:
    experiment, _, steps = name.partition("@")
    runs = [run.results for group in found if group.label == experiment for run in group.runs]
    values = {results.seed: _value(results, measure, int(steps) if steps else None) for results in runs}
    return {seed: value for seed, value in values.items() if value is not None}


def _value(results: Results, measure: str, steps: int | None) -> float | None:
    if measure == "train_loss":
        return results.extra.get("losses", {}).get("train")
    own = results.deployed_row
    rows = [row for row in results.rows if row.role == "teacher" and row.steps == steps] if steps else [own]
    values = [row.measured(measure) for row in rows if row is not None]
    return next((float(value) for value in values if value is not None), None)


def _mean(values: Sequence[float], form: str) -> str:
    if not values:
        return "–"
    spread_of = f" ± {format(stdev(values), form)}" if len(values) > 1 else ""
    return format(fmean(values), form) + spread_of
