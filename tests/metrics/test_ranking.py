"""Statistics of policies' success rates against numbers that were worked out by hand."""

import math

import numpy as np
import pytest

from wm_lightning.metrics.ranking import Confusion, confusion, correlation, mean_gap, mmrv, pearson, ranks, spearman


def test_correlations_are_those_of_the_textbook() -> None:
    # Deviations (-1, 0, 1) and (-1, 1, 0): 1 / sqrt(2 * 2).
    assert pearson([1.0, 2.0, 3.0], [1.0, 3.0, 2.0]) == pytest.approx(0.5)
    # 1, 4, 9 has deviations (-11, -2, 13) / 3: 8 / sqrt(2 * 294 / 9).
    assert pearson([1.0, 2.0, 3.0], [1.0, 4.0, 9.0]) == pytest.approx(8 / math.sqrt(2 * 294 / 9))
    assert spearman([1.0, 2.0, 3.0], [1.0, 4.0, 9.0]) == pytest.approx(1.0)
    assert spearman([0.1, 0.4, 0.9, 0.5], [0.8, 0.6, 0.1, 0.4]) == pytest.approx(-1.0)
    assert ranks([0.3, 0.1, 0.3, 0.9]).tolist() == [2.5, 1.0, 2.5, 4.0]
    assert pearson([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None and pearson([1.0], [2.0]) is None
    with pytest.raises(ValueError, match="2 rates beside 3"):
        pearson([1.0, 2.0], [1.0, 2.0, 3.0])


def test_three_policies_in_the_right_order_prove_little() -> None:
    # Of six orders the right one and its reverse are as extreme.
    found = correlation([0.1, 0.5, 0.9], [0.2, 0.5, 0.8], spearman, draws=10, seed=0)
    assert (found.value, found.p, found.n) == (pytest.approx(1.0), pytest.approx(2 / 6), 3)
    # 1 - 6 * 2 / (3 * 8) = 0.5: that much or more comes with four of six: +-0.5 twice each, +-1 once each.
    found = correlation([1.0, 2.0, 3.0], [1.0, 3.0, 2.0], spearman, draws=10, seed=0)
    assert (found.value, found.p) == (pytest.approx(0.5), pytest.approx(1.0))
    assert correlation([0.5, 0.5], [0.1, 0.2], pearson, draws=10, seed=0).p is None


def test_of_many_policies_orders_are_drawn() -> None:
    order = [place / 10 for place in range(10)]
    sure, chance = (correlation(order, other, pearson, draws=499, seed=3) for other in (order, order[5:] + order[:5]))
    assert sure.p == pytest.approx(1 / 500)
    assert chance.p is not None and sure.p is not None and sure.p < chance.p <= 1
    assert correlation(order, order[5:] + order[:5], pearson, draws=499, seed=3) == chance


def test_mmrv_is_the_largest_real_difference_that_is_ordered_wrongly() -> None:
    assert mmrv(real=[0.1, 0.5, 0.9], model=[0.0, 0.2, 0.3]) == 0
    # The first two are exchanged: 0.4 for each of them, nothing for the third.
    assert mmrv(real=[0.1, 0.5, 0.9], model=[0.4, 0.2, 0.6]) == pytest.approx((0.4 + 0.4 + 0) / 3)
    assert mmrv(real=[0.1, 0.5, 0.9], model=[0.9, 0.5, 0.1]) == pytest.approx((0.8 + 0.4 + 0.8) / 3)
    # A tie of the model is held against the better one of the two alone.
    assert mmrv(real=[0.1, 0.5], model=[0.3, 0.3]) == pytest.approx(0.4 / 2)
    real, model = [0.0, 0.6, 0.7], [0.5, 0.4, 0.9]
    assert mmrv(real=real, model=model) != pytest.approx(mmrv(real=model, model=real))


def test_gap() -> None:
    assert mean_gap([0.1, 0.5], [0.2, 0.2]) == pytest.approx(0.2)


def test_a_judge_is_told_from_chance() -> None:
    judged = np.array([True] * 25 + [False] * 25)
    true = np.array([True] * 20 + [False] * 5 + [True] * 10 + [False] * 15)
    found = confusion(judged, true)
    assert found == Confusion(20, 5, 10, 15)
    assert (found.agreement.value, found.precision.value, found.recall.value) == (0.7, 0.8, pytest.approx(2 / 3))
    # Chance agrees in 0.5 * 0.6 + 0.5 * 0.4 = 0.5.
    assert found.kappa == pytest.approx((0.7 - 0.5) / 0.5)
    assert Confusion(3, 0, 0, 0).kappa is None and Confusion(0, 0, 0, 0).agreement.value is None
