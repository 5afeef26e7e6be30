"""Advantages: their means and deviations, what leaves them alone, and what may not count."""

import math
from collections.abc import Sequence
from typing import Literal

import pytest
import torch
from torch import Tensor

from tests.networks.tiny import randn
from wm_lightning.objectives.advantages import Advantages, gdpo, weighted_sum

GROUPS = torch.tensor([7, 7, 7, 7, 3, 3, 3, 3, 3, 12, 12, 12])  # of unequal size, in no order
WEIGHTS = (0.5, 0.225, 0.05)
VALID = torch.ones(12, 3, dtype=torch.bool)
SOME_VALID = VALID.clone()
SOME_VALID[1, 2] = SOME_VALID[4, 0] = SOME_VALID[10, 1] = SOME_VALID[11, 1] = False
KINDS = ["sum group", "sum batch", "gdpo"]
ORDER = torch.tensor([5, 0, 9, 3, 11, 4, 1, 7, 2, 10, 6, 8])


def table(seed: int = 0) -> Tensor:
    """Rewards of very different scale and place."""
    return randn(12, 3, seed=seed) * torch.tensor([1.0, 20.0, 0.01]) + torch.tensor([0.0, -100.0, 3.0])


def advantages(
    kind: str, rewards: Tensor, valid: Tensor = VALID, *, weights: Sequence[float] = WEIGHTS, groups: Tensor = GROUPS,
    least: float = 0.0, clip: float | None = None,
) -> Advantages:  # fmt: skip
    if kind == "gdpo":
        return gdpo(rewards, weights, groups, valid, min_group_std=least, clip=clip)
    std: Literal["group", "batch"] = "group" if kind == "sum group" else "batch"
    return weighted_sum(rewards, weights, groups, valid, std=std, min_group_std=least, clip=clip)


def test_the_published_example() -> None:
    """Two rewards whose sum merges three rollouts that GDPO tells apart, from the first at least."""
    rewards = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    given = rewards, (1.0, 1.0), torch.zeros(4, dtype=torch.long), torch.ones(4, 2, dtype=torch.bool)
    third = 0.57735
    for std in ("group", "batch"):
        summed = weighted_sum(*given, std=std, min_group_std=0.0, clip=None)
        torch.testing.assert_close(summed.values, torch.tensor([-3 * third, third, third, third]))
    apart = gdpo(*given, min_group_std=0.0, clip=None).values
    torch.testing.assert_close(apart, torch.tensor([-1.716, 0.796, 0.460, 0.460]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("valid", [VALID, SOME_VALID], ids=["valid", "some invalid"])
@pytest.mark.parametrize("kind", KINDS)
def test_groups_have_mean_zero(kind: str, valid: Tensor) -> None:
    whole = valid.all(1)
    found = advantages(kind, table(), valid).values
    for group in GROUPS.unique():
        assert found[(group == GROUPS) & whole].sum().abs() < 1e-6
    assert found[whole].abs().sum() > 3


@pytest.mark.parametrize("valid", [VALID, SOME_VALID], ids=["valid", "some invalid"])
def test_gdpo_has_mean_zero_and_deviation_one(valid: Tensor) -> None:
    found = advantages("gdpo", table(), valid).values[valid.all(1)]
    assert found.mean().abs() < 1e-6
    torch.testing.assert_close(found.std(correction=0), torch.tensor(1.0))


def test_deviations_are_those_of_the_group_or_of_all_totals() -> None:
    total = (table().double() @ torch.tensor(WEIGHTS).double()).float()
    by_group, by_batch = (advantages(kind, table()).values for kind in ("sum group", "sum batch"))
    for group in GROUPS.unique():
        own = total[group == GROUPS]
        torch.testing.assert_close(by_group[group == GROUPS], (own - own.mean()) / own.std(correction=0))
        torch.testing.assert_close(by_batch[group == GROUPS], (own - own.mean()) / total.std(correction=0))


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e6])
@pytest.mark.parametrize("kind", KINDS)
def test_an_invalid_rollout_gets_zero_and_counts_nowhere(kind: str, value: float) -> None:
    """Neither what stands in its place nor its other rewards matter: the rest is as if it were not there."""
    whole = SOME_VALID.all(1)
    rewards = torch.where(SOME_VALID, table(), value)
    found = advantages(kind, rewards, SOME_VALID)
    assert not found.values[~whole].any()
    alone = advantages(kind, table()[whole], VALID[whole], groups=GROUPS[whole])
    torch.testing.assert_close(found.values[whole], alone.values)
    torch.testing.assert_close(found.flat, alone.flat)


