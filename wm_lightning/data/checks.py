"""What can be wrong with a data set beyond its files: ranges of actions, equal episodes, colours, shares of damage."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from wm_lightning.clip import ActionSpec
from wm_lightning.data.formats.source import StoredEpisode

RARE = 0.01  # chance below which a sample is not that of a set within its bounds
TINT = 8.0  # grey levels between red and blue below which a picture's colours tell nothing


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

    @property
    def moves_little(self) -> bool:
        """Does it change within less than a tenth of its bounds?"""
        reach = max(abs(self.low), abs(self.high))
        return not self.constant and math.isfinite(reach) and max(abs(self.least), abs(self.most)) < 0.1 * reach


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
    """The names of `odd_colours`, of whole episodes."""
    return odd_colours({name: mean_colour(episode.video) for name, episode in episodes.items()})


def mean_colour(video: UInt8[np.ndarray, "f h w 3"]) -> Float[np.ndarray, "3"]:
    """Mean red, green and blue, in grey levels."""
    return video.reshape(-1, 3).mean(0)


def odd_colours(means: Mapping[str, Float[np.ndarray, "3"]]) -> list[str]:
    """The episodes whose mean colour, with red and blue exchanged, is much nearer to that of the others than as it is.

    Three episodes at least are needed, and a set in which red and blue differ. A set that is swapped as a whole looks
    consistent: that is for eyes, and for a setting of the reader.
    """
    if len(means) < 3:
        return []
    rows, found = np.stack(list(means.values())), []
    for number, (name, mean) in enumerate(means.items()):
        middle = np.median(np.delete(rows, number, 0), axis=0)
        as_is, exchanged = np.linalg.norm(mean - middle), np.linalg.norm(mean[::-1] - middle)
        if abs(middle[0] - middle[2]) > TINT and abs(mean[0] - mean[2]) > TINT and exchanged < 0.5 * as_is:
            found.append(name)
    return found


def too_many(broken: int, tried: int, share: float) -> bool:
    """Whether `broken` of `tried` drawn episodes are more than a set would show of which `share` are broken."""
    rest = sum(math.comb(tried, k) * share**k * (1 - share) ** (tried - k) for k in range(broken))
    return broken > 0 and 1 - rest < RARE
