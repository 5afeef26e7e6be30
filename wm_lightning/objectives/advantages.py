"""Advantages: how much better a rollout was than the others of its prompt.

A table has one row per rollout and one column per reward. Statistics are population ones, over whole rollouts: one of
which any reward that has a weight is invalid has no total, counts nowhere and gets 0. Everything is reckoned in
float64, because a constant reward divided by a floor of 1e-6 must still give nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Rewards = Float[Tensor, "n k"]
Whole = Bool[Tensor, "n"]
Members = Float[Tensor, "groups n"]  # 1 where a rollout counts in a group
FLOOR = 1e-6  # of every standard deviation that something is divided by
ROUNDING = 1e-9  # of an advantage


@dataclass(frozen=True)
class Advantages:
    """One advantage per rollout, and what to log of how it came about.

    `flat` is, for every reward, the share of groups in which its standard deviation lies below the floor or
    `min_group_std`, so that it tells nothing; `flat_total` the share in which all rewards together tell nothing
    (groups of one rollout are among them). Groups without a valid rollout are not counted. `clipped` is the share of
    valid rollouts whose advantage was clipped.
    """

    values: Float[Tensor, "n"]
    flat: Float[Tensor, "k"]
    flat_total: Float[Tensor, ""]
    clipped: Float[Tensor, ""]


def weighted_sum(
    rewards: Rewards,
    weights: Sequence[float],
    groups: Int[Tensor, "n"],
    valid: Bool[Tensor, "n k"],
    *,
    std: Literal["group", "batch"],
    min_group_std: float,
    clip: float | None,
) -> Advantages:
    r"""Advantages of the weighted sum of the rewards (WMSD 2606.12072 eq. 10, GRPO 2402.03300).

    .. math:: A = (r - \mathrm{mean}_g\,r) / \max(\mathrm{std}\,r, 10^{-6}),\quad r = \sum_k w_k r_k

    `std` is that of the group, or that of all totals of the batch (Flow-GRPO 2505.05470). A group whose total varies by
    less than `min_group_std` gets 0. Raises ValueError for a table that does not fit the weights or is not finite where
    valid.
    """
    table, whole, weight = _checked(rewards, weights, groups, valid, min_group_std, clip)
    members = _members(groups, whole)
    _, spread = _centred(table, members)
    totals = (table @ weight)[:, None]
    centred, own = _centred(totals, members)
    _, overall = _centred(totals, _batch(whole))
    scale = (overall if std == "batch" else own).clamp_min(FLOOR).reciprocal().expand_as(own)
    values = centred * (members.T @ torch.where(own >= min_group_std, scale, 0.0))
    floor = max(FLOOR, min_group_std)
    return _logged(values[:, 0], whole, _share(spread < floor, members), _share(own < floor, members), clip)


def gdpo(
    rewards: Rewards,
    weights: Sequence[float],
    groups: Int[Tensor, "n"],
    valid: Bool[Tensor, "n k"],
    *,
    min_group_std: float,
    clip: float | None,
) -> Advantages:
    r"""Advantages of rewards that are normalised one by one before they are added (GDPO 2601.05242).

    .. math:: A = (a - \mathrm{mean}\,a) / \mathrm{std}\,a,\quad
              a = \sum_k w_k (r_k - \mathrm{mean}_g\,r_k) / \max(\mathrm{std}_g\,r_k, 10^{-6})

    The scale of a reward is irrelevant, only its weight counts; so noise on a nearly constant reward would be blown up,
    unless its group's standard deviation lies below `min_group_std` (in the reward's own unit), where it contributes 0.
    Raises ValueError for a table that does not fit the weights or is not finite where valid.
    """
    table, whole, weight = _checked(rewards, weights, groups, valid, min_group_std, clip)
    members = _members(groups, whole)
    centred, spread = _centred(table, members)
    scale = torch.where(spread >= min_group_std, spread.clamp_min(FLOOR).reciprocal(), 0.0)
    summed = (centred * (members.T @ scale)) @ weight[:, None]
    _, own = _centred(summed, members)
    values, overall = _centred(summed, _batch(whole))
    values = values / overall.clamp_min(FLOOR)
    flat = _share(spread < max(FLOOR, min_group_std), members)
    return _logged(values[:, 0], whole, flat, _share(own < FLOOR, members), clip)


def _checked(
    rewards: Rewards, weights: Sequence[float], groups: Tensor, valid: Tensor, min_group_std: float, clip: float | None
) -> tuple[Rewards, Whole, Float[Tensor, "k"]]:
    """The table with zeros in rows that do not count, which rows count, and the weights, in float64."""
    if rewards.shape != valid.shape or rewards.shape != (len(groups), len(weights)):
        raise ValueError(
            f"rewards {tuple(rewards.shape)} and valid {tuple(valid.shape)} must both have one row for each of the "
            f"{len(groups)} group ids and one column for each of the {len(weights)} weights"
        )
    if min_group_std < 0 or (clip is not None and clip <= 0):
        raise ValueError(f"{min_group_std=} must be 0 or more, and {clip=} positive or None (not clipped)")
    wrong = (valid & ~rewards.isfinite()).nonzero()
    if len(wrong):
        row, column = wrong[0].tolist()
        raise ValueError(
            f"reward {column} of rollout {row} is {float(rewards[row, column])} but counted as valid; mark a failed "
            f"judgement as invalid"
        )
    weight = torch.tensor(list(weights), dtype=torch.float64, device=rewards.device)
    whole = (valid | (weight == 0)).all(1)  # what pays nothing may fail
    return torch.where(whole[:, None] & valid, rewards.detach(), 0.0).double(), whole, weight


def _members(groups: Int[Tensor, "n"], whole: Whole) -> Members:
    return ((groups.unique()[:, None] == groups) & whole).double()


def _batch(whole: Whole) -> Members:
    """All rollouts that count, as one group."""
    return whole[None].double()


def _centred(values: Rewards, members: Members) -> tuple[Rewards, Float[Tensor, "groups k"]]:
    """Values less the mean of their group, and the standard deviation of every group."""
    count = members.sum(1, keepdim=True).clamp_min(1)
    # Twice: the first mean of a large constant is off by a rounding, which the second takes away.
    for _ in range(2):
        values = values - members.T @ (members @ values / count)
    return values, (members @ values.square() / count).sqrt()


def _share(flat: Bool[Tensor, "groups k"], members: Members) -> Float[Tensor, "k"]:
    """Share of the groups with a valid rollout that are flat."""
    counted = members.sum(1, keepdim=True) > 0
    return (flat & counted).sum(0) / counted.sum(0).clamp_min(1)


def _logged(
    values: Float[Tensor, "n"], whole: Whole, flat: Float[Tensor, "k"], total: Float[Tensor, "1"], clip: float | None
) -> Advantages:
    # What is as good as the others is so exactly: a rounding would cost a pass of the policy.
    values = torch.where(values.abs() < ROUNDING, 0.0, values)
    kept = values if clip is None else values.clamp(-clip, clip)
    clipped = (kept != values).sum() / whole.sum().clamp_min(1)
    return Advantages(kept.float(), flat, total[0], clipped)
