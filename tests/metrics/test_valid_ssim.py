"""SSIM of protocols: over windows within the frame, by its definition."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from wm_lightning.metrics.valid_ssim import HorizonValidSSIM
from wm_lightning.metrics.video import HorizonSSIM


def by_definition(x: Tensor, y: Tensor) -> Tensor:
    """Wang et al. (2004), eq. 13, at every place where the 11 x 11 window fits, in float64."""
    line = torch.exp(-((torch.arange(11).double() - 5) ** 2) / (2 * 1.5**2))
    window = (torch.outer(line, line) / line.sum() ** 2)[None, None]
    x, y = (v.double().flatten(0, 1)[:, None] for v in (x, y))
    mx, my, xx, yy, xy = (conv2d(v, window) for v in (x, y, x * x, y * y, x * y))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    structure = (2 * (xy - mx * my) + c2) / (xx - mx**2 + yy - my**2 + c2)
    return ((2 * mx * my + c1) / (mx**2 + my**2 + c1) * structure).mean((1, 2, 3))


def test_it_is_the_definition_and_not_the_padded_mean(clips) -> None:
    truth = clips(3, seed=1, frames=2)
    noise = torch.randint(-30, 31, truth.shape, generator=torch.Generator().manual_seed(0))
    generated = (truth + noise).clamp(0, 255).to(torch.uint8)
    wanted = torch.stack([
        by_definition(a, b) for a, b in zip(generated.flatten(0, 1)[:, None], truth.flatten(0, 1)[:, None], strict=True)
    ]).mean(1).reshape(3, 2).mean(0)  # fmt: skip
    metric, padded = HorizonValidSSIM(context=0, horizon=2), HorizonSSIM(context=0, horizon=2)
    for one in (metric, padded):
        one.update(generated, truth)
    assert metric.values() == pytest.approx(wanted.tolist(), abs=1e-4)
    assert padded.values() != pytest.approx(wanted.tolist(), abs=3e-3)


def test_equal_frames_have_1_and_frames_below_the_window_are_refused(clips) -> None:
    video, metric = clips(2, seed=1, frames=2), HorizonValidSSIM(context=0, horizon=2)
    metric.update(video, video)
    assert metric.values() == pytest.approx((1.0, 1.0), abs=1e-4)
    with pytest.raises(ValueError, match="at least 11 x 11 pixels"):
        metric.update(video[..., :10, :], video[..., :10, :])
