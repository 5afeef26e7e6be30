r"""Unbiased kernel distance between sets of clips, with its floor and an interval of the excess.

Three sets of equal size N enter: *generated* clips, the *truth* they continue (clip i of both has the
same context and actions), and *reference*, other real clips. Generated and truth are both compared
with the reference:

.. math:: \mathrm{distance} = \mathrm{MMD}^2(G, R), \quad \mathrm{floor} = \mathrm{MMD}^2(T, R), \quad
          \mathrm{excess} = \mathrm{distance} - \mathrm{floor}

The floor is what real clips reach at the same N, and because G and T share their contexts and R, most of
the chance in both cancels in the excess. (Comparing G with T themselves would bias the distance: a
clip is closer to its own continuation than to an independent one.) Features are standardised by a
`Scale` fitted on other real clips still, such as training clips: fitted on one of the three sets it would
set that one apart from the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from wm_lightning.metrics.episode_bootstrap import widened
from wm_lightning.randomness import generator

Features = Float[Tensor, "n d"]


@dataclass(frozen=True)
class Distance:
    """A kernel distance (squared MMD, without unit; may be slightly negative, since it is unbiased).

    `low` and `high` bound the excess (95 %); None where the truth comes from a single episode. `episodes` counts those
    that were drawn whole, None where clips were. Where the other numbers are None, `reason` says why.
    `effective` is the number of real clips that carry the kernel, see `effective_clips`.
    """

    value: float | None
    floor: float | None
    low: float | None
    high: float | None
    n: int
    extractor: str
    reason: str | None = None
    episodes: int | None = None
    effective: float | None = None

    @property
    def excess(self) -> float | None:
        """Distance minus floor: 0 for clips that cannot be told from real ones."""
        return None if self.value is None or self.floor is None else self.value - self.floor


@dataclass(frozen=True)
class Scale:
    """Standardisation by real clips: an offset and a matrix that evens out directions.

    Random features are strongly correlated (half of their variance is overall brightness). Dividing only
    every feature by its own spread leaves that one direction to drown the rest, and the interval of an
    excess several times wider. So directions that vary more than the average are scaled down to it; those
    that vary less are left as they are, for their spread is not known well from a few hundred clips.
    """

    mean: Float[Tensor, "d"]
    matrix: Float[Tensor, "d d"]

    @classmethod
    def fit(cls, real: Features) -> "Scale":
        """The scale at which the features of `real` have mean 0 and mean square 1."""
        std, mean = torch.std_mean(real.double(), dim=0)
        # A feature that hardly varies on real clips must not outweigh all others on generated ones.
        std = std.clamp_min(0.1 * std.mean()).clamp_min(torch.finfo(torch.float32).eps)
        units = (real.double() - mean) / std
        variance, directions = torch.linalg.eigh(units.T @ units / len(real))
        even = (directions * (variance.clamp_min(0.0) + 1.0).rsqrt()) @ directions.T
        size = (units @ even).square().mean().sqrt().clamp_min(torch.finfo(torch.float32).eps)
        return cls(mean, even / std[:, None] / size)

    def __call__(self, features: Features) -> Features:
        """The features at that scale, float64."""
        return (features.double() - self.mean) @ self.matrix


def kernel(x: Features, y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """The cubic kernel (x.y / d + 1)^3, in float64 because cubes of outliers cancel against one another."""
    return (x.double() @ y.double().T / x.shape[1] + 1.0) ** 3


def mmd2(x: Features, y: Float[Tensor, "m d"]) -> float:
    """Unbiased squared MMD of two independent samples of at least two clips (the full-sample U-statistic)."""
    if min(len(x), len(y)) < 2:
        raise ValueError(f"an unbiased distance needs at least 2 clips on either side, got {len(x)} and {len(y)}")
    return float(_mean_of_pairs(kernel(x, x)) + _mean_of_pairs(kernel(y, y)) - 2.0 * kernel(x, y).mean())


def kernel_distance(
    generated: Features,
    truth: Float[Tensor, "m d"],
    reference: Float[Tensor, "k d"],
    *,
    scale: Scale,
    extractor: str,
    minimum: int,
    draws: int,
    seed: int,
    episodes: tuple[Sequence[str], Sequence[str]] | None = None,
) -> Distance:
    """Distance, floor and interval of the excess; null with a reason below `minimum` clips.

    Row i of `generated` and `truth` belong to the same context; `scale` comes from real clips of neither
    set. `extractor` names what made the features; `draws` and `seed` are those of the bootstrap, which draws clips, or
    whole episodes where `episodes` names those of contexts and of reference clips. Raises ValueError where the three
    sets, or those names, differ in number.
    """
    sizes = [tuple(features.shape) for features in (generated, truth, reference)]
    if len(set(sizes)) > 1:
        raise ValueError(f"generated, truth and reference are {sizes}, expected three equal shapes (clips, features)")
    n = len(generated)
    if n < max(minimum, 2):
        reason = f"{n} clips, at least {max(minimum, 2)} are needed for a distance"
        return Distance(None, None, None, None, n, extractor, reason)
    if not all(bool(features.isfinite().all()) for features in (generated, truth, reference)):
        return Distance(None, None, None, None, n, extractor, "features are not finite")
    g, t, r = scale(generated), scale(truth), scale(reference)
    value, floor, count = mmd2(g, r), mmd2(t, r), None if episodes is None else len(set(episodes[0]))
    if count is not None and count < 2:
        return Distance(value, floor, None, None, n, extractor, episodes=count, effective=effective_clips(t, r))
    within, across = kernel(g, g) - kernel(t, t), kernel(g, r) - kernel(t, r)
    bounds = np.quantile(bootstrap_excess(within, across, draws=draws, seed=seed, episodes=episodes), [0.025, 0.975])
    if count is not None:
        bounds = value - floor + widened(bounds - (value - floor), count)
    low, high = bounds.tolist()
    return Distance(value, floor, low, high, n, extractor, episodes=count, effective=effective_clips(t, r))


def effective_clips(truth: Features, reference: Float[Tensor, "m d"]) -> float:
    """How many of the clips on one side carry the kernel: the size of an even sample whose clips count as unevenly.

    A cubic kernel weighs a clip by the sixth power of how far its features lie from the middle. Where a few clips lie
    far off, or the scale comes from too few to know how far clips lie, these few are the distance and its floor.
    """
    weights = torch.cat([(x.square().mean(1) + 1.0) ** 3 for x in (truth, reference)])
    return float(weights.sum().square() / weights.square().sum() / 2)


def bootstrap_excess(
    within: Float[Tensor, "n n"], across: Float[Tensor, "n n"], *, draws: int, seed: int,
    episodes: tuple[Sequence[str], Sequence[str]] | None = None,
) -> Float[Tensor, "draws"]:  # fmt: skip
    """Bootstrap draws of the excess from differences of kernel matrices (generated minus truth).

    Contexts (shared by generated and truth) and reference clips are drawn independently, as counts of how
    often each comes up, or its episode. Pairs of one copy of a clip, or of an episode, with another copy of it are left
    out: nothing in the data is so alike, and they would shift every draw upwards.
    """
    n = len(within)
    own, other = (_places(names, n) for names in episodes or (None, None))
    contexts = _counts(own, draws, generator(seed, "bootstrap contexts"))
    references = _counts(other, draws, generator(seed, "bootstrap references"))
    same = own[:, None] == own
    # Clips of one episode meet within each of its copies alone, so once for every time it is drawn.
    together = (within * same).sum(1) - within.diagonal()
    mates = same.sum(1).double()
    drawn = contexts.sum(1)
    # Where a draw consists of one clip only (tiny n) it has no pairs; the clamp makes its term 0.
    weight = (drawn.square() - contexts.square() @ mates + contexts @ (mates - 1)).clamp_min(1.0)
    inner = (((contexts @ (within * ~same)) * contexts).sum(dim=1) + contexts @ together) / weight
    outer = ((contexts @ across) * references).sum(dim=1) / (drawn * references.sum(1))
    return inner - 2.0 * outer


def _places(episodes: Sequence[str] | None, n: int) -> Int[Tensor, "n"]:
    """The number of every clip's episode; without names each clip is one."""
    if episodes is None:
        return torch.arange(n)
    if len(episodes) != n:
        raise ValueError(f"{len(episodes)} episode names for {n} clips")
    return torch.from_numpy(np.unique(np.asarray(episodes), return_inverse=True)[1])


def _counts(episode: Int[Tensor, "n"], draws: int, source: np.random.Generator) -> Float[Tensor, "draws n"]:
    """How often every clip comes up where as many episodes are drawn as there are."""
    count = int(episode.max()) + 1
    times = source.multinomial(count, np.full(count, 1.0 / count), size=draws).astype(np.float64)
    return torch.from_numpy(times)[:, episode]


def _mean_of_pairs(gram: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    n = len(gram)
    return (gram.sum() - gram.diagonal().sum()) / (n * (n - 1))
