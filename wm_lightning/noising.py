"""Gaussian noising paths: the one place that knows schedules and what a network predicts.

A path draws x_t = alpha(t) x0 + sigma(t) noise for t in [0, 1], t = 1 pure noise, one level per
frame. A network predicts p(t) x0 + q(t) noise; which (p, q) is the path's `prediction`. Nothing here
assumes alpha² + sigma² = 1.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from wm_lightning.clip import Latents, Levels
from wm_lightning.noise_tables import (
    cosine_alphas_cumprod,
    scaled_linear_alphas_cumprod,
    sigmoid_alphas_cumprod,
)

Prediction = Literal["velocity", "v", "x0", "noise"]
SMALLEST_SIGMA = 1e-5


def per_pixel(values: Shaped[Tensor, "b f"]) -> Shaped[Tensor, "b f 1 1 1"]:
    """One number per frame, shaped to multiply latents."""
    return values[..., None, None, None]


class GaussianPath(ABC):
    """x_t = alpha x0 + sigma noise, and the conversions between x0, noise and a network's prediction."""

    def __init__(self, *, prediction: Prediction, loss_sigma_floor: float) -> None:
        self.prediction: Prediction = prediction
        self.loss_sigma_floor = loss_sigma_floor

    @abstractmethod
    def alpha_sigma(self, t: Float[Tensor, "..."]) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
        """(alpha, sigma) at times t in [0, 1]."""

    @abstractmethod
    def label(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The index a network is given for time t."""

    @abstractmethod
    def time(self, level: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The time whose flow-equivalent level sigma / (alpha + sigma) is `level`; inverse of `level`."""

    def mixture(self, t: Float[Tensor, "..."]) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
        """(p, q) such that the network's target is p x0 + q noise."""
        alpha, sigma = self.alpha_sigma(t)
        if self.prediction == "velocity":
            return -torch.ones_like(t), torch.ones_like(t)
        if self.prediction == "v":
            return -sigma, alpha
        if self.prediction == "x0":
            return torch.ones_like(t), torch.zeros_like(t)
        return torch.zeros_like(t), torch.ones_like(t)

    def add_noise(self, x0: Latents, noise: Latents, t: Levels) -> Latents:
        """x_t = alpha x0 + sigma noise."""
        alpha, sigma = map(per_pixel, self.alpha_sigma(t))
        return alpha * x0 + sigma * noise

    def target(self, x0: Latents, noise: Latents, t: Levels) -> Latents:
        """What the network should predict: p x0 + q noise."""
        p, q = map(per_pixel, self.mixture(t))
        return p * x0 + q * noise

    def x0(self, x_t: Latents, prediction: Latents, t: Levels) -> Latents:
        """x0 from x_t and the network's prediction, by solving the two linear equations."""
        if self.prediction == "x0":
            return prediction
        alpha, sigma = map(per_pixel, self.alpha_sigma(t))
        p, q = map(per_pixel, self.mixture(t))
        determinant = alpha * q - sigma * p
        tiny = torch.finfo(determinant.dtype).tiny
        return (q * x_t - sigma * prediction) / determinant.clamp_min(tiny)

    def prediction_of(self, x_t: Latents, x0: Latents, t: Levels) -> Latents:
        """What the network must have predicted for x_t to give this x0; inverse of `x0` wherever there is noise."""
        return self.target(x0, self.noise(x_t, x0, t), t)

    def noise(self, x_t: Latents, x0: Latents, t: Levels) -> Latents:
        """The noise that x_t holds if x0 is what it says; 0/0 at t = 0 is answered with finite values."""
        alpha, sigma = map(per_pixel, self.alpha_sigma(t))
        return (x_t - alpha * x0) / sigma.clamp_min(SMALLEST_SIGMA)

    def kept_noise(self, t: Levels, t_next: Levels) -> Levels:
        """alpha(t) sigma(t_next) / (alpha(t_next) sigma(t)): the share of the noise at t_next that is that of t.

        What an ancestral step from t to t_next draws anew has the standard deviation sigma(t_next) sqrt(1 − share²).
        """
        alpha, sigma = self.alpha_sigma(t)
        alpha_next, sigma_next = self.alpha_sigma(t_next)
        return (alpha * sigma_next / (alpha_next * sigma).clamp_min(1e-12)).clamp(max=1)

    def factor(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """What x0 is multiplied by beside the schedule's own alpha: 1 on most paths."""
        return torch.ones_like(t)

    def level(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Flow-equivalent noise level sigma / (alpha + sigma): equal levels have equal log-SNR."""
        alpha, sigma = self.alpha_sigma(t)
        return sigma / (alpha + sigma)

    def shifted(self, t: Float[Tensor, "..."], shift: float) -> Float[Tensor, "..."]:
        """Times whose flow-equivalent level is shift·l / (1 + (shift − 1)·l), l being the level at t."""
        if shift == 1.0:
            return t
        level = self.level(t)
        return self.time(shift * level / (1 + (shift - 1) * level))

    def noisy(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Times in (0, 1] as a training may use them: a path that knows steps only rounds up, never to clean."""
        return t

    def loss_weight(self, t: Levels) -> Levels:
        """Weight that turns the squared error of the prediction into that of the velocity (or v).

        An x0 prediction errs in velocity by error / sigma; sigma is floored by `loss_sigma_floor`. Other
        predictions are weighted evenly.
        """
        if self.prediction != "x0":
            return torch.ones_like(t)
        _, sigma = self.alpha_sigma(t)
        return sigma.clamp_min(self.loss_sigma_floor) ** -2


class RectifiedFlow(GaussianPath):
    """x_t = (1 − t) x0 + t noise; the velocity is noise − x0 (Liu et al. 2209.03003)."""

    def __init__(self, *, prediction: Prediction, loss_sigma_floor: float, label_scale: float) -> None:
        if prediction == "v":
            raise ValueError("prediction='v' belongs to variance-preserving paths; use 'velocity' with rectified flow")
        if prediction == "noise":
            raise ValueError("prediction='noise' says nothing of x0 at t = 1 on rectified flow; use 'velocity' or 'x0'")
        super().__init__(prediction=prediction, loss_sigma_floor=loss_sigma_floor)
        self.label_scale = label_scale

    def alpha_sigma(self, t: Float[Tensor, "..."]) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
        return 1 - t, t

    def label(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return t * self.label_scale

    def time(self, level: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return level


class TabledDiffusion(GaussianPath):
    """DDPM on a table of cumulative alphas; index i stands at t = (i + 1) / steps, t = 0 is clean.

    alpha = sqrt(cumulative alpha), sigma = sqrt(1 − cumulative alpha). Times between grid points are
    snapped to the nearest. A clean frame (t = 0) carries no noise and the label of index 0.
    """

    def __init__(
        self, *, prediction: Prediction, loss_sigma_floor: float, alphas_cumprod: Float[np.ndarray, "steps"]
    ) -> None:
        if prediction == "velocity":
            raise ValueError("prediction='velocity' belongs to rectified flow; use 'v' with a variance-preserving path")
        super().__init__(prediction=prediction, loss_sigma_floor=loss_sigma_floor)
        self.steps = len(alphas_cumprod)
        self.alphas_cumprod = torch.from_numpy(np.concatenate([[1.0], alphas_cumprod]))

    def index(self, t: Float[Tensor, "..."]) -> Tensor:
        """Row of the table with the clean row first: 0 is clean, k is diffusion index k − 1."""
        return (t * self.steps).round().long().clamp(0, self.steps)

    def alpha_sigma(self, t: Float[Tensor, "..."]) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
        cumulative = self.alphas_cumprod.to(t.device)[self.index(t)]
        return cumulative.sqrt().to(t.dtype), (1 - cumulative).sqrt().to(t.dtype)

    def label(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return (self.index(t) - 1).clamp_min(0).to(t.dtype)

    def noisy(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        # Rounding up gives every index the same share of (0, 1]; the margin keeps steps where they are.
        return (t * self.steps - 1e-6).ceil().clamp_min(1) / self.steps

    def time(self, level: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        grid = torch.linspace(0, 1, self.steps + 1, dtype=torch.float64, device=level.device)
        levels = self.level(grid)
        right = torch.searchsorted(levels, level.double().contiguous()).clamp(1, self.steps)
        nearer_left = (level - levels[right - 1]).abs() < (level - levels[right]).abs()
        return grid[torch.where(nearer_left, right - 1, right)].to(level.dtype)


class VPDiffusion(TabledDiffusion):
    """DDPM on the sigmoid schedule."""

    def __init__(
        self,
        *,
        prediction: Prediction,
        loss_sigma_floor: float,
        steps: int,
        start: float,
        end: float,
        tau: float,
    ) -> None:
        table = sigmoid_alphas_cumprod(steps, start=start, end=end, tau=tau)
        super().__init__(prediction=prediction, loss_sigma_floor=loss_sigma_floor, alphas_cumprod=table)


class CosineDiffusion(TabledDiffusion):
    """DDPM on the cosine schedule."""

    def __init__(self, *, prediction: Prediction, loss_sigma_floor: float, steps: int, offset: float) -> None:
        table = cosine_alphas_cumprod(steps, offset=offset)
        super().__init__(prediction=prediction, loss_sigma_floor=loss_sigma_floor, alphas_cumprod=table)


@dataclass(frozen=True)
class DynamicRescale:
    """x0 is shrunk as noise grows: by 1 at diffusion index 0, falling evenly to `floor` at index `steps` − 1, then so.

    DynamiCrafter's (2310.12190), which Vid2World trains with.
    """

    floor: float
    steps: int

    def __post_init__(self) -> None:
        if not 0 < self.floor <= 1 or self.steps < 1:
            raise ValueError(f"{self.floor=} must lie in (0, 1] and {self.steps=} be at least 1")

    def table(self, steps: int) -> Float[np.ndarray, "steps"]:
        """The factor of every diffusion index."""
        falling = np.linspace(1.0, self.floor, self.steps)[:steps]
        return np.concatenate([falling, np.full(steps - len(falling), self.floor)])


class ScaledLinearDiffusion(TabledDiffusion):
    """DDPM on the scaled-linear schedule of latent diffusion, with zero terminal SNR or without.

    With `rescale` a frame at index k is noised as alpha c_k x0 + sigma noise and v = alpha noise − sigma c_k x0, with
    alpha² + sigma² = 1 as without. The factor is part of the path: `x0` gives the true x0, and a DDIM step carries
    x0 from c_k to the next factor by itself.
    """

    def __init__(
        self,
        *,
        prediction: Prediction,
        loss_sigma_floor: float,
        steps: int,
        start: float,
        end: float,
        zero_terminal_snr: bool,
        rescale: DynamicRescale | None,
    ) -> None:
        if prediction == "noise" and zero_terminal_snr:
            raise ValueError("prediction='noise' says nothing of x0 where zero_terminal_snr leaves none of it; use 'v'")
        table = scaled_linear_alphas_cumprod(steps, start=start, end=end, zero_terminal_snr=zero_terminal_snr)
        super().__init__(prediction=prediction, loss_sigma_floor=loss_sigma_floor, alphas_cumprod=table)
        factors = np.ones(steps) if rescale is None else rescale.table(steps)
        self.factors = torch.from_numpy(np.concatenate([[1.0], factors]))

    def factor(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        # 1 on clean frames, and everywhere without `rescale`.
        return self.factors.to(t.device)[self.index(t)].to(t.dtype)

    def alpha_sigma(self, t: Float[Tensor, "..."]) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
        alpha, sigma = super().alpha_sigma(t)
        return alpha * self.factor(t), sigma

    def mixture(self, t: Float[Tensor, "..."]) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
        if self.prediction != "v":
            return super().mixture(t)
        alpha, sigma = TabledDiffusion.alpha_sigma(self, t)
        return -sigma * self.factor(t), alpha

    def kept_noise(self, t: Levels, t_next: Levels) -> Levels:
        # The official sampler takes its standard deviation from the schedule without the factor.
        return (super().kept_noise(t, t_next) * self.factor(t_next) / self.factor(t)).clamp(max=1)


@dataclass(frozen=True)
class NoiseLaw:
    """How training draws times: logit-normal mixed with uniform, then shifted on the flow-equivalent level."""

    mean: float
    std: float
    uniform_share: float
    shift: float

    def sample(self, path: GaussianPath, shape: tuple[int, ...], source: np.random.Generator) -> Float[Tensor, "..."]:
        """Times in (0, 1] of `shape`."""
        bell = 1 / (1 + np.exp(-(source.standard_normal(shape) * self.std + self.mean)))
        # 1 - U[0, 1) excludes 0: a training frame at exactly t = 0 would have nothing to predict.
        flat = 1 - source.random(shape)
        chosen = np.where(source.random(shape) < self.uniform_share, flat, bell)
        return path.noisy(path.shifted(path.noisy(torch.from_numpy(chosen)), self.shift)).float()
