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

    def noise(self, x_t: Latents, x0: Latents, t: Levels) -> Latents:
        """The noise that x_t holds if x0 is what it says; 0/0 at t = 0 is answered with finite values."""
        alpha, sigma = map(per_pixel, self.alpha_sigma(t))
        return (x_t - alpha * x0) / sigma.clamp_min(SMALLEST_SIGMA)

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


def sigmoid_alphas_cumprod(steps: int, *, start: float, end: float, tau: float) -> Float[np.ndarray, "steps"]:
    """Cumulative alphas of the sigmoid schedule (Jabri et al. 2212.11972), betas clipped to [0, 0.999], float64."""
    grid = np.linspace(0.0, 1.0, steps + 1)

    def sigmoid(x: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        return 1.0 / (1.0 + np.exp(-x))

    cumulative = sigmoid(np.array([end / tau])) - sigmoid((grid * (end - start) + start) / tau)
    cumulative = cumulative / cumulative[0]
    betas = np.clip(1 - cumulative[1:] / cumulative[:-1], 0.0, 0.999)
    return np.cumprod(1 - betas)


def cosine_alphas_cumprod(steps: int, *, offset: float) -> Float[np.ndarray, "steps"]:
    """Cumulative alphas of the cosine schedule (Nichol & Dhariwal 2102.09672, eq. 17), betas clipped to 0.999."""
    angle = (np.linspace(0.0, 1.0, steps + 1) + offset) / (1 + offset) * np.pi / 2
    cumulative = np.cos(angle) ** 2
    betas = np.clip(1 - cumulative[1:] / cumulative[:-1], 0.0, 0.999)
    return np.cumprod(1 - betas)


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
