"""Samplers whose every step is a Gaussian with a density, for policy gradients on rectified flow.

With x0 the model's, noise the one x_t then holds, and a step from t to t' < t, all three draw from

    mean = (1 − t') x0 + kept · noise,    standard deviation std

and differ in (kept, std) only. At eta = 0 these are (t', 0), and the step is Euler's on the flow's ODE, as that of
`DDIMSampler` is. The last step, to t' = 0, is always the ODE's.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from wm_lightning.clip import Latents, Levels
from wm_lightning.noising import GaussianPath, RectifiedFlow, per_pixel
from wm_lightning.objectives.denoising import frame_mean, precise
from wm_lightning.sampling.samplers import Sampler, Schedule, Step, StepList


@dataclass(frozen=True)
class SDESampler(ABC):
    """Rectified flow sampled with noise of strength `eta` at the steps `window` = (first, behind the last); None: all.

    Outside the window a step is the ODE's (MixGRPO 2507.21802), and has no density. Rewards then belong to few draws.
    Raises ValueError for a negative eta, and for a window without a step that could draw.
    """

    steps: StepList
    eta: float
    window: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.eta) and self.eta >= 0):
            raise ValueError(f"sampler.eta={self.eta} must be 0 (the ODE) or more")
        if self.window is not None:
            object.__setattr__(self, "window", tuple(self.window))
            last = self.steps.steps - 1
            if len(self.window) != 2 or not 0 <= self.window[0] < min(self.window[1], last):
                raise ValueError(
                    f"sampler.window={self.window} must be (first, behind the last) of the random steps, the first of "
                    f"them before step {last}, which is the last and never random; null makes all others random"
                )

    @property
    def draws(self) -> bool:
        return self.eta > 0

    def with_steps(self, steps: int) -> "SDESampler":
        return replace(self, steps=self.steps.with_steps(steps))

    def levels(self, path: GaussianPath, frames: int) -> Schedule:
        _require_flow(self, path)
        return self.steps.times(path)[:, None].expand(-1, frames)

    def step(self, path: GaussianPath, x_t: Latents, x0: Latents, t: Levels, t_next: Levels, noise: Latents) -> Step:
        """Mean and deviation in float32 at least; the sample is rounded to the type of x_t, as it will be stored."""
        _require_flow(self, path)
        state, clean, level, level_next = precise(x_t), precise(x0), precise(t), precise(t_next)
        random = (level_next > 0) & (level_next < level) & self._in_window(path, level)
        kept, std = self.spread(level, level_next)
        kept = per_pixel(torch.where(random, kept, level_next))
        std = per_pixel(torch.where(random, std, torch.zeros_like(std)))
        mean = per_pixel(1 - level_next) * clean + kept * path.noise(state, clean, level)
        mean = torch.where(per_pixel(t == t_next), state, mean)
        sample = mean + std * noise if self.draws else mean
        return Step(sample.to(x_t.dtype), mean, std)

    @abstractmethod
    def spread(self, t: Levels, t_next: Levels) -> tuple[Levels, Levels]:
        """(kept, std) of a stochastic step; anything finite where t_next is not between 0 and t."""

    def log_prob(self, sample: Latents, mean: Latents, std: Float[Tensor, "b f 1 1 1"]) -> Float[Tensor, "b"]:
        r"""Log-density of the sample, a mean over dimensions, in float32 at least; the sample is held fixed.

        .. math:: \log p = \mathrm{mean}\,[-(x' - \mu)^2 / 2 s^2 - \log s - \tfrac12 \log 2\pi]

        Being a mean, it is small: so are the clip ranges published for it (1e-5 to 1e-4). Frames to which nothing was
        drawn do not count; where all are such, it is 0.
        """
        still = std == 0
        spread = precise(torch.where(still, torch.ones_like(std), std))
        distance = (precise(sample.detach()) - precise(mean)) / spread
        density = -0.5 * distance.square() - spread.log() - 0.5 * math.log(2 * math.pi)
        return _mean(density, still)

    def _in_window(self, path: GaussianPath, t: Levels) -> Tensor:
        if self.window is None:
            return torch.ones_like(t, dtype=torch.bool)
        times = self.steps.times(path).to(t)
        first, behind = (min(bound, self.steps.steps) for bound in self.window)
        return (t <= times[first]) & (t > times[behind])


@dataclass(frozen=True)
class FlowSDESampler(SDESampler):
    r"""Flow-GRPO's SDE (2505.05470), by Euler and Maruyama; 0.7 is the published eta.

    .. math:: dx = [u + \tfrac{s^2}{2t}(x + (1 - t) u)]\,dt + s\,dw,\quad s = \eta\sqrt{t / (1 - t)}

    The first step divides by 1 − t' in place of 1 − t = 0. x + (1 − t) u is the noise. Where a step is long against
    1 − t, as in the schedules of step-distilled models, it draws more than its level holds: a deviation of 1.12 from
    0.975 to 0.909 at eta 0.7.
    """

    def spread(self, t: Levels, t_next: Levels) -> tuple[Levels, Levels]:
        remaining = torch.where(t >= 1, 1 - t_next, 1 - t).clamp_min(torch.finfo(t.dtype).eps)
        return _maruyama(self.eta * (t / remaining).sqrt(), t, t_next)


@dataclass(frozen=True)
class DanceSDESampler(SDESampler):
    r"""DanceGRPO's SDE (2505.07818): the same with constant s = η."""

    def spread(self, t: Levels, t_next: Levels) -> tuple[Levels, Levels]:
        return _maruyama(torch.full_like(t, self.eta), t, t_next)


@dataclass(frozen=True)
class CPSSampler(SDESampler):
    r"""Coefficient-preserving sampling (Flow-CPS 2509.05952): a sample holds as much noise as its level says.

    .. math:: s = t' \sin(\eta\pi/2),\quad x' = (1 - t') x_0 + \sqrt{t'^2 - s^2}\,\epsilon + s\,\xi

    So it is for steps of any length. What is made is not distributed exactly as by the flow, however many they are (on
    two Gaussians and 200 steps 0.045 away in W1 at eta 0.7, where Flow-GRPO's SDE is 0.008).
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eta > 1:
            raise ValueError(f"sampler.eta={self.eta} of CPS must lie in [0, 1]; at 1 all noise is fresh")

    def spread(self, t: Levels, t_next: Levels) -> tuple[Levels, Levels]:
        std = t_next * math.sin(self.eta * math.pi / 2)
        return (t_next.square() - std.square()).clamp_min(0).sqrt(), std

    def log_prob(self, sample: Latents, mean: Latents, std: Float[Tensor, "b f 1 1 1"]) -> Float[Tensor, "b"]:
        """−|x' − μ|², a mean over dimensions: Flow-CPS drops the normalisers, so that all steps weigh the same."""
        return _mean(-(precise(sample.detach()) - precise(mean)).square(), std == 0)


def drawless(sampler: Sampler) -> Sampler:
    """The sampler as it is used once training is over: what drew for the sake of a density takes the ODE's steps."""
    return replace(sampler, eta=0.0) if isinstance(sampler, SDESampler) else sampler


def _require_flow(sampler: SDESampler, path: GaussianPath) -> None:
    if not isinstance(path, RectifiedFlow):
        raise ValueError(
            f"{type(sampler).__name__} samples rectified flow, and the path is {type(path).__name__}; choose "
            f"noising=rectified_flow for a network trained so, or sampler=ddim with eta for this one"
        )


def _maruyama(diffusion: Levels, t: Levels, t_next: Levels) -> tuple[Levels, Levels]:
    """(kept, std) of x + [u + s²/(2t) noise] (t' − t) + s sqrt(t − t') ξ; x + u (t' − t) = (1 − t') x0 + t' noise"""
    length = (t - t_next).clamp_min(0)
    kept = t_next - diffusion.square() * length / (2 * t.clamp_min(torch.finfo(t.dtype).eps))
    return kept, diffusion * length.sqrt()


def _mean(density: Latents, still: Tensor) -> Float[Tensor, "b"]:
    return frame_mean(density.mean(dim=(2, 3, 4)), still[:, :, 0, 0, 0])
