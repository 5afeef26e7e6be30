"""Distribution matching: the gradient that two scores give a generated sample, as losses."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wm_lightning.clip import Latents
from wm_lightning.objectives.denoising import Scalar

FrameMask = Bool[Tensor, "b f"]
SMALLEST_NORMALISER = 1e-5


def _masked(values: Latents, mask: FrameMask) -> Latents:
    return torch.where(mask[..., None, None, None], values, torch.zeros_like(values))


def _count(x: Latents, mask: FrameMask) -> Float[Tensor, "b 1 1 1 1"]:
    frame = x.shape[2] * x.shape[3] * x.shape[4]
    return (mask.sum(1).clamp_min(1) * frame)[:, None, None, None, None].float()


def normaliser(x: Latents, real: Latents, mask: FrameMask) -> Float[Tensor, "b 1 1 1 1"]:
    """Mean |x − real| over the masked elements of every sample, floored (DMD 2311.18828 eq. 8, per sample)."""
    distance = _masked((x - real).abs().float(), mask).sum(dim=(1, 2, 3, 4), keepdim=True)
    return (distance / _count(x, mask)).clamp_min(SMALLEST_NORMALISER)


def dmd_gradient(x: Latents, real: Latents, fake: Latents, mask: FrameMask) -> Latents:
    """(fake − real) / normaliser on the masked frames, 0 elsewhere; non-finite values become 0 (DMD eq. 7).

    `real` and `fake` are the x0 of teacher and critic at a noised copy of x.
    """
    with torch.no_grad():
        direction = (fake.float() - real.float()) / normaliser(x, real, mask)
        return _masked(torch.nan_to_num(direction, 0.0, 0.0, 0.0), mask)


def dmd_loss(x: Latents, real: Latents, fake: Latents, mask: FrameMask) -> Scalar:
    r"""Scalar whose gradient in x is the DMD direction over the number of masked elements.

    .. math:: L = \tfrac12\,\mathrm{mean}\,\|x - \mathrm{sg}[x - g]\|^2,\quad \partial L/\partial x = g / \#
    """
    gradient = dmd_gradient(x, real, fake, mask)
    # x - target with target = (x - gradient).detach(), in an order that keeps a gradient much smaller than x,
    # and that a non-finite x does not turn into NaN.
    error = torch.nan_to_num(x.float() - x.detach().float(), 0.0, 0.0, 0.0) + gradient
    return 0.5 * error.square().sum() / _count(x, mask).sum()


def sid_loss(x: Latents, real: Latents, fake: Latents, mask: FrameMask, *, alpha: float) -> Scalar:
    r"""Score identity distillation (2404.04057 eq. 23, with DMD's normaliser); gradients flow through both scores.

    .. math:: L = \mathrm{mean}\,(R - F)\,[(R - x) - \alpha (R - F)] / w
    """
    with torch.no_grad():
        weight = normaliser(x, real, mask)
    finite = torch.isfinite(x) & torch.isfinite(real) & torch.isfinite(fake) & torch.isfinite(weight)
    # Taken out before the arithmetic: a zero gradient times an infinite factor behind it would be NaN.
    x, real, fake = (torch.where(finite, value.float(), 0.0) for value in (x, real, fake))
    gap = real - fake
    product = gap * ((real - x) - alpha * gap) / torch.where(finite, weight, 1.0)
    return _masked(product, mask).sum() / _count(x, mask).sum()
