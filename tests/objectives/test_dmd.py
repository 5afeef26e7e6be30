"""Distribution matching against closed forms: Gaussians whose scores are known."""

import math

import pytest
import torch
from torch import Tensor

from tests.networks.tiny import randn
from wm_lightning.noising import RectifiedFlow
from wm_lightning.objectives.dmd import dmd_gradient, dmd_loss, normaliser, sid_loss

PATH = RectifiedFlow(prediction="x0", loss_sigma_floor=0.05, label_scale=1.0)
SHAPE = (3, 4, 2, 3, 5)  # b f c h w
MASK = torch.tensor([[False, True, True, True], [False, False, True, True], [False, True, False, True]])
FULL = torch.ones(SHAPE[:2], dtype=torch.bool)


def posterior_mean(x_t: Tensor, t: Tensor, mean: Tensor | float, std: Tensor | float) -> Tensor:
    """E[x0 | x_t] of data N(mean, std²)."""
    alpha, sigma = (value[..., None, None, None] for value in PATH.alpha_sigma(t))
    gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
    return mean + gain * (x_t - alpha * mean)


def scores(x: Tensor, *, real: float, fake: float, std: float = 0.5) -> tuple[Tensor, Tensor]:
    """x0 of teacher N(real, 1) and critic N(fake, std²) at a noised copy of x, one level per sample."""
    t = torch.tensor([0.2, 0.5, 0.9], dtype=x.dtype)[:, None].expand(x.shape[:2])
    x_t = PATH.add_noise(x, randn(*x.shape, seed=5, dtype=x.dtype), t)
    return posterior_mean(x_t, t, real, 1.0), posterior_mean(x_t, t, fake, std)


def gradient(x: Tensor, real: Tensor, fake: Tensor, mask: Tensor) -> Tensor:
    leaf = x.detach().clone().requires_grad_()
    return torch.autograd.grad(dmd_loss(leaf, real, fake, mask), leaf)[0]


@pytest.mark.parametrize("mask", [FULL, MASK], ids=["full", "masked"])
def test_gradient_is_the_closed_form_over_the_number_of_elements(mask: Tensor) -> None:
    exact = randn(*SHAPE, seed=1, dtype=torch.float64)
    real, fake = scores(exact, real=2.0, fake=-1.0)
    expected = torch.zeros_like(exact)
    for b in range(SHAPE[0]):
        kept = mask[b]
        scale = (exact[b, kept] - real[b, kept]).abs().mean()
        expected[b, kept] = (fake[b, kept] - real[b, kept]) / scale
    count = int(mask.sum()) * math.prod(SHAPE[2:])
    found = gradient(exact.float(), real.float(), fake.float(), mask) * count
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("gap", [1e-2, 1e-5])
def test_a_small_gap_between_the_scores_is_not_rounded_away(gap: float) -> None:
    x = 1 + randn(*SHAPE, seed=1)
    real = torch.zeros(SHAPE)
    fake = gap * randn(*SHAPE, seed=2)
    found = gradient(x, real, fake, FULL) * x.numel()
    torch.testing.assert_close(found, fake / normaliser(x, real, FULL), atol=0, rtol=1e-5)


def test_no_gradient_where_both_scores_agree() -> None:
    x = randn(*SHAPE, seed=1)
    real, _ = scores(x, real=2.0, fake=0.0)
    assert not gradient(x, real, real, FULL).any()


def test_a_step_moves_the_mean_towards_the_teacher() -> None:
    for mean, target in ((-1.0, 2.0), (2.0, -1.0)):
        x = mean + 0.5 * randn(*SHAPE, seed=1)
        real, fake = scores(x, real=target, fake=mean)
        moved = (x - 10 * gradient(x, real, fake, FULL)).mean() - x.mean()
        assert torch.sign(moved) == math.copysign(1, target - mean)


def test_a_linear_generator_converges_to_the_teachers_mean() -> None:
    target = randn(*SHAPE[1:], seed=3)
    mean = torch.full(SHAPE[1:], -2.0, requires_grad=True)
    optimizer = torch.optim.SGD([mean], lr=20.0)
    for step in range(300):
        x = mean + 0.5 * randn(16, *SHAPE[1:], seed=10 + step)
        t = torch.rand(16, 1, generator=torch.Generator().manual_seed(step)).clamp(0.1, 0.9).expand(-1, SHAPE[1])
        with torch.no_grad():
            x_t = PATH.add_noise(x, randn(*x.shape, seed=1000 + step), t)
            real, fake = posterior_mean(x_t, t, target, 0.5), posterior_mean(x_t, t, mean, 0.5)
        optimizer.zero_grad()
        dmd_loss(x, real, fake, torch.ones(16, SHAPE[1], dtype=torch.bool)).backward()
        optimizer.step()
    torch.testing.assert_close(mean.detach(), target, atol=1e-3, rtol=0)


