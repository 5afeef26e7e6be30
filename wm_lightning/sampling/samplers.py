"""Samplers: which noise levels, and how to step from one to the next."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from wm_lightning.clip import Latents, Levels
from wm_lightning.noising import GaussianPath, per_pixel

Schedule = Float[Tensor, "k f"]


def described(sampler: "Sampler") -> dict[str, Any]:
    """A sampler as plain values, fit for a card: its class's name and its settings."""
    assert is_dataclass(sampler)
    return {"name": type(sampler).__name__, **json.loads(json.dumps(asdict(sampler)))}


@dataclass(frozen=True)
class Step:
    """A sample with the mean and standard deviation it was drawn from (std 0 where nothing was drawn)."""

    sample: Latents
    mean: Latents
    std: Float[Tensor, "b f 1 1 1"]


@runtime_checkable
class Sampler(Protocol):
    """`levels` has one row more than there are steps; its last row is 0. Rows may differ by frame."""

    @property
    def draws(self) -> bool:
        """Does a step use fresh noise?"""
        ...

    @property
    def steps(self) -> "StepList":
        """The steps between noise and clean."""
        ...

    def with_steps(self, steps: int) -> "Sampler":
        """The same sampler at another number of steps. Raises ValueError for none, or more than it can make."""
        ...

    def levels(self, path: GaussianPath, frames: int) -> Schedule:
        """Times of every step and frame, from noise to clean."""
        ...

    def step(self, path: GaussianPath, x_t: Latents, x0: Latents, t: Levels, t_next: Levels, noise: Latents) -> Step:
        """From x_t at t to a sample at t_next, given the model's x0 and fresh noise."""
        ...


@dataclass(frozen=True)
class StepList:
    """The times of a sampler's steps, from 1 (noise) to 0 (clean).

    kind "uniform": equal steps of the path's own time. "matched": equal steps of the flow-equivalent
    level, shifted, then mapped to the path by log-SNR; on rectified flow this is the usual shifted
    schedule. "indices": diffusion indices given outright, index i standing at t = (i + 1) / 1000.
    """

    kind: Literal["uniform", "matched", "indices"]
    steps: int
    shift: float = 1.0
    indices: Sequence[int] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "indices", tuple(self.indices))
        if self.steps < 1:
            raise ValueError(f"a sampler needs at least one step, got {self.steps=}")
        if self.kind == "indices" and len(self.indices) != self.steps:
            raise ValueError(f"{self.steps=} but {len(self.indices)} indices: {list(self.indices)}")

    def with_steps(self, steps: int) -> "StepList":
        """The same list at another number of steps; explicit indices are thinned out evenly, the noisiest kept."""
        if self.kind != "indices" or steps == self.steps:
            return replace(self, steps=steps)
        if steps > self.steps:
            raise ValueError(f"{steps} steps cannot be made of {self.steps} explicit indices; use kind=matched")
        return replace(self, steps=steps, indices=tuple(self.indices[i * self.steps // steps] for i in range(steps)))

    def times(self, path: GaussianPath) -> Float[Tensor, "k"]:
        """steps + 1 times, the last of them 0."""
        if self.kind == "indices":
            return torch.tensor([(index + 1) / 1000 for index in self.indices] + [0.0])
        grid = torch.linspace(1, 0, self.steps + 1, dtype=torch.float64)
        if self.kind == "uniform":
            return grid.float()
        level = self.shift * grid / (1 + (self.shift - 1) * grid)
        return path.time(level).float()


@dataclass(frozen=True)
class DDIMSampler:
    """DDIM (2010.02502) with η: deterministic at η = 0, where on rectified flow a step is Euler's."""

    steps: StepList
    eta: float

    @property
    def draws(self) -> bool:
        return self.eta > 0

    def with_steps(self, steps: int) -> "DDIMSampler":
        return replace(self, steps=self.steps.with_steps(steps))

    def levels(self, path: GaussianPath, frames: int) -> Schedule:
        return self.steps.times(path)[:, None].expand(-1, frames)

    def step(self, path: GaussianPath, x_t: Latents, x0: Latents, t: Levels, t_next: Levels, noise: Latents) -> Step:
        implied = path.noise(x_t, x0, t)
        alpha_next, sigma_next = map(per_pixel, path.alpha_sigma(t_next))
        if self.eta == 0:
            std = torch.zeros_like(sigma_next)
        else:
            # DDIM eq. 16, written with ratios so that it holds for any alpha and sigma.
            kept = per_pixel(path.kept_noise(t, t_next))
            std = self.eta * sigma_next * (1 - kept**2).clamp_min(0).sqrt()
        mean = alpha_next * x0 + (sigma_next**2 - std**2).clamp_min(0).sqrt() * implied
        resting = per_pixel(t == t_next)
        mean, std = torch.where(resting, x_t, mean), torch.where(resting, torch.zeros_like(std), std)
        return Step(mean + std * noise if self.eta else mean, mean, std)


@dataclass(frozen=True)
class FewStepSampler:
    """Re-noises the model's x0 with fresh noise at every step (consistency sampling, 2303.01469 alg. 1)."""

    steps: StepList

    @property
    def draws(self) -> bool:
        return True

    def with_steps(self, steps: int) -> "FewStepSampler":
        return replace(self, steps=self.steps.with_steps(steps))

    def levels(self, path: GaussianPath, frames: int) -> Schedule:
        return self.steps.times(path)[:, None].expand(-1, frames)

    def step(self, path: GaussianPath, x_t: Latents, x0: Latents, t: Levels, t_next: Levels, noise: Latents) -> Step:
        alpha, sigma = map(per_pixel, path.alpha_sigma(t_next))
        mean = alpha * x0
        return Step(mean + sigma * noise, mean, sigma)


@dataclass(frozen=True)
class PyramidSampler:
    """Frames of a chunk start one after another: frame p stands at step clip(S + p − m, 0, S) in row m.

    Diffusion Forcing's pyramid (2407.01392); steps themselves are those of `inner`.
    """

    inner: DDIMSampler

    @property
    def draws(self) -> bool:
        return self.inner.draws

    @property
    def steps(self) -> StepList:
        return self.inner.steps

    def with_steps(self, steps: int) -> "PyramidSampler":
        return replace(self, inner=self.inner.with_steps(steps))

    def levels(self, path: GaussianPath, frames: int) -> Schedule:
        times = self.inner.steps.times(path).flip(0)
        steps = len(times) - 1
        row, place = torch.arange(steps + frames)[:, None], torch.arange(frames)[None, :]
        return times[(steps + place - row).clamp(0, steps)]

    def step(self, path: GaussianPath, x_t: Latents, x0: Latents, t: Levels, t_next: Levels, noise: Latents) -> Step:
        return self.inner.step(path, x_t, x0, t, t_next, noise)
