"""Several experiments in one table: a line for each, of the network it made, used as it was trained."""

from collections.abc import Callable, Sequence
from typing import Any

from wm_lightning.results.results import Row
from wm_lightning.results.seeds import Group, spread
from wm_lightning.results.table import Column

HEAD = ("", "chunk", "steps", "cache", "seeds")
# Numbers mean the same only where these are equal.
_COMMON: dict[str, Callable[[Group], Any]] = {
    "world": lambda group: (group.first.data, group.first.world),
    "clips, given and generated frames": lambda group: (
        group.first.clips, group.first.context, group.first.horizon,
    ),
    "feature extractor": lambda group: group.first.extractor_hash,
}  # fmt: skip


def _require_one_scale(found: Sequence[Group]) -> None:
    """Raises ValueError where real clips of one seed have other distances from one another: features were then scaled
    by other training clips, or other test clips were drawn, and distances say nothing beside each other."""
    floors: dict[int, tuple[float, str]] = {}
    for run in (run for group in found for run in group.runs if run.results.distance_floor is not None):
        own, path = float(run.results.distance_floor), str(run.path)  # pyright: ignore[reportArgumentType]
        first, other = floors.setdefault(run.results.seed, (own, path))
        if abs(own - first) > 0.01 * max(abs(own), abs(first), 1e-3):
            raise ValueError(
                f"these runs cannot stand in one table: among real clips the distance is {first:.4g} in {other} and "
                f"{own:.4g} in {path}, so other clips were drawn or set its scale; measure both on the same data "
                f"(same episodes and shares, same data.on_error)"
            )


def require_common(found: Sequence[Group]) -> None:
    """Raises ValueError, naming the runs, where numbers of these groups do not mean the same."""
    for what, get in _COMMON.items():
        if len({get(group) for group in found}) > 1:
            kinds = "; ".join(f"{group.runs[0].path}: {get(group)}" for group in found)
            raise ValueError(f"these runs cannot stand in one table, their {what} differ: {kinds}")
    _require_one_scale(found)


def lines(found: Sequence[Group], chosen: Sequence[Column], mark: str) -> list[list[str]]:
    """A line per group, mean ± standard deviation over its seeds; `mark` is put where its code is newer.

    Groups of one name stand together, the most steps first.

    Raises ValueError where groups cannot be compared, or a run does not say which row is its own.
    """
    require_common(found)
    place = {name: number for number, name in enumerate(dict.fromkeys(group.first.name for group in found))}
    ordered = sorted(found, key=lambda group: (place[group.first.name], -_steps(group)))
    return [_line(group, chosen, mark) for group in ordered]


def _steps(group: Group) -> int:
    own = group.first.deployed_row
    return 0 if own is None else own.steps or 0


def baseline_lines(group: Group, names: Sequence[str], chosen: Sequence[Column]) -> list[list[str]]:
    """A line per baseline of a group's runs; it is that of every group that was measured on the same clips.

    Raises ValueError for a baseline that was not measured.
    """
    lines = []
    for name in names:
        rows = [row for run in group.runs for row in run.results.of("baseline") if row.name == name]
        if not rows:
            raise ValueError(f"{group.runs[0].path} has no baseline {name!r}; name others in task.ladder.baselines")
        lines.append([f"baseline: {name}", "", "", "", str(len(rows)), *_cells(rows, chosen)])
    return lines


def _line(group: Group, chosen: Sequence[Column], mark: str) -> list[str]:
    rows = [own_row(run.results.deployed_row, str(run.path)) for run in group.runs]
    first = rows[0]
    name = f"{group.label} {mark}" if group.stale else group.label
    texts = [name, str(group.first.chunk), str(first.steps), str(first.cache_commit), str(len(rows))]
    return [*texts, *_cells(rows, chosen)]


def _cells(rows: Sequence[Row], chosen: Sequence[Column]) -> list[str]:
    texts = []
    for column in chosen:
        value = spread(rows, column.name)
        text = "–" if value is None else format(value.mean * column.factor, column.form)
        if value is not None and value.deviation is not None:
            text += f" ± {format(value.deviation * column.factor, column.form)}"
        texts.append(text)
    return texts


def own_row(row: Row | None, path: str) -> Row:
    """The row of the network a run made. Raises ValueError, naming the run, where it is not known."""
    if row is None:
        raise ValueError(f"{path} does not say which row is the network it made; run task=evaluate on it again")
    return row
