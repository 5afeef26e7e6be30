"""Policy gradients for models that denoise: the clipped loss, what stands in for a log-probability, and KL terms.

Levels are those of the flow (t = 1 noise), velocities noise − x0. A log-probability has one row per rollout and one
column per draw: a timestep of AWM's matching loss, or a stochastic step of the sampler that made the rollout (Flow-GRPO
2505.05470, DanceGRPO 2505.07818), whose `log_prob` gives it. All means are over everything, advantages of 0 included,
so that the mean over micro-batches of one size is that of the batch.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from wm_lightning.clip import Latents, Levels
from wm_lightning.noising import per_pixel
from wm_lightning.objectives.denoising import Given, Scalar, frame_error, frame_mean, precise, sample_error

LogProbs = Float[Tensor, "b k"]
Weighting = Literal["uniform", "t", "t**2", "huber", "ghuber", "elbo"]
Aggregation = Literal["exp_first", "sum_first"]
SMALLEST_ERROR = 1e-10  # keeps roots of a matching loss, and their gradients, finite
LARGEST_LOG_RATIO = 20.0  # exp of it is 5e8; beyond, a ratio would become infinite, and infinity times 0 is NaN
SMALLEST_NORMALISER = 1e-5


@dataclass(frozen=True)
class PolicyLoss:
    """The loss, and what to log: the mean ratio (1 before the first update) and the share outside the clip range."""

    loss: Scalar
    ratio: Scalar
    clipped: Scalar


def policy_loss(
    log_prob: LogProbs, old: LogProbs, advantage: Float[Tensor, "b *k"], *, clip: float, aggregation: Aggregation
) -> PolicyLoss:
    r"""PPO's clipped loss (1707.06347 eq. 7), minimised; `old` and the advantages get no gradient.

    .. math:: L = \mathrm{mean}\,\max(-A\rho,\; -A\,\mathrm{clip}(\rho, 1 - c, 1 + c)),\quad
              \rho = \exp(\log p - \mathrm{sg}[\log p_{old}])

    "exp_first" takes one ratio per draw. "sum_first" averages the log-probabilities of a rollout's draws first and
    takes one ratio per rollout (both AWM's, 2509.25050); their gradients agree at ratio 1. For a rollout's only update,
    `old` is `log_prob` itself, and the gradient that of −A log p. An advantage is a rollout's, or a draw's with
    "exp_first". Raises ValueError for a clip range of 0 or less, and for several advantages of one ratio.
    """
    if clip <= 0:
        raise ValueError(f"{clip=} must be positive: at 0 every ratio but 1 is clipped")
    if aggregation == "sum_first" and advantage.ndim > 1:
        raise ValueError(f"{aggregation=} takes one ratio per rollout, and each of its draws has another advantage")
    log_ratio = precise(log_prob) - precise(old.detach())
    if aggregation == "sum_first":
        log_ratio = log_ratio.mean(1, keepdim=True)
    ratio = log_ratio.clamp_max(LARGEST_LOG_RATIO).exp()
    gain = precise(advantage.detach()).reshape(len(log_prob), -1)
    losses = torch.maximum(-gain * ratio, -gain * ratio.clamp(1 - clip, 1 + clip))
    outside = (ratio.detach() - 1).abs() > clip
    return PolicyLoss(losses.mean(), ratio.detach().mean(), outside.to(ratio.dtype).mean())


def matching_log_prob(
    error: Float[Tensor, "*n"], t: Float[Tensor, "*n"], *, weighting: Weighting, p: float
) -> Float[Tensor, "*n"]:
    r"""Minus the weighted matching loss, which AWM (2509.25050) takes for a log-probability.

    .. math:: \log p = -\psi(\ell, t),\quad \psi \in
              \{\ell,\; t\ell,\; t^2\ell,\; t(\sqrt{\ell + \epsilon} - \sqrt\epsilon),\;
              \tfrac{t}{p}((\ell + \epsilon)^p - \epsilon^p),\; \tfrac{1 - t}{t}\ell\}

    for "uniform", "t", "t**2", "huber", "ghuber" and "elbo". The last is the likelihood's own bound, which weighs the
    error of x0 by −SNR'(t) / 2 (2107.00630). `error` is `sample_error` of a velocity at level t against noise −
    x0, with the same noise and level for old and new; `p` is read by "ghuber" alone, which is "t" at p = 1 and damps
    large errors below. Raises ValueError for p ≤ 0 or an unknown weighting.
    """
    loss, level = precise(error), precise(t)
    if weighting == "uniform":
        return -loss
    if weighting == "t":
        return -level * loss
    if weighting == "t**2":
        return -level.square() * loss
    if weighting == "huber":
        return -level * ((loss + SMALLEST_ERROR).sqrt() - SMALLEST_ERROR**0.5)
    if weighting == "ghuber":
        if p <= 0:
            raise ValueError(f"{p=} must be positive for weighting='ghuber' (0.25 in WMSD)")
        return -level / p * ((loss + SMALLEST_ERROR) ** p - SMALLEST_ERROR**p)
    if weighting == "elbo":
        return -elbo_weight(level, eta=0.5**0.5) * loss
    raise ValueError(f"{weighting=} must be one of uniform, t, t**2, huber, ghuber, elbo")


def nft_loss(
    velocity: Latents,
    old: Latents,
    x_t: Latents,
    t: Levels,
    x0: Latents,
    advantage: Float[Tensor, "b"],
    given: Given,
    *,
    beta: float,
    clip: float,
) -> Scalar:
    r"""DiffusionNFT (2509.16117, with its code's self-normalised x0 loss): good samples pull, bad ones push.

    .. math:: L = c\,\mathrm{mean}\,[r L^+ + (1 - r) L^-]/\beta,\quad r = \mathrm{clip}(\tfrac12 + A/2c, 0, 1)

    with u⁺ = β u + (1 − β) u_old, u⁻ = (1 + β) u_old − β u, and L± the squared error of x_t − t u± against `x0`, where
    the rollout ended, over its mean absolute error, a constant; frames that are given stay out. At u = u_old the
    gradient is proportional to 2r − 1. `old` gets no gradient. Raises ValueError unless beta and clip are positive.
    """
    if beta <= 0 or clip <= 0:
        raise ValueError(f"{beta=} and {clip=} must be positive")
    new, fixed = precise(velocity), precise(old.detach())
    noisy, level = precise(x_t), per_pixel(precise(t))
    share = (0.5 + precise(advantage.detach()) / (2 * clip)).clamp(0, 1)
    positive = _normalised_error(noisy - level * (beta * new + (1 - beta) * fixed), x0, given)
    negative = _normalised_error(noisy - level * ((1 + beta) * fixed - beta * new), x0, given)
    return clip * (share * positive + (1 - share) * negative).mean() / beta


def _normalised_error(x0: Latents, target: Latents, given: Given) -> Float[Tensor, "b"]:
    distance = (x0.detach() - precise(target)).abs().mean(dim=(2, 3, 4))
    return sample_error(x0, target, given) / frame_mean(distance, given).clamp_min(SMALLEST_NORMALISER)


def velocity_kl(velocity: Latents, reference: Latents, given: Given, weight: Levels | None = None) -> Scalar:
    r"""Mean of w |u − u_ref|² over all frames that are not given; the reference gets no gradient.

    The reference is a frozen network (Flow-GRPO's KL up to its factor), a moving average of the learner (AWM's trust
    region), or WMSD's demonstrator. `weight` is 1 if None; `elbo_weight` makes it a bound on the likelihood's KL.
    """
    error = frame_error(velocity, reference)
    return frame_mean(error if weight is None else error * weight, given).mean()


def elbo_weight(t: Float[Tensor, "*n"], *, eta: float) -> Float[Tensor, "*n"]:
    """1 / (2 s²) with Flow-GRPO's s = eta sqrt(t / (1 − t)): 0 at pure noise, large near clean frames, 0 on those."""
    level = precise(t)
    weight = (1 - level) / (2 * eta**2 * torch.where(level > 0, level, torch.ones_like(level)))
    return torch.where(level > 0, weight, torch.zeros_like(weight))


def transition_kl(mean: Latents, reference: Latents, std: Float[Tensor, "b f 1 1 1"]) -> Scalar:
    r"""Closed-form KL between two transitions of one standard deviation, mean over dimensions.

    .. math:: D = \mathrm{mean}\,|\mu - \mu_{ref}|^2 / 2 s^2

    (Flow-GRPO 2505.05470.) `std` is that of the step, sqrt of its length included. Frames to which nothing was
    drawn (std 0) do not count; the reference gets no gradient.
    """
    still = std[:, :, 0, 0, 0] == 0
    variance = torch.where(std == 0, torch.ones_like(std), std)[:, :, 0, 0, 0].square()
    return frame_mean(frame_error(mean, reference) / (2 * precise(variance)), still).mean()
