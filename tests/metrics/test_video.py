"""PSNR and SSIM by horizon: what they average, what they leave out, what they refuse."""

import numpy as np
import pytest
import torch
from torch import Tensor

from wm_lightning.metrics.video import CEILING, HorizonMean, HorizonPSNR, HorizonSSIM

BOTH = pytest.mark.parametrize("measure", [HorizonPSNR, HorizonSSIM])


def noisy(truth: Tensor, levels: list[float]) -> Tensor:
    """Adds noise whose strength differs by frame."""
    spread = torch.tensor(levels).reshape(1, -1, 1, 1, 1)
    draws = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    return (truth + spread * draws).clamp(0, 255).round().to(torch.uint8)


def test_psnr_is_its_formula_at_every_horizon(clips):
    truth = clips(5, seed=0, frames=4)
    generated = noisy(truth, [1, 5, 10, 40])
    measure = HorizonPSNR(context=1, horizon=3)
    measure.update(generated, truth)
    errors = (generated.numpy().astype(float) - truth.numpy()) ** 2
    expected = np.log10(255**2 / errors.mean(axis=(2, 3, 4)))[:, 1:].mean(axis=0) * 10
    np.testing.assert_allclose(measure.values(), expected, rtol=1e-5)


@BOTH
def test_falls_with_the_damage_of_its_own_horizon_only(measure: type[HorizonMean], clips):
    truth = clips(4, seed=0, frames=4)
    values = []
    for last in (5.0, 40.0):
        metric = measure(context=1, horizon=3)
        metric.update(noisy(truth, [0, 5, 20, last]), truth)
        values.append(metric.values())
    assert values[0][0] > values[0][1]
    assert values[0][:2] == values[1][:2] and values[0][2] > values[1][2]


@BOTH
def test_context_frames_do_not_count(measure: type[HorizonMean], clips):
    truth = clips(4, seed=0, frames=4)
    generated = noisy(truth, [0, 10, 10, 10])
    spoilt = generated.clone()
    spoilt[:, :2] = 0
    results = []
    for video in (generated, spoilt):
        metric = measure(context=2, horizon=2)
        metric.update(video, truth)
        results.append(metric.values())
    assert results[0] == results[1]


@BOTH
def test_every_clip_counts_once_however_clips_are_batched(measure: type[HorizonMean], clips):
    truth = clips(7, seed=0, frames=3)
    generated = noisy(truth, [0, 10, 30])
    generated[6] = 0  # the clip of the short last batch: a mean of batch means would overweight it
    whole, parts = measure(context=1, horizon=2), measure(context=1, horizon=2)
    whole.update(generated, truth)
    for rows in (slice(0, 3), slice(3, 6), slice(6, 7)):
        parts.update(generated[rows], truth[rows])
    np.testing.assert_allclose(whole.values(), parts.values(), rtol=1e-5)


@BOTH
@pytest.mark.parametrize("size", [11, 16, 24, 40])
def test_perfect_and_finite_on_equal_frames_of_small_size(measure: type[HorizonMean], size: int, clips):
    truth = clips(2, seed=0, frames=2, size=size)
    metric = measure(context=1, horizon=1)
    metric.update(truth, truth)
    assert metric.values() == pytest.approx([CEILING if measure is HorizonPSNR else 1.0], rel=1e-4)


@BOTH
def test_shapes_that_do_not_fit_are_refused(measure: type[HorizonMean], clips):
    truth = clips(2, seed=0, frames=4)
    with pytest.raises(ValueError, match=r"1 \+ 2 = 3 frames"):
        measure(context=1, horizon=2).update(truth, truth)
    with pytest.raises(ValueError, match="must be equal"):
        measure(context=1, horizon=3).update(truth[:1], truth)


def test_ssim_refuses_frames_smaller_than_its_window(clips):
    truth = clips(2, seed=0, frames=2, size=10)
    with pytest.raises(ValueError, match="at least 11 x 11"):
        HorizonSSIM(context=1, horizon=1).update(truth, truth)
