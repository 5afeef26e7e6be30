"""What can be wrong with a data set beyond its files: actions that do not fit the motion, and their ranges."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from wm_lightning.clip import ActionSpec
from wm_lightning.data.formats.source import StoredEpisode

LAGS = (-2, -1, 0, 1, 2, 3)
# An action stored at the observation k acts towards k + 1; real robots answer up to two frames late.
PLAUSIBLE = (0, 1, 2)
LEAST = 0.1  # below it no lag tells anything
TINT = 8.0  # grey levels between red and blue below which a picture's colours tell nothing


@dataclass(frozen=True)
class Alignment:
    """Correlation of the size of the action at k - lag with the motion from k to k + 1, mean over `episodes`."""

    by_lag: Mapping[int, float]
    episodes: int

    @property
    def peak(self) -> int | None:
        """The lag of the strongest correlation; None where all are too weak to tell."""
        if not self.by_lag or max(self.by_lag.values()) < LEAST:
            return None
        return max(self.by_lag, key=lambda lag: self.by_lag[lag])

    @property
    def plausible(self) -> bool:
        """Whether actions come before the motion they explain, and soon; weak correlations are no fault."""
        return self.peak is None or self.peak in PLAUSIBLE


@dataclass(frozen=True)
class Column:
    """What an action column holds: its extremes, and how many values lie outside the declared bounds."""

    name: str
    least: float
    most: float
    low: float
    high: float
    outside: int
    constant: bool


def motion(video: UInt8[np.ndarray, "f h w 3"]) -> Float[np.ndarray, "f-1"]:
    """Mean absolute difference of consecutive frames, in grey levels."""
    grey = video.astype(np.float32).mean(-1)
    return np.abs(np.diff(grey, axis=0)).mean((1, 2))


def align(episodes: Iterable[StoredEpisode]) -> Alignment:
    """See `Alignment`. Columns are scaled to unit spread, so that none speaks for all; short episodes are left out."""
    kept = [episode for episode in episodes if len(episode.actions) > max(LAGS) + 8]
    if not kept:
        return Alignment({}, 0)
    spread = np.concatenate([episode.actions for episode in kept]).std(0)
    scale = np.where(spread > 1e-6, spread, np.inf)
    found: dict[int, list[float]] = {lag: [] for lag in LAGS}
    for episode in kept:
        size = np.linalg.norm((episode.actions - episode.actions.mean(0)) / scale, axis=1)
        moved = motion(episode.video)
        for lag in LAGS:
            # Pairs (action at k - lag, motion from k to k + 1), for k where both are there.
            first, last = max(0, lag), min(len(moved), len(size) + lag)
            value = _correlation(size[first - lag : last - lag], moved[first:last])
            if value is not None:
                found[lag].append(value)
    return Alignment({lag: float(np.mean(values)) for lag, values in found.items() if values}, len(kept))


def ranges(actions: Sequence[np.ndarray], names: Sequence[str], spec: ActionSpec) -> list[Column]:
    """Every stored column against the bounds of `spec`, which may lack it."""
    rows = np.concatenate(list(actions))
    bounds = {name: (low, high) for name, low, high in zip(spec.names, spec.low, spec.high, strict=True)}
    columns = []
    for number, name in enumerate(names):
        values, (low, high) = rows[:, number], bounds.get(name, (-np.inf, np.inf))
        slack = 1e-6 * (high - low) if np.isfinite(high - low) else 0.0
        outside = int(((values < low - slack) | (values > high + slack)).sum())
        least, most = float(values.min()), float(values.max())
        columns.append(Column(name, least, most, low, high, outside, least == most))
    return columns


def swapped(episodes: Mapping[str, StoredEpisode]) -> list[str]:
    """The episodes whose mean colour, with red and blue exchanged, is much nearer to that of the others than as it is.

    Three episodes at least are needed, and a set in which red and blue differ. A set that is swapped as a whole looks
    consistent: that is for eyes, and for a setting of the reader.
    """
    means = {name: episode.video.reshape(-1, 3).mean(0) for name, episode in episodes.items()}
    found = []
    for name, mean in means.items():
        others = [other for key, other in means.items() if key != name]
        if len(others) < 2:
            continue
        middle = np.median(others, axis=0)
        as_is, exchanged = np.linalg.norm(mean - middle), np.linalg.norm(mean[::-1] - middle)
        if abs(middle[0] - middle[2]) > TINT and abs(mean[0] - mean[2]) > TINT and exchanged < 0.5 * as_is:
            found.append(name)
    return found


def _correlation(one: Float[np.ndarray, "n"], other: Float[np.ndarray, "n"]) -> float | None:
    if len(one) < 8 or one.std() < 1e-9 or other.std() < 1e-9:
        return None
    return float(np.corrcoef(one, other)[0, 1])
