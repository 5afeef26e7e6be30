"""The kernel distance: unbiased, symmetric, monotone in damage, honest about small samples."""

import pytest
import torch
from torch import Tensor

from wm_lightning.metrics.distance import Scale, bootstrap_excess, kernel, kernel_distance, mmd2
from wm_lightning.metrics.features import ClipFeatures

SIZE = 96


def gauss(rows: int, seed: int, shift: float = 0.0, columns: int = 6) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) + shift


SETTINGS = {"scale": Scale.fit(gauss(100, 99)), "extractor": "test", "minimum": 16, "draws": 300, "seed": 0}


@pytest.fixture(scope="module")
def real(clips) -> Tensor:
    """Four independent sets of real clips."""
    return clips(4 * SIZE, seed=1)


@pytest.fixture(scope="module")
def extractor() -> ClipFeatures:
    return ClipFeatures.load()


@pytest.fixture(scope="module")
def settings(real: Tensor, extractor: ClipFeatures) -> dict:
    return SETTINGS | {"scale": Scale.fit(extractor(real[3 * SIZE :]))}


def test_equals_the_definition_over_pairs():
    x, y = gauss(5, 0), gauss(7, 1)

    def gram(a: Tensor, b: Tensor) -> Tensor:
        return (a.double() @ b.double() / 6 + 1) ** 3

    within = [sum(gram(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j) for z in (x, y)]
    across = sum(gram(a, b) for a in x for b in y)
    expected = within[0] / (5 * 4) + within[1] / (7 * 6) - 2 * across / (5 * 7)
    assert mmd2(x, y) == pytest.approx(float(expected), rel=1e-9)


def test_is_symmetric():
    x, y = gauss(20, 0), gauss(20, 1, shift=1.0)
    assert mmd2(x, y) == pytest.approx(mmd2(y, x), rel=1e-12)


def test_is_unbiased_for_equal_distributions():
    draws = torch.tensor([mmd2(gauss(12, 2 * k), gauss(12, 2 * k + 1)) for k in range(800)])
    assert draws.mean().abs() < 3 * draws.std() / len(draws) ** 0.5
    # The biased estimate, which counts every clip's similarity with itself, would fail this test.
    x, y = gauss(12, 0), gauss(12, 1)
    extra = (kernel(x, x).diagonal().mean() + kernel(y, y).diagonal().mean()) / 12
    assert extra > 3 * draws.std() / len(draws) ** 0.5


def test_standardising_leaves_the_floor_unbiased():
    floors, excesses = [], []
    settings = SETTINGS | {"draws": 2}
    for k in range(500):
        sets = [gauss(16, 4 * k + part) for part in range(4)]
        found = kernel_distance(*sets[:3], **settings | {"scale": Scale.fit(sets[3])})
        floors.append(found.floor)
        excesses.append(found.excess)
    for values in (torch.tensor(floors), torch.tensor(excesses)):
        assert values.mean().abs() < 3 * values.std() / len(values) ** 0.5


def test_standardised_real_features_have_mean_0_and_mean_square_1():
    real = gauss(50, 0) * torch.tensor([1e-9, 0.1, 1.0, 10.0, 3.0, 3.0]) + 5
    scaled = Scale.fit(real)(real)
    torch.testing.assert_close(scaled.mean(dim=0), torch.zeros(6, dtype=torch.float64), atol=1e-6, rtol=0)
    assert float(scaled.square().mean()) == pytest.approx(1.0, rel=1e-6)


def test_does_not_depend_on_the_units_of_features():
    sets = [gauss(40, k, shift=0.3 * (k == 0)) for k in range(3)]
    plain = kernel_distance(*sets, **SETTINGS)
    scale = Scale.fit(1000 * gauss(100, 99) + 7)
    units = kernel_distance(*[1000 * x + 7 for x in sets], **SETTINGS | {"scale": scale})
    assert plain.value == pytest.approx(units.value, rel=1e-3)


@pytest.mark.parametrize("name", ["blur", "noise", "freeze", "shuffle"])
def test_rises_with_damage_and_stays_above_the_floor(name: str, real: Tensor, damage, extractor, settings: dict):
    truth, reference = extractor(real[:SIZE]), extractor(real[SIZE : 2 * SIZE])
    ladder = [extractor(damage[name](real[:SIZE], strength)) for strength in (0.25, 0.5, 1.0)]
    found = [kernel_distance(rung, truth, reference, **settings) for rung in ladder]
    values = [entry.value for entry in found]
    assert found[0].floor < values[0] < values[1] < values[2]
    assert all(entry.low > 0 for entry in found[1:])
    assert len({entry.floor for entry in found}) == 1


def test_fresh_real_clips_have_an_excess_that_covers_0(real: Tensor, extractor: ClipFeatures, settings: dict):
    sets = [extractor(part) for part in real.split(SIZE)]
    found = kernel_distance(sets[2], sets[0], sets[1], **settings)
    assert found.low < 0 < found.high


def test_the_truth_itself_has_no_excess():
    truth, reference = gauss(32, 0), gauss(32, 1)
    found = kernel_distance(truth, truth, reference, **SETTINGS)
    assert found.excess == 0 and found.low == 0 and found.high == 0


def test_the_interval_covers_the_true_excess():
    hits = 0
    context = [gauss(60, 10_000 + k, columns=2) for k in range(150)]
    sets = [(x + 0.5, x, gauss(60, 20_000 + k, columns=2)) for k, x in enumerate(context)]
    grams = [(kernel(g, g) - kernel(t, t), kernel(g, r) - kernel(t, r)) for g, t, r in sets]
    x, y, z = gauss(4000, 1, shift=0.5, columns=2), gauss(4000, 2, columns=2), gauss(4000, 3, columns=2)
    true = mmd2(x, y) - mmd2(z, y)
    for within, across in grams:
        draws = bootstrap_excess(within, across, draws=300, seed=0)
        hits += bool(draws.quantile(0.025) < true < draws.quantile(0.975))
    assert hits >= 0.88 * len(grams)


def episodic(episodes: int, clips: int, seed: int) -> Tensor:
    """Clips nine tenths of whose variance is that of their episode."""
    shared = 0.9**0.5 * gauss(episodes, seed, columns=2)[:, None]
    return (shared + 0.1**0.5 * gauss(episodes * clips, seed + 1, columns=2).unflatten(0, (episodes, clips))).flatten(
        0, 1
    )


def test_where_clips_come_in_episodes_whole_ones_are_drawn_and_the_interval_still_covers() -> None:
    episodes, clips, times = 16, 8, 150
    names = [str(clip // clips) for clip in range(episodes * clips)]
    x, y, z = gauss(4000, 1, shift=0.5, columns=2), gauss(4000, 2, columns=2), gauss(4000, 3, columns=2)
    true, hits, alone = mmd2(x, y) - mmd2(z, y), 0, 0
    unit = Scale(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    settings = SETTINGS | {"scale": unit, "draws": 200}
    for time in range(times):
        truth, reference = (episodic(episodes, clips, 100_000 + 4 * time + part) for part in (0, 2))
        sets = (truth + 0.5, truth, reference)
        whole = kernel_distance(*sets, **settings, episodes=(names, names))
        single = kernel_distance(*sets, **settings)
        assert (whole.value, whole.floor, whole.episodes, single.episodes) == (single.value, single.floor, 16, None)
        hits += whole.low < true < whole.high
        alone += single.low < true < single.high
    assert hits >= 0.86 * times, hits / times
    assert alone <= 0.6 * times, "what comes of taking clips of one episode for independent ones"


def test_copies_of_an_episode_do_not_meet() -> None:
    episodes, clips = 10, 4
    names = [str(clip // clips) for clip in range(episodes * clips)]
    x, y, r = episodic(episodes, clips, 1), episodic(episodes, clips, 3), episodic(episodes, clips, 5)
    x = x + 0.5 * episodic(episodes, clips, 7)
    within, across = kernel(x, x) - kernel(y, y), kernel(x, r) - kernel(y, r)
    draws = bootstrap_excess(within, across, draws=20_000, seed=0, episodes=(names, names))
    value = mmd2(x, r) - mmd2(y, r)
    assert abs(float(draws.mean()) - value) < 0.05 * float(draws.std()), "draws are centred on the value"
    one = [f"{clip:02d}" for clip in range(40)]
    settings = dict(draws=50, seed=0)
    alone = bootstrap_excess(within, across, **settings)
    assert torch.equal(alone, bootstrap_excess(within, across, **settings, episodes=(one, one)))


def test_one_episode_has_a_distance_without_an_interval() -> None:
    sets, names = [gauss(32, seed) for seed in range(3)], (["a"] * 32, ["b"] * 32)
    found = kernel_distance(*sets, **SETTINGS, episodes=names)
    assert found.value is not None and (found.low, found.high, found.episodes) == (None, None, 1)
    with pytest.raises(ValueError, match="31 episode names for 32 clips"):
        kernel_distance(*sets, **SETTINGS, episodes=([*"ab", *names[0][2:]], names[1][1:]))


def test_repeats_bit_for_bit_and_the_seed_moves_only_the_interval():
    sets = [gauss(32, 0, shift=0.5), gauss(32, 1), gauss(32, 2)]
    first, again = kernel_distance(*sets, **SETTINGS), kernel_distance(*sets, **SETTINGS)
    other = kernel_distance(*sets, **SETTINGS | {"seed": 1})
    assert first == again
    assert (other.value, other.floor) == (first.value, first.floor) and other.low != first.low


def test_too_few_clips_give_a_reason_and_no_number():
    found = kernel_distance(gauss(8, 0), gauss(8, 1), gauss(8, 2), **SETTINGS)
    assert (found.value, found.floor, found.excess, found.low, found.high) == (None,) * 5
    assert found.reason is not None and "8 clips" in found.reason and "16" in found.reason


def test_broken_features_give_a_reason_and_no_number():
    broken = gauss(32, 0)
    broken[3, 2] = float("nan")
    found = kernel_distance(broken, gauss(32, 1), gauss(32, 2), **SETTINGS)
    assert found.value is None and found.reason == "features are not finite"


def test_unequal_sets_are_refused():
    with pytest.raises(ValueError, match="three equal shapes"):
        kernel_distance(gauss(32, 0), gauss(32, 1), gauss(31, 2), **SETTINGS)
