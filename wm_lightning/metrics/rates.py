"""Rates of yes among yes and no, with the intervals that belong to them."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wm_lightning.randomness import generator

Z = 1.959964  # of 95 %


@dataclass(frozen=True)
class Rate:
    """How many of `n` met a criterion, with Wilson's 95 % interval; all None where n is 0."""

    met: int
    n: int

    @property
    def value(self) -> float | None:
        """The share."""
        return None if self.n == 0 else self.met / self.n

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson (1927): holds for small numbers and rates near 0 and 1 too."""
        if self.n == 0:
            return None
        share, weight = self.met / self.n, Z * Z / self.n
        centre = (share + weight / 2) / (1 + weight)
        half = math.sqrt(weight * share * (1 - share) + weight * weight / 4) / (1 + weight)
        return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Gain:
    """The difference of two rates on the same `n` tasks, with its 95 % interval by a paired bootstrap over tasks."""

    value: float
    low: float
    high: float
    n: int


def paired_gain(
    one: Bool[Tensor, "n"] | Float[Tensor, "n"], other: Bool[Tensor, "n"] | Float[Tensor, "n"],
    valid: Bool[Tensor, "n"], *, draws: int, seed: int,
) -> Gain | None:  # fmt: skip
    """What `one` is above `other`, over the tasks on which both are valid; None where fewer than two are.

    Both are yes by task, or the share of a task's videos that are.
    """
    difference = (one.float() - other.float())[valid].numpy()
    if len(difference) < 2 or draws < 1:
        return None
    source = generator(seed, "paired bootstrap")
    chosen = source.integers(len(difference), size=(draws, len(difference)))
    low, high = np.quantile(difference[chosen].mean(1), [0.025, 0.975])
    return Gain(float(difference.mean()), float(low), float(high), len(difference))


def rate(met: Bool[Tensor, "n"], valid: Bool[Tensor, "n"]) -> Rate:
    """The rate over the valid ones."""
    return Rate(int(torch.logical_and(met, valid).sum()), int(valid.sum()))


def ratio_interval(
    met: Float[Tensor, "n"], judged: Float[Tensor, "n"], *, draws: int, seed: int
) -> tuple[float, float] | None:
    """The 95 % interval of sum(met) / sum(judged) by a bootstrap over tasks, which keeps a task's videos together.

    Wilson's takes all judgements for independent ones, which several videos of one task are not. None where fewer than
    two tasks were judged.
    """
    known = judged > 0
    if int(known.sum()) < 2 or draws < 1:
        return None
    above, below = met[known].double().numpy(), judged[known].double().numpy()
    chosen = generator(seed, "bootstrap over tasks").integers(len(above), size=(draws, len(above)))
    low, high = np.quantile(above[chosen].sum(1) / below[chosen].sum(1), [0.025, 0.975])
    return float(low), float(high)
