"""Bootstrap of clips that come in episodes: whole episodes are drawn, for clips of one resemble each other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from wm_lightning.randomness import generator


@dataclass(frozen=True)
class Interval:
    """The bounds (95 %) of every column's mean; None where fewer than two episodes tell no spread."""

    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    episodes: int


def drawn_clips(episodes: Sequence[str], *, draws: int, seed: int) -> Iterator[Int[Tensor, "n"]]:
    """Places of the clips of every draw: as many episodes as there are, with repetition, each with all its clips."""
    _, place = np.unique(np.asarray(episodes), return_inverse=True)
    members = [torch.from_numpy(np.flatnonzero(place == number)) for number in range(place.max() + 1)]
    source = generator(seed, "bootstrap episodes")
    for _ in range(draws):
        yield torch.cat([members[number] for number in source.integers(len(members), size=len(members))])


def widened(spread: np.ndarray, episodes: int) -> np.ndarray:
    """The spread of draws as that of data: n drawn with repetition vary by (n - 1) / n of what n new ones would."""
    return spread * (episodes / (episodes - 1)) ** 0.5


def mean_interval(
    values: Float[Tensor, "clips columns"], episodes: Sequence[str], *, draws: int, seed: int
) -> Interval:
    """The interval of every column's mean over clips, of which `episodes` says where each comes from.

    A column that is not finite has no bounds.
    """
    count, columns = len(set(episodes)), values.shape[1]
    if count < 2 or draws < 1:
        nothing = (None,) * columns
        return Interval(nothing, nothing, count)
    means = torch.stack([values[chosen].mean(0) for chosen in drawn_clips(episodes, draws=draws, seed=seed)]).numpy()
    value = values.mean(0).numpy()
    low, high = value + widened(np.quantile(means, [0.025, 0.975], axis=0) - value, count)
    return Interval(_bounds(low), _bounds(high), count)


def _bounds(side: np.ndarray) -> tuple[float | None, ...]:
    return tuple(value if np.isfinite(value) else None for value in side.tolist())
