"""What a run measured: one row per generator, as plain values that survive a trip through JSON."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

Number = float | int
ROLES = ("teacher", "control", "student", "baseline")
DATA = ("simulated", "real")

# Columns that hold one measured number each; a null in one of them carries a reason.
MEASURED = (
    "psnr",
    "ssim",
    "perceptual",
    "frames_distance",
    "action_error",
    "object_error",
    "presence",
    "distance",
    "distance_floor",
    "distance_low",
    "distance_high",
    "nfe",
    "fps_b1",
    "fps_b16",
    "first_frame_latency",
    "peak_memory",
)


# What tells one generator from another.
HEAD = ("role", "name", "steps", "cached", "cache_commit")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One generator of video and what was measured of it.

    `psnr` in dB; `perceptual` and `frames_distance` are the formulas of LPIPS and FID on the suite's random features
    (null in results older than them); `action_error`, `object_error` in the world's unit; `presence` a share 0..1;
    `distance_low` and `distance_high` bound the excess (distance minus floor, 95 %); `nfe` forwards per
    chunk, the commit included; `fps_b1`, `fps_b16` generated frames per second at batch 1 and 16 with a full
    window, summed over the batch; `first_frame_latency` in seconds; `peak_memory` in MiB; `drift` one value per
    generated frame (`Results.drift_of` says of what); `by_horizon` the same of every measure of frames by its name,
    `mse` of pixels in [0, 1] among them (empty in results older than it); `extra` further numbers by name. `reasons`
    says by column why a number is None. A number that is not finite is stored as None with a reason.
    """

    role: str
    name: str
    steps: int | None
    cached: bool | None
    cache_commit: str | None
    psnr: Number | None = None
    ssim: Number | None = None
    perceptual: Number | None = None
    frames_distance: Number | None = None
    action_error: Number | None = None
    object_error: Number | None = None
    presence: Number | None = None
    distance: Number | None = None
    distance_floor: Number | None = None
    distance_low: Number | None = None
    distance_high: Number | None = None
    nfe: Number | None = None
    fps_b1: Number | None = None
    fps_b16: Number | None = None
    first_frame_latency: Number | None = None
    peak_memory: Number | None = None
    drift: tuple[Number | None, ...] = ()
    by_horizon: Mapping[str, tuple[Number | None, ...]] = field(default_factory=dict)
    extra: Mapping[str, Number | None] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"role {self.role!r} of row {self.name!r}: expected one of {', '.join(ROLES)}")
        reasons = dict(self.reasons)
        for name in MEASURED:
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                object.__setattr__(self, name, None)
                reasons.setdefault(name, "undefined on these clips")
            elif value is None:
                reasons.setdefault(name, "not measured")
        extra = {name: _finite(value) for name, value in self.extra.items()}
        for name, value in extra.items():
            if value is None:
                reasons.setdefault(name, "undefined on these clips")
        object.__setattr__(self, "drift", tuple(_finite(value) for value in self.drift))
        by_horizon = {name: tuple(map(_finite, values)) for name, values in self.by_horizon.items()}
        object.__setattr__(self, "by_horizon", by_horizon)
        object.__setattr__(self, "extra", extra)
        object.__setattr__(self, "reasons", reasons)

    @property
    def excess(self) -> Number | None:
        """Distance above what real clips reach at the same number of clips; None where not measured."""
        if self.distance is None or self.distance_floor is None:
            return None
        return self.distance - self.distance_floor

    def measured(self, name: str) -> Number | None:
        """The number in a column or in `extra`; None where it is absent."""
        if name == "excess":
            return self.excess
        return getattr(self, name) if name in MEASURED else self.extra.get(name)

    def at(self, place: int) -> "Row":
        """The row as of one generated frame alone: what `by_horizon` has of it, and no other number."""
        values = {name: frames[place] for name, frames in self.by_horizon.items() if place < len(frames)}
        known = {name: value for name, value in values.items() if name in MEASURED}
        others = {name: value for name, value in values.items() if name not in MEASURED}
        shown: dict[str, Any] = {name: getattr(self, name) for name in HEAD} | known
        return Row(**shown, extra=others)

    def why(self, name: str) -> str | None:
        """The reason why a column is null; None where it is not."""
        if self.measured(name) is not None:
            return None
        return self.reasons.get("distance" if name == "excess" else name, "not measured")


@dataclass(frozen=True)
class Use:
    """How a network was trained to be used: `role`, denoising `steps`, and the mode its frames are committed with
    (None: it keeps no cache)."""

    role: str
    steps: int
    commit: str | None


@dataclass(frozen=True, kw_only=True)
class Results:
    """All rows of one run on one machine, with what is needed to say where they come from.

    `data` is "simulated" or "real"; `seconds` the wall time of the whole run; `clips` the number of test
    clips; `context` and `horizon` count given and generated frames; `presence_truth` is the presence in the
    real clips. `deployed` says which row is the network this run made. `extractor_hash` names the features of
    the distance: only equal hashes may be compared.
    """

    rows: tuple[Row, ...]
    name: str
    data: str
    world: str
    config_hash: str
    revision: str
    seconds: Number
    seed: int
    clips: int
    context: int
    horizon: int
    chunk: int
    drift_of: str
    machine: str
    extractor_hash: str | None = None
    distance_floor: Number | None = None
    presence_truth: Number | None = None
    deployed: Use | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.data not in DATA:
            raise ValueError(f"data {self.data!r} of results {self.name!r}: expected one of {', '.join(DATA)}")
        object.__setattr__(self, "rows", tuple(self.rows))
        for name in ("distance_floor", "presence_truth"):
            object.__setattr__(self, name, _finite(getattr(self, name)))

    def of(self, role: str) -> tuple[Row, ...]:
        """The rows of one role, in their order."""
        return tuple(row for row in self.rows if row.role == role)

    @property
    def deployed_row(self) -> Row | None:
        """The row of the network this run made, used as it was trained; None where that is not known."""
        use = self.deployed
        wanted = use and (use.role, use.steps, use.commit is not None, use.commit)
        return next((row for row in self.rows if (row.role, row.steps, row.cached, row.cache_commit) == wanted), None)

    def to_json(self, path: Path) -> None:
        """Writes the results; a reader finds the old file or the whole new one, never a part."""
        write_whole(path, json.dumps(asdict(self), indent=2, allow_nan=False) + "\n")

    @classmethod
    def from_json(cls, path: Path) -> "Results":
        """Inverse of `to_json`. Raises ValueError where the file is none of ours."""
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict) or not isinstance(values.get("rows"), list):
            raise ValueError(f"{path} holds no results (an object with a list `rows`): give a run's results.json")
        rows = tuple(_build(Row, {**row, **_lists(row)}, path) for row in values["rows"])
        use = values.get("deployed")
        return _build(cls, {**values, "rows": rows, "deployed": use and _build(Use, use, path)}, path)


def write_whole(path: Path, text: str) -> None:
    """Writes `text` beside `path`, then puts it in place in one step."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _build(kind: type, values: Mapping[str, Any], path: Path) -> Any:
    known = {entry.name for entry in fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"{path}: {kind.__name__} has no field {', '.join(unknown)}: written by another version")
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{path}: {error}: written by another version") from error


def _lists(row: Mapping[str, Any]) -> dict[str, Any]:
    by_horizon = {name: tuple(frames) for name, frames in row.get("by_horizon", {}).items()}
    return {"drift": tuple(row.get("drift", ())), "by_horizon": by_horizon}


def _finite(value: Number | None) -> Number | None:
    return None if value is None or not math.isfinite(value) else value
