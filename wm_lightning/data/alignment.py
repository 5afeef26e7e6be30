"""Whether actions go with the motion of their own episode, and how many frames before it they are stored.

The size of the action at k - lag is correlated with the motion from k to k + 1, in an episode of its own and between
episodes: what stays when actions are those of another episode (all start slowly, say) tells nothing about this one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from jaxtyping import Float, UInt8

from wm_lightning.randomness import generator

LAGS = (-2, -1, 0, 1, 2, 3)
# An action stored at the observation k acts towards k + 1; real robots answer up to two frames late.
RIGHT = (0, 1, 2)
PAIRS = 6  # of action and motion, below which an episode's correlation is left out
EPISODES = 5  # below which neither resampling nor exchanging episodes tells anything
PARTNERS = 16  # other episodes whose actions are held against an episode's motion
DRAWS = 1999
RELATED = 0.05  # chance below which actions go with their own episode
LAGGED = 0.01  # the same where it decides that a set is refused
# A correlation that is surely below this, and no better than that of other episodes, is none.
LEAST = 0.1
SURE = 2.33  # standard errors: 99 % lie below


class Verdict(Enum):
    """What the recordings say of their actions."""

    FITS = "actions come before the motion of their own episode"
    UNTOLD = "cannot be told"
    LAGGED = "actions come at the wrong time"
    UNRELATED = "actions do not go with their own episodes"


@dataclass(frozen=True)
class Moves:
    """The stored actions of an episode, and how much its picture changes from every frame to the next."""

    actions: Float[np.ndarray, "f a"]
    motion: Float[np.ndarray, "f-1"]


@dataclass(frozen=True)
class Alignment:
    """What `align` found in `used` of `looked` episodes.

    `own` and `others` are mean correlations by lag: with the actions of the episode, and of other episodes. `chance` is
    how often actions of other episodes do as well at a right lag, `any_chance` at any; `right_share` how often a
    right lag is the best when episodes are drawn again; `most` what `own` may exceed `others` by at a right lag.
    """

    looked: int
    used: int = 0
    lags: tuple[int, ...] = ()
    own: tuple[float, ...] = ()
    others: tuple[float, ...] = ()
    chance: float = 1.0
    any_chance: float = 1.0
    right_share: float = 1.0
    most: float = np.inf

    @property
    def peak(self) -> int | None:
        """The lag at which actions of the episode exceed those of others most; None where too little is there."""
        excess = np.subtract(self.own, self.others)
        return self.lags[int(excess.argmax())] if self.lags else None

    @property
    def verdict(self) -> Verdict:
        """A fault only where chance is no explanation of it."""
        if not self.lags:
            return Verdict.UNTOLD
        if self.any_chance <= LAGGED and self.right_share <= LAGGED and set(RIGHT) <= set(self.lags):
            return Verdict.LAGGED
        if self.chance <= RELATED:
            return Verdict.FITS
        return Verdict.UNRELATED if self.most < LEAST else Verdict.UNTOLD


def motion(video: UInt8[np.ndarray, "f h w 3"]) -> Float[np.ndarray, "f-1"]:
    """Mean absolute difference of consecutive frames, in grey levels."""
    grey = video.astype(np.float32).mean(-1)
    return np.abs(np.diff(grey, axis=0)).mean((1, 2))


def align(episodes: Sequence[Moves]) -> Alignment:
    """What actions and motion say of each other; lags are those that at least half of the episodes are long enough for.

    The draws hang on the number of episodes alone, so that the same set gets the same verdict again.
    """
    lags, sizes, motions = _usable(episodes)
    if len(sizes) < EPISODES or not set(RIGHT) & set(lags):
        return Alignment(len(episodes), len(sizes))
    source = generator(0, "alignment", len(sizes))
    own = np.array([_by_lag(size, moved, lags) for size, moved in zip(sizes, motions, strict=True)])
    others = _with_others(sizes, motions, lags, source)
    usual = others.mean((0, 1))
    found, drawn = own.mean(0) - usual, _exchanged(others, source) - usual
    right = np.isin(lags, RIGHT)
    excess = own - others.mean(1)
    again = np.stack([excess[source.integers(len(own), size=len(own))].mean(0) for _ in range(DRAWS)])
    # Where no wrong lag could be looked at, a right one is always the best.
    wrong = again[:, ~right].max(1, initial=-np.inf)
    error = excess.std(0, ddof=1) / np.sqrt(len(own))
    return Alignment(
        len(episodes), len(own), lags, tuple(own.mean(0).tolist()), tuple(usual.tolist()),
        chance=_chance(drawn[:, right], found[right]), any_chance=_chance(drawn, found),
        right_share=float((again[:, right].max(1) >= wrong).mean()),
        most=float((excess.mean(0) + SURE * error)[right].max()),
    )  # fmt: skip


def _usable(episodes: Sequence[Moves]) -> tuple[tuple[int, ...], list[np.ndarray], list[np.ndarray]]:
    """The lags to look at, and sizes of actions and motions of the episodes in which all of them can be looked at.

    Columns are scaled to unit spread, so that none speaks for all. What never changes is left out.
    """
    if not episodes:
        return (), [], []
    middle = int(np.median([len(episode.actions) for episode in episodes]))
    lags = tuple(lag for lag in LAGS if _pairs(middle, lag) >= PAIRS)
    spread = np.concatenate([episode.actions for episode in episodes]).std(0)
    scale = np.where(spread > 1e-6, spread, np.inf)
    sizes, motions = [], []
    for episode in episodes:
        size = np.linalg.norm((episode.actions - episode.actions.mean(0)) / scale, axis=1)
        long = all(_pairs(len(size), lag) >= PAIRS for lag in lags)
        if lags and long and size.std() > 0.01 * size.mean() and episode.motion.std() > 1e-9:
            sizes.append(size)
            motions.append(episode.motion)
    return lags, sizes, motions


def _pairs(frames: int, lag: int) -> int:
    return min(frames - 1, frames + lag) - max(0, lag)


def _by_lag(size: Float[np.ndarray, "f"], moved: Float[np.ndarray, "m"], lags: Sequence[int]) -> Float[np.ndarray, "k"]:
    """Correlation of the size at k - lag with the motion from k to k + 1, for k where both are there."""
    frames = min(len(size), len(moved) + 1)
    found = []
    for lag in lags:
        first, last = max(0, lag), min(frames - 1, frames + lag)
        found.append(_correlation(size[first - lag : last - lag], moved[first:last]))
    return np.array(found)


def _with_others(
    sizes: Sequence[np.ndarray], motions: Sequence[np.ndarray], lags: Sequence[int], source: np.random.Generator
) -> Float[np.ndarray, "n p k"]:
    """The same for every episode's motion with the actions of some other episodes."""
    count, rows = len(sizes), []
    for number, moved in enumerate(motions):
        steps = 1 + source.choice(count - 1, min(PARTNERS, count - 1), replace=False)
        rows.append([_by_lag(sizes[(number + step) % count], moved, lags) for step in steps])
    return np.array(rows)


def _exchanged(others: Float[np.ndarray, "n p k"], source: np.random.Generator) -> Float[np.ndarray, "d k"]:
    """Means over all episodes when each is given the actions of another, drawn `DRAWS` times."""
    rows = np.arange(len(others))
    return np.stack([others[rows, source.integers(others.shape[1], size=len(rows))].mean(0) for _ in range(DRAWS)])


def _chance(drawn: Float[np.ndarray, "d k"], found: Float[np.ndarray, "k"]) -> float:
    """How often a draw is at its best lag as good as what was found."""
    return float((1 + (drawn.max(1) >= found.max()).sum()) / (len(drawn) + 1))


def _correlation(one: Float[np.ndarray, "n"], other: Float[np.ndarray, "n"]) -> float:
    """Pearson's; 0 where one of them does not change."""
    one, other = one - one.mean(), other - other.mean()
    norm = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum() / norm) if norm > 1e-9 else 0.0
