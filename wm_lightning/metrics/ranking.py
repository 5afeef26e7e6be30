"""Does a world model put policies in the order in which the true world does? Statistics of success rates."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from jaxtyping import Bool, Float

from wm_lightning.metrics.rates import Rate
from wm_lightning.randomness import generator

Rates = Sequence[float]
# Up to so many policies every order is tried (5,040 of them), beyond it orders are drawn.
EXHAUSTIVE = 7
# Correlations this close are equal: sums in another order differ by rounding.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Correlation:
    """A correlation over `n` policies and the share `p` of orders with at least as large a size of it.

    Both are None where either side has no spread.
    """

    value: float | None
    p: float | None
    n: int


def pearson(first: Rates, second: Rates) -> float | None:
    """Pearson's correlation; None where one side has no spread, or where there are fewer than two.

    Raises ValueError for sides of unequal length.
    """
    one, other = _pair(first, second)
    one, other = one - one.mean(), other - other.mean()
    size = math.sqrt(float((one**2).sum() * (other**2).sum())) if len(one) > 1 else 0.0
    return float((one * other).sum() / size) if size > 1e-12 else None


def spearman(first: Rates, second: Rates) -> float | None:
    """Spearman's: Pearson's correlation of ranks, equal values sharing the mean of theirs."""
    _pair(first, second)
    return pearson(ranks(first).tolist(), ranks(second).tolist())


def ranks(values: Rates) -> Float[np.ndarray, "n"]:
    """The place of every value, from 1; equal ones have the mean of their places."""
    given = np.asarray(values, np.float64)
    below, equal = (given[None] < given[:, None]).sum(1), (given[None] == given[:, None]).sum(1)
    return below + (equal + 1) / 2


def correlation(
    first: Rates, second: Rates, measure: Callable[[Rates, Rates], float | None], *, draws: int, seed: int
) -> Correlation:
    """`measure` of two sides with a two-sided permutation p-value: chance that pairing at random gives as much.

    Up to seven policies all orders are tried, the true one included, so that three policies can give no p below 1/3;
    beyond it `draws` orders, of which p counts one more.
    """
    value, count = measure(first, second), len(first)
    if value is None:
        return Correlation(None, None, count)
    places = permutations(range(count)) if count <= EXHAUSTIVE else _drawn(count, draws, seed)
    found = [measure(first, [second[place] for place in order]) for order in places]
    larger = sum(abs(one) >= abs(value) - ROUNDING for one in found if one is not None)
    p = larger / len(found) if count <= EXHAUSTIVE else (larger + 1) / (len(found) + 1)
    return Correlation(value, p, count)


def mmrv(*, real: Rates, model: Rates) -> float:
    r"""Mean maximum rank violation (SIMPLER, 2405.05941): 0 is best, at most 1.

    .. math:: \frac1N \sum_i \max_j |R_i - R_j| \, [(S_i > S_j) \neq (R_i > R_j)]

    R are real rates, S those of the model: for every policy the largest real difference to another one that the model
    orders the other way, then the mean over policies. A tie of the model counts as a violation for the one of the two
    that is really better. Real and model are named, for the value is another with sides exchanged.
    """
    truth, seen = _pair(real, model)
    wrong = (seen[:, None] > seen[None]) != (truth[:, None] > truth[None])
    return float((np.abs(truth[:, None] - truth[None]) * wrong).max(1).mean())


def mean_gap(first: Rates, second: Rates) -> float:
    """Mean absolute difference."""
    one, other = _pair(first, second)
    return float(np.abs(one - other).mean())


@dataclass(frozen=True)
class Confusion:
    """What a judge says (yes or no) against what is true, as counts."""

    true_yes: int
    false_yes: int
    false_no: int
    true_no: int

    @property
    def n(self) -> int:
        """All judgements."""
        return self.true_yes + self.false_yes + self.false_no + self.true_no

    @property
    def agreement(self) -> Rate:
        """The share in which the judge says what is true."""
        return Rate(self.true_yes + self.true_no, self.n)

    @property
    def precision(self) -> Rate:
        """Of the judge's yes, the share that is true."""
        return Rate(self.true_yes, self.true_yes + self.false_yes)

    @property
    def recall(self) -> Rate:
        """Of what is true, the share that the judge finds."""
        return Rate(self.true_yes, self.true_yes + self.false_no)

    @property
    def kappa(self) -> float | None:
        """Cohen's: agreement beyond that of chance, 1 at best; None where chance alone agrees always."""
        if self.n == 0:
            return None
        yes = (self.true_yes + self.false_yes) * (self.true_yes + self.false_no)
        no = (self.true_no + self.false_yes) * (self.true_no + self.false_no)
        chance, agreed = (yes + no) / self.n**2, (self.true_yes + self.true_no) / self.n
        return None if chance > 1 - ROUNDING else (agreed - chance) / (1 - chance)


def confusion(judged: Bool[np.ndarray, "n"], true: Bool[np.ndarray, "n"]) -> Confusion:
    """Counts of a judge's words against the truth."""
    counts = (judged & true, judged & ~true, ~judged & true, ~judged & ~true)
    return Confusion(*(int(one.sum()) for one in counts))


def _pair(first: Rates, second: Rates) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    if len(first) != len(second):
        raise ValueError(f"{len(first)} rates beside {len(second)}: every policy needs one on either side")
    return np.asarray(first, np.float64), np.asarray(second, np.float64)


def _drawn(count: int, draws: int, seed: int) -> list[list[int]]:
    source = generator(seed, "permutations")
    return [source.permutation(count).tolist() for _ in range(draws)]