def test_the_spread_of_a_generator_too_small_for_its_teacher_is_the_mode_seeking_one() -> None:
    """One spread for pixels of two: a reverse divergence settles where mean gains agree, below equal variances."""
    teacher = torch.where(torch.arange(SHAPE[-1]) % 2 == 0, 0.3, 0.9)
    t = torch.full((64, SHAPE[1]), 0.5)
    gain = (0.5 * teacher**2 / (0.25 * teacher**2 + 0.25)).mean()
    expected = (gain * 0.25 / (0.5 * (1 - 0.5 * gain))).sqrt()
    assert expected < 0.93 * teacher.square().mean().sqrt()
    spread = torch.tensor(1.0, requires_grad=True)
    optimizer, found = torch.optim.SGD([spread], lr=0.1), []
    for step in range(200):
        x = spread * randn(64, *SHAPE[1:], seed=10 + step)
        with torch.no_grad():
            x_t = PATH.add_noise(x, randn(*x.shape, seed=1000 + step), t)
            real, fake = (posterior_mean(x_t, t, 0.0, std) for std in (teacher, spread))
        optimizer.zero_grad()
        dmd_loss(x, real, fake, torch.ones(64, SHAPE[1], dtype=torch.bool)).backward()
        optimizer.step()
        found.append(spread.detach().clone())
    torch.testing.assert_close(torch.stack(found[-50:]).mean(), expected, atol=0.015, rtol=0)


def test_normaliser_belongs_to_one_sample_and_to_its_masked_frames() -> None:
    x = randn(*SHAPE, seed=1)
    real, fake = scores(x, real=2.0, fake=-1.0)
    before = gradient(x, real, fake, MASK)
    other = real.clone()
    other[1] *= 100
    after = gradient(x, other, fake, MASK)
    assert torch.equal(before[[0, 2]], after[[0, 2]]) and not torch.equal(before[1], after[1])
    hidden = torch.where(MASK[..., None, None, None], real, 1e6)
    assert torch.equal(before, gradient(x, hidden, fake, MASK))


def test_masked_frames_get_no_gradient() -> None:
    x = randn(*SHAPE, seed=1)
    found = gradient(x, *scores(x, real=2.0, fake=-1.0), MASK)
    assert torch.equal(found.flatten(2).abs().sum(-1) > 0, MASK)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("bad", ["x", "real", "fake"])
def test_what_is_not_finite_gives_a_gradient_of_zero(bad: str, value: float) -> None:
    x = randn(*SHAPE, seed=1)
    real, fake = scores(x, real=2.0, fake=-1.0)
    before = gradient(x, real, fake, FULL)
    given = {"x": x.clone(), "real": real.clone(), "fake": fake.clone()}
    given[bad][1, 2, 0, 1, 3] = value
    found = gradient(*given.values(), FULL)
    assert bool(found.isfinite().all())
    assert found[1, 2, 0, 1, 3] == 0
    assert bad == "fake" or not found[1].any()
    assert torch.equal(found[[0, 2]], before[[0, 2]])
    assert bool(dmd_loss(*given.values(), FULL).isfinite())


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("bad", ["x", "real", "fake"])
def test_sid_gives_what_is_not_finite_a_gradient_of_zero(bad: str, value: float) -> None:
    x = randn(*SHAPE, seed=1)
    real, fake = scores(x, real=2.0, fake=-1.0)
    given = {"x": x, "real": real.clone(), "fake": fake.clone()}
    given[bad][1, 2, 0, 1, 3] = value
    leaves = {name: tensor.requires_grad_() for name, tensor in given.items()}
    loss = sid_loss(*leaves.values(), FULL, alpha=1.0)
    loss.backward()
    assert bool(loss.isfinite())
    for leaf in leaves.values():
        assert leaf.grad is not None and bool(leaf.grad.isfinite().all()) and leaf.grad[1, 2, 0, 1, 3] == 0
        assert bool(leaf.grad[[0, 2]].any())


def test_a_sample_that_equals_the_teacher_is_not_divided_by_zero() -> None:
    x = randn(*SHAPE, seed=1)
    assert bool(dmd_gradient(x, x, x + 1, FULL).isfinite().all())
    assert not gradient(x, x, x, FULL).any()


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 1.2])
def test_sid_is_the_published_formula_and_its_gradient_flows_through_both_scores(alpha: float) -> None:
    """2404.04057 eq. 23: (1 − α) |R − F|² + (R − F)·(F − x), over DMD's normaliser, which is a constant."""
    given = [randn(*SHAPE, seed=seed, dtype=torch.float64).requires_grad_() for seed in (1, 2, 3)]
    x, real, fake = given
    total = torch.zeros((), dtype=torch.float64)
    for b in range(SHAPE[0]):
        xs, rs, fs = x[b, MASK[b]], real[b, MASK[b]], fake[b, MASK[b]]
        weight = (xs - rs).abs().mean().detach()
        total = total + (((1 - alpha) * (rs - fs).square() + (rs - fs) * (fs - xs)) / weight).sum()
    expected = total / (int(MASK.sum()) * math.prod(SHAPE[2:]))
    found = sid_loss(x, real, fake, MASK, alpha=alpha)
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)
    pairs = zip(torch.autograd.grad(found, given), torch.autograd.grad(expected, given), strict=True)
    for own, direct in pairs:
        assert bool(direct.any())
        torch.testing.assert_close(own, direct, atol=1e-8, rtol=1e-4)


def test_sid_is_zero_where_both_scores_agree() -> None:
    x, real = randn(*SHAPE, seed=1), randn(*SHAPE, seed=2)
    assert sid_loss(x, real, real, FULL, alpha=1.0) == 0