@pytest.mark.parametrize("kind", KINDS)
def test_what_pays_nothing_may_fail(kind: str) -> None:
    """A reward of weight 0 is looked at and moves nothing, whether it worked out or not."""
    failed, free = VALID.clone(), (0.5, 0.0, 0.05)
    failed[[1, 5, 11], 1] = False
    found = advantages(kind, torch.where(failed, table(), math.nan), failed, weights=free)
    torch.testing.assert_close(found.values, advantages(kind, table(), weights=free).values)
    assert found.values[[1, 5, 11]].abs().min() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_rollouts_and_names_of_groups_do_not_matter(kind: str) -> None:
    expected = advantages(kind, table(), SOME_VALID).values
    found = advantages(kind, table()[ORDER], SOME_VALID[ORDER], groups=100 - 7 * GROUPS[ORDER])
    torch.testing.assert_close(found.values, expected[ORDER])


def test_gdpo_does_not_see_the_scale_or_place_of_a_reward() -> None:
    expected = advantages("gdpo", table().double()).values
    changed = table().double() * torch.tensor([1000.0, 0.1, 3.0]) + torch.tensor([5.0, -1.0, 100.0])
    torch.testing.assert_close(advantages("gdpo", changed).values, expected, atol=1e-5, rtol=1e-5)
    other = advantages("gdpo", table().double(), weights=(0.05, 0.225, 0.5)).values
    assert (other - expected).abs().max() > 0.1


@pytest.mark.parametrize("constant", [0.1, 1e4 / 3, -7.7])
@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_reward_contributes_nothing(kind: str, constant: float) -> None:
    rewards = table().double()
    rewards[:, 1] = constant
    without = advantages(kind, rewards[:, [0, 2]], VALID[:, [0, 2]], weights=(0.5, 0.05))
    found = advantages(kind, rewards)
    torch.testing.assert_close(found.values, without.values, atol=1e-6, rtol=1e-6)
    assert found.flat.tolist() == [0, 1, 0]
    alone = advantages(kind, rewards[:, [1]], VALID[:, [1]], weights=(1.0,))
    assert alone.values.abs().max() <= 1e-8 and alone.flat_total == 1


def test_a_nearly_constant_reward_is_blown_up_unless_it_is_told_not_to() -> None:
    rewards = torch.stack([randn(12, seed=1), 1e-3 * randn(12, seed=2)], dim=1)
    given = {"valid": VALID[:, :2], "weights": (1.0, 1.0)}
    without = advantages("gdpo", rewards[:, :1], VALID[:, :1], weights=(1.0,)).values
    assert (advantages("gdpo", rewards, **given).values - without).abs().max() > 0.1
    kept = advantages("gdpo", rewards, **given, least=0.01)
    torch.testing.assert_close(kept.values, without)
    assert kept.flat.tolist() == [0, 1] and kept.flat_total == 0


@pytest.mark.parametrize("kind", ["sum group", "sum batch"])
def test_a_group_whose_total_hardly_varies_is_left_out(kind: str) -> None:
    rewards = randn(12, 1, seed=1)
    rewards[GROUPS == 3] = 1 + 1e-3 * randn(5, 1, seed=2)
    given = {"valid": VALID[:, :1], "weights": (1.0,)}
    before, found = (advantages(kind, rewards, **given, least=least) for least in (0.0, 0.01))
    assert not found.values[GROUPS == 3].any() and before.values[GROUPS == 3].all()
    assert torch.equal(found.values[GROUPS != 3], before.values[GROUPS != 3])
    torch.testing.assert_close(found.flat_total, torch.tensor(1 / 3), check_dtype=False)


@pytest.mark.parametrize("kind", KINDS)
def test_groups_of_one_tell_nothing_and_are_seen_in_the_log(kind: str) -> None:
    found = advantages(kind, table(), groups=torch.arange(12))
    assert found.values.abs().max() <= 1e-8 and found.flat.tolist() == [1, 1, 1] and found.flat_total == 1


@pytest.mark.parametrize("kind", KINDS)
def test_clipping_is_the_last_thing_done_and_logged(kind: str) -> None:
    free, clipped = advantages(kind, table()), advantages(kind, table(), clip=0.8)
    assert torch.equal(clipped.values, free.values.clamp(-0.8, 0.8)) and free.clipped == 0
    assert clipped.clipped == (free.values.abs() > 0.8).float().mean() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_where_every_judgement_failed_nothing_is_learned(kind: str) -> None:
    found = advantages(kind, torch.full((12, 3), math.nan), ~VALID)
    assert not found.values.any() and found.values.isfinite().all() and found.flat.isfinite().all()


def test_tables_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="2 weights"):
        advantages("gdpo", table(), weights=(1.0, 1.0))
    with pytest.raises(ValueError, match="reward 1 of rollout 0 is nan but counted as valid"):
        advantages("sum batch", torch.where(torch.arange(3) == 1, math.nan, table()))
    with pytest.raises(ValueError, match="clip=0"):
        advantages("gdpo", table(), clip=0.0)
