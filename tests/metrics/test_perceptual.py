"""LPIPS' formula on the fixed random features: what it is, what it sees, and what it leaves out."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.metrics.conftest import moving_blocks
from wm_lightning.metrics.degradations import blur, noise
from wm_lightning.metrics.features import ClipFeatures, to_size
from wm_lightning.metrics.perceptual import AT_ONCE, HorizonPerceptual


def measured(made: Tensor, truth: Tensor, *, context: int = 0) -> list[float]:
    metric = HorizonPerceptual(features=ClipFeatures.load(), context=context, horizon=truth.shape[1] - context)
    metric.update(made, truth)
    return list(metric.values())


def by_hand(made: Tensor, truth: Tensor) -> list[float]:
    """Place by place: at each, channels as a vector of length one."""
    total = torch.zeros(made.shape[:2])
    for b, f in ((b, f) for b in range(len(made)) for f in range(made.shape[1])):
        pair = [ClipFeatures.load().maps(to_size(video[b : b + 1, f : f + 1])[0]) for video in (made, truth)]
        for x, y in zip(*pair, strict=True):
            places = [
                (x[0, :, i, j] / x[0, :, i, j].norm() - y[0, :, i, j] / y[0, :, i, j].norm()).square().sum()
                for i in range(x.shape[2])
                for j in range(x.shape[3])
            ]
            total[b, f] += torch.stack(places).mean()
    return total.mean(0).tolist()


def test_it_is_its_formula_at_every_frame() -> None:
    truth = moving_blocks(2, seed=0, frames=3)
    made = truth.clone()
    made[:, 1] = noise(truth, 0.5)[:, 1]
    made[:, 2] = blur(truth, 1.0)[:, 2]
    found = measured(made, truth)
    assert found[0] == 0 < found[1] and found[2] > 0
    assert found == pytest.approx(by_hand(made, truth), rel=1e-4)
    assert found == pytest.approx(measured(truth, made), rel=1e-6), "a distance has no direction"


@pytest.mark.parametrize("damage", [blur, noise])
def test_it_grows_with_damage(damage: Callable[[Tensor, float], Tensor]) -> None:
    truth = moving_blocks(3, seed=1, frames=2)
    weak, strong = (sum(measured(damage(truth, strength), truth)) for strength in (0.3, 1.0))
    assert 0 < weak < strong


def test_how_frames_are_grouped_and_what_was_given_change_nothing() -> None:
    truth = moving_blocks(AT_ONCE // 3 + 2, seed=2, frames=4)  # more frames than are in work at once
    made = noise(truth, 0.5)
    whole = measured(made, truth, context=1)
    rows = [measured(made[n : n + 1], truth[n : n + 1], context=1) for n in range(len(truth))]
    assert whole == pytest.approx(torch.tensor(rows).mean(0).tolist(), rel=1e-4)
    made[:, 0] = 255 - made[:, 0]
    assert measured(made, truth, context=1) == whole


def test_grey_frames_and_sizes_of_all_kinds_are_seen_and_flat_frames_have_a_distance() -> None:
    grey = moving_blocks(2, seed=3, frames=2, size=40)[:, :, :1]
    in_colour = grey.expand(-1, -1, 3, -1, -1)
    assert measured(noise(grey, 1.0), grey) == pytest.approx(
        measured(noise(grey, 1.0).expand(-1, -1, 3, -1, -1), in_colour)
    )
    black, white = (torch.full((1, 1, 3, 8, 8), value, dtype=torch.uint8) for value in (0, 255))
    [flat] = measured(black, white)
    assert 0 < flat <= 8


def test_it_says_which_features_and_neither_stores_nor_moves_them() -> None:
    metric = HorizonPerceptual(features=ClipFeatures.load(), context=0, horizon=1)
    assert metric.extractor_hash == ClipFeatures.load().extractor_hash
    truth = moving_blocks(1, seed=0, frames=1)
    made = noise(truth, 1.0)
    found = []
    for owner in (metric, torch.nn.ModuleList([metric]).to(torch.bfloat16)):
        metric.reset()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            metric.update(made, truth)
        found.append(metric.mean())
        assert not owner.state_dict()
    assert found[0] == found[1] > 0
