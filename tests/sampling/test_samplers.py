"""Step lists have their published values, and a sampler that is told the truth arrives at it."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tests.sampling.recording import DIFFUSION, FLOW
from wm_lightning.noising import GaussianPath
from wm_lightning.sampling.samplers import DDIMSampler, FewStepSampler, PyramidSampler, Sampler, StepList

PATHS = [FLOW, DIFFUSION]
UNIFORM = StepList(kind="uniform", steps=10)
SAMPLERS = [
    DDIMSampler(UNIFORM, eta=0.0),
    DDIMSampler(UNIFORM, eta=0.5),
    DDIMSampler(UNIFORM, eta=1.0),
    FewStepSampler(StepList(kind="matched", steps=4, shift=5.0)),
    PyramidSampler(DDIMSampler(UNIFORM, eta=0.0)),
    PyramidSampler(DDIMSampler(UNIFORM, eta=1.0)),
]
SAMPLER_NAMES = ["ddim", "ddim-0.5", "ddim-1", "few_step", "pyramid", "pyramid-1"]


def draw(seed: int, frames: int = 3) -> Tensor:
    return torch.randn(1, frames, 1, 80, 100, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def full(t: float) -> Tensor:
    return torch.full((1, 3), t, dtype=torch.float64)


def path_name(path: GaussianPath) -> str:
    return type(path).__name__


@pytest.mark.parametrize("path", PATHS, ids=path_name)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=SAMPLER_NAMES)
def test_an_oracle_is_recovered(sampler: Sampler, path: GaussianPath) -> None:
    x0, x = draw(0), draw(1)
    for number, (row, row_next) in enumerate(pairwise(sampler.levels(path, 3))):
        x = sampler.step(path, x, x0, row[None], row_next[None], draw(2 + number)).sample
    torch.testing.assert_close(x, x0, atol=1e-9, rtol=0)


@pytest.mark.parametrize("path", PATHS, ids=path_name)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=SAMPLER_NAMES)
def test_every_step_keeps_the_marginal(sampler: Sampler, path: GaussianPath) -> None:
    """Told the truth, a sample at t is distributed as alpha x0 + sigma noise, and so as its own mean and std say."""
    x0, times = draw(0), sampler.levels(path, 3)
    x = path.add_noise(x0, draw(1), times[:1].double())
    for number, (row, row_next) in enumerate(pairwise(times)):
        noise = draw(2 + number)
        step = sampler.step(path, x, x0, row[None], row_next[None], noise)
        torch.testing.assert_close(step.mean + step.std * noise, step.sample)
        alpha, sigma = path.alpha_sigma(row_next.double())
        left = step.sample - alpha[None, :, None, None, None] * x0
        torch.testing.assert_close(left.std((0, 2, 3, 4)), sigma, atol=0.03, rtol=0)
        assert left.mean().abs() < 0.03
        assert sampler.draws or not step.std.any()
        x = step.sample


def test_ddim_without_noise_is_an_euler_step_of_rectified_flow() -> None:
    x_t, x0, t, t_next = draw(0), draw(1), full(0.7), full(0.4)
    velocity = (x_t - x0) / 0.7
    stepped = DDIMSampler(UNIFORM, eta=0.0).step(FLOW, x_t, x0, t, t_next, x0).sample
    torch.testing.assert_close(stepped, x_t - 0.3 * velocity)


def test_ddim_with_eta_1_is_the_ddpm_posterior() -> None:
    """Mean and deviation of q(x_s | x_t, x0) of Ho et al. (2006.11239 eq. 7), between any two steps."""
    x_t, x0, t, t_next = draw(0), draw(1), full(0.7), full(0.4)
    step = DDIMSampler(UNIFORM, eta=1.0).step(DIFFUSION, x_t, x0, t, t_next, x0)
    (alpha, _), (alpha_next, _) = (DIFFUSION.alpha_sigma(s[0, 0]) for s in (t, t_next))
    keep = (alpha / alpha_next) ** 2
    total, left = 1 - alpha**2, 1 - alpha_next**2
    mean = alpha_next * (1 - keep) / total * x0 + keep.sqrt() * left / total * x_t
    torch.testing.assert_close(step.mean, mean)
    torch.testing.assert_close(step.std[0, 0, 0, 0, 0], (left / total * (1 - keep)).sqrt())


def test_step_lists() -> None:
    published = StepList(kind="indices", steps=4, indices=(999, 749, 499, 249))
    assert DIFFUSION.label(published.times(DIFFUSION)).tolist() == [999, 749, 499, 249, 0]
    uniform = StepList(kind="uniform", steps=4).times(DIFFUSION)
    assert uniform.tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert DIFFUSION.label(UNIFORM.times(DIFFUSION))[:-1].tolist() == list(range(999, 0, -100))
    shifted = StepList(kind="matched", steps=4, shift=5.0)
    assert shifted.times(FLOW).tolist() == pytest.approx([1, 0.9375, 5 / 6, 0.625, 0])
    assert DIFFUSION.label(shifted.times(DIFFUSION)).tolist() == pytest.approx([999, 985, 901, 651, 0], abs=1)
    with pytest.raises(ValueError, match="at least one step"):
        StepList(kind="uniform", steps=0)
    with pytest.raises(ValueError, match="1 indices"):
        StepList(kind="indices", steps=2, indices=(999,))


def test_pyramid_rows() -> None:
    """Frame p stands at step clip(S + p − m, 0, S) in row m."""
    levels = PyramidSampler(DDIMSampler(StepList(kind="uniform", steps=2), eta=0.0)).levels(FLOW, 3)
    expected = [[1, 1, 1], [0.5, 1, 1], [0, 0.5, 1], [0, 0, 0.5], [0, 0, 0]]
    assert levels.tolist() == expected
