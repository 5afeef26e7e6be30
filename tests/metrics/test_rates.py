"""Rates with Wilson's interval, and gains on the same tasks."""

import pytest
import torch

from wm_lightning.metrics.rates import Rate, paired_gain, rate


@pytest.mark.parametrize(
    ("met", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662), (200, 200, 0.9812, 1.0)],
)
def test_the_interval_is_wilsons(met: int, n: int, low: float, high: float) -> None:
    """Numbers of Newcombe (1998) among them: 81 of 263."""
    assert Rate(met, n).interval == pytest.approx((low, high), abs=2e-4)


def test_nothing_valid_has_no_rate() -> None:
    found = rate(torch.tensor([True, False]), torch.tensor([False, False]))
    assert found.n == 0 and found.value is None and found.interval is None


def test_invalid_judgements_count_nowhere() -> None:
    met, valid = torch.tensor([True, True, False, True]), torch.tensor([True, False, True, True])
    assert rate(met, valid) == Rate(2, 3)


def test_pairs_tell_more_than_two_rates() -> None:
    """Ten tasks of two hundred better and none worse: the rates' own intervals overlap, the gain's is above zero."""
    one, other = torch.arange(200) < 110, torch.arange(200) < 100
    gain = paired_gain(one, other, torch.ones(200, dtype=torch.bool), draws=2000, seed=0)
    assert gain is not None and gain.value == pytest.approx(0.05) and gain.n == 200
    assert 0.015 < gain.low < 0.03 < gain.high < 0.09
    bounds = [Rate(110, 200).interval, Rate(100, 200).interval]
    assert bounds[0] is not None and bounds[1] is not None and bounds[0][0] < bounds[1][1]


def test_a_gain_needs_two_tasks() -> None:
    yes = torch.ones(3, dtype=torch.bool)
    assert paired_gain(yes, ~yes, torch.tensor([True, False, False]), draws=10, seed=0) is None
