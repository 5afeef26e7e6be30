"""Which of many pictures are the best: the mean of their ranks by every score there is (2606.12072)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from wm_lightning.rewards.reward import Reward


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The share `keep` is kept, by sharpness, by contrast and, where there is a `scorer`, by how well `text` fits.

    A scorer is any reward that judges one picture by one text, such as PickScore or CLIP.
    """

    keep: float
    scorer: Reward | None
    text: str

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1 or not self.text.strip():
            raise ValueError(f"ranking: {self.keep=} is a share over 0 and up to 1, {self.text=} must say something")

    def best(self, scores: Mapping[str, Sequence[float]]) -> list[int]:
        """Places of the kept ones in their order; of equal ones the earlier."""
        ranks = mean_ranks(scores)
        chosen = np.argsort(-ranks, kind="stable")[: math.ceil(self.keep * len(ranks) - 1e-9)]
        return sorted(chosen.tolist())


def mean_ranks(scores: Mapping[str, Sequence[float]]) -> Float[np.ndarray, "n"]:
    """From 0, the worst by all scores, to 1; a score that is NaN does not count for its own picture."""
    return np.nanmean(np.stack([ranks(np.asarray(values, np.float64)) for values in scores.values()]), axis=0)


def ranks(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """From 0, the least, to 1; equal ones share their mean rank, NaN has none."""
    known = ~np.isnan(values)
    _, place, counts = np.unique(values[known], return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts + 1) / 2
    found = np.full(len(values), np.nan)
    found[known] = middle[place] / max(1, int(known.sum()) - 1)
    return found
