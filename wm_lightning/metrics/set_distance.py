r"""Distances between the sets of generated and true clips: Fréchet and KID, with floor and interval.

.. math:: \mathrm{FD} = |\mu_1 - \mu_2|^2 + \mathrm{tr}(C_1 + C_2 - 2 (C_1 C_2)^{1/2}),
          \qquad \mathrm{KID} = \mathrm{mean\ over\ subsets\ of\ the\ unbiased\ MMD}^2

(Heusel et al., 2017, eq. 6; Bińkowski et al., 2018, with kernel :math:`(x \cdot y / d + 1)^3`.) The floor is the same
distance between disjoint halves of the true clips. A Fréchet distance falls with the number of clips, so its floor,
made of half as many, lies above what perfect clips would reach; the unbiased KID has no such trend.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wm_lightning.metrics.distance import mmd2
from wm_lightning.metrics.episode_bootstrap import drawn_clips, widened
from wm_lightning.randomness import generator

Features = Float[Tensor, "n d"]
# Of a KID, and of each of its bootstrap draws: fewer make the interval a little wider, and affordable.
SUBSETS, DRAW_SUBSETS = 100, 10
LARGEST_SUBSET = 1000
# Below this many clips, or ten a dimension, the unbiased kernel distance is to be read, not the Fréchet distance.
ENOUGH = 2048


@dataclass(frozen=True)
class SetDistance:
    """A distance of `n` generated clips (of `features` features each set) and all that its number hangs on.

    `low` and `high` bound it (95 %, bootstrap over the `episodes` the clips come from; None for fewer than two).
    `note` says what a reader must know.
    """

    name: str
    value: float | None
    floor: float | None
    low: float | None
    high: float | None
    n: int
    features: int
    extractor: str
    resize: str
    dtype: str
    episodes: int
    subset: int | None = None
    note: str | None = None


def frechet(x: Features, y: Float[Tensor, "m d"]) -> float:
    """Fréchet distance of two Gaussians fitted to the features, in float64; two rows at least on either side.

    tr (C1 C2)^(1/2) is the nuclear norm of the centred factors' product, which needs no matrix root and stays small
    where there are fewer rows than dimensions.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"a covariance needs at least 2 rows on either side, got {len(x)} and {len(y)}")
    a, b = (_factor(v.double()) for v in (x, y))
    mean = (x.double().mean(0) - y.double().mean(0)).square().sum()
    cross = torch.linalg.matrix_norm(a @ b.T, ord="nuc")
    return float(mean + a.square().sum() + b.square().sum() - 2 * cross)


def kid(x: Features, y: Float[Tensor, "m d"], *, subset: int, subsets: int, seed: int) -> float:
    """Kernel inception distance: the mean over random subsets of the unbiased squared MMD."""
    source = generator(seed, "kid subsets")
    values = []
    for _ in range(subsets):
        values.append(mmd2(*(v[torch.from_numpy(source.permutation(len(v))[:subset])] for v in (x, y))))
    return float(np.mean(values))


def subset_size(n: int) -> int:
    """Rows of a KID subset: half of what is there, 1,000 at most."""
    return min(n // 2, LARGEST_SUBSET)


def kid_worldgen(real: Features, generated: Float[Tensor, "m d"]) -> float:
    """WorldGen's KID: the unbiased squared MMD with the cubic kernel over all rows at once, without subsets.

    Its features are torchvision's Inception fed as that project feeds it (`torchvision_inception`), so the number is
    comparable with that project's own alone.
    """
    return mmd2(real, generated)


def set_distance(
    kind: Literal["fd", "kid", "kid_worldgen"], name: str, generated: Tensor, truth: Tensor,
    *, extractor: str, resize: str, dtype: str, draws: int, seed: int, episodes: Sequence[str] | None = None,
) -> SetDistance:  # fmt: skip
    """The distance of features `clips rows d` (rows of one clip together: 1, or its frames), floor and interval.

    Clip i of both sets continues the same context, so the bootstrap draws pairs, and `episodes[i]` names where it comes
    from (null: every clip from its own), so it draws whole episodes. Draws with repetition lie above the value; they
    are centred on it, so that the interval tells their spread. Below four clips there is no number, and `note` says so.
    """
    clips, rows, _ = truth.shape
    episodes = [str(clip) for clip in range(clips)] if episodes is None else episodes
    if len(episodes) != clips:
        raise ValueError(f"{len(episodes)} episode names for {clips} clips")
    own = dict(n=clips, features=clips * rows, episodes=len(set(episodes)))
    fixed = dict(name=name, extractor=extractor, resize=resize, dtype=dtype) | own
    if clips < 4 or len(generated) != clips:
        note = f"{clips} clips, {len(generated)} generated: at least 4 of each are needed"
        return SetDistance(value=None, floor=None, low=None, high=None, note=note, **fixed)  # type: ignore[arg-type]
    subset = subset_size(clips * rows) if kind == "kid" else None
    value = _measure(kind, clips * rows, SUBSETS, seed)(generated.flatten(0, 1), truth.flatten(0, 1))
    floor = _floor(kind, truth, seed)
    low, high = _interval(kind, value, generated, truth, episodes, draws, seed)
    few = kind == "fd" and clips * rows < max(ENOUGH, 10 * truth.shape[-1])
    note = "few clips for a covariance: read the kernel distance beside it" if few else None
    return SetDistance(value=value, floor=floor, low=low, high=high, subset=subset, note=note, **fixed)  # type: ignore[arg-type]


def _floor(kind: str, truth: Tensor, seed: int) -> float:
    clips, rows, _ = truth.shape
    order = torch.from_numpy(generator(seed, "halves").permutation(clips))
    one, other = truth[order[: clips // 2]], truth[order[clips // 2 : clips // 2 * 2]]
    return _measure(kind, len(one) * rows, SUBSETS, seed)(one.flatten(0, 1), other.flatten(0, 1))


def _interval(
    kind: str, value: float, generated: Tensor, truth: Tensor, episodes: Sequence[str], draws: int, seed: int
) -> tuple[float | None, float | None]:
    count = len(set(episodes))
    if draws < 1 or count < 2:
        return None, None
    quick, drawn = _measure(kind, truth.shape[0] * truth.shape[1], DRAW_SUBSETS, seed), []
    for chosen in drawn_clips(episodes, draws=draws, seed=seed):
        drawn.append(quick(generated[chosen].flatten(0, 1), truth[chosen].flatten(0, 1)))
    low, high = value + widened(np.quantile(drawn, [0.025, 0.975]) - np.mean(drawn), count)
    return float(low), float(high)


def _measure(kind: str, rows: int, subsets: int, seed: int) -> Callable[[Tensor, Tensor], float]:
    if kind == "fd":
        return frechet
    if kind == "kid":
        return lambda x, y: kid(x, y, subset=max(2, subset_size(rows)), subsets=subsets, seed=seed)
    return kid_worldgen


def _factor(x: Tensor) -> Tensor:
    """A with A^T A the covariance, of as few rows as it has rank."""
    centred = (x - x.mean(0)) / (len(x) - 1) ** 0.5
    return centred if len(x) <= x.shape[1] else torch.linalg.qr(centred, mode="r").R
