"""Paths: conversions invert each other, schedules have their published values, time follows log-SNR."""

import numpy as np
import pytest
import torch
from torch import Tensor

from wm_lightning.noising import CosineDiffusion, GaussianPath, NoiseLaw, Prediction, RectifiedFlow, VPDiffusion
from wm_lightning.randomness import generator


def flow(prediction: Prediction = "velocity") -> RectifiedFlow:
    return RectifiedFlow(prediction=prediction, loss_sigma_floor=0.05, label_scale=1000.0)


def diffusion(prediction: Prediction = "v", steps: int = 1000) -> VPDiffusion:
    return VPDiffusion(prediction=prediction, loss_sigma_floor=0.05, steps=steps, start=-3.0, end=3.0, tau=1.0)


def cosine(prediction: Prediction = "x0", steps: int = 400) -> CosineDiffusion:
    return CosineDiffusion(prediction=prediction, loss_sigma_floor=0.05, steps=steps, offset=0.008)


PATHS = [
    flow("velocity"),
    flow("x0"),
    diffusion("v"),
    diffusion("x0"),
    diffusion("noise"),
    cosine("x0", 1000),
    cosine("v", 1000),
]
TIMES = torch.tensor([[0.001, 0.015, 0.25, 0.5, 0.75, 0.999]], dtype=torch.float64)


def name(path: GaussianPath) -> str:
    return f"{type(path).__name__}-{path.prediction}"


def draw(frames: int, seed: int) -> Tensor:
    return torch.randn(1, frames, 2, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("path", PATHS, ids=name)
def test_x0_and_noise_come_back(path: GaussianPath) -> None:
    x0, noise = draw(6, 0), draw(6, 1)
    x_t = path.add_noise(x0, noise, TIMES)
    recovered = path.x0(x_t, path.target(x0, noise, TIMES), TIMES)
    torch.testing.assert_close(recovered, x0, atol=1e-9, rtol=0)
    torch.testing.assert_close(path.noise(x_t, x0, TIMES), noise, atol=1e-9, rtol=0)


@pytest.mark.parametrize("path", PATHS, ids=name)
def test_clean_is_clean_and_noise_is_noise(path: GaussianPath) -> None:
    x0, noise = draw(2, 0), draw(2, 1)
    ends = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    x_t = path.add_noise(x0, noise, ends)
    assert torch.equal(x_t[:, 0], x0[:, 0])
    torch.testing.assert_close(x_t[:, 1], noise[:, 1], atol=2e-3, rtol=0)  # sqrt(3e-7) of x0 is left in a diffusion
    assert torch.equal(path.level(ends)[:, 0], ends[:, 0])
    assert path.noise(x_t, x0, ends).isfinite().all()


@pytest.mark.parametrize("path", [flow("velocity"), flow("x0"), diffusion("v"), diffusion("x0")], ids=name)
def test_round_trip_at_pure_noise(path: GaussianPath) -> None:
    x0, noise, t = draw(1, 0), draw(1, 1), torch.ones(1, 1, dtype=torch.float64)
    x_t = path.add_noise(x0, noise, t)
    torch.testing.assert_close(path.x0(x_t, path.target(x0, noise, t), t), x0, atol=1e-9, rtol=0)


@pytest.mark.parametrize("t", TIMES[0].tolist())
def test_targets_are_what_their_names_say(t: float) -> None:
    x0, noise, times = draw(1, 0), draw(1, 1), torch.full((1, 1), t, dtype=torch.float64)
    assert torch.equal(flow("velocity").target(x0, noise, times), noise - x0)
    for path in (flow("x0"), diffusion("x0")):
        assert torch.equal(path.target(x0, noise, times), x0)
    for path in (diffusion("noise"),):
        assert torch.equal(path.target(x0, noise, times), noise)
    alpha, sigma = diffusion().alpha_sigma(times)
    torch.testing.assert_close(diffusion("v").target(x0, noise, times), alpha.item() * noise - sigma.item() * x0)


def test_predictions_belong_to_their_own_paths() -> None:
    with pytest.raises(ValueError, match="rectified flow"):
        diffusion("velocity")
    with pytest.raises(ValueError, match="variance-preserving"):
        flow("v")
    with pytest.raises(ValueError, match="nothing of x0 at t = 1"):
        flow("noise")


@pytest.mark.parametrize(
    ("index", "published", "tolerance"),
    [
        (0, 0.9997, 5e-5),
        (14, 0.9953, 5e-5),
        (249, 0.851, 5e-4),
        (499, 0.500, 5e-4),
        (749, 0.149, 5e-4),
        (999, 3.0e-7, 5e-9),
    ],
)
def test_sigmoid_schedule_has_its_published_values(index: int, published: float, tolerance: float) -> None:
    path, t = diffusion(), torch.tensor((index + 1) / 1000, dtype=torch.float64)
    alpha, sigma = path.alpha_sigma(t)
    assert alpha.item() ** 2 == pytest.approx(published, abs=tolerance)
    assert alpha.item() ** 2 + sigma.item() ** 2 == pytest.approx(1, abs=1e-12)
    assert path.label(t).item() == index


def test_labels() -> None:
    assert diffusion().label(torch.tensor([0.0, 0.001, 1.0])).tolist() == [0, 0, 999]
    assert diffusion(steps=500).label(torch.tensor([0.0, 0.002, 1.0])).tolist() == [0, 0, 499]
    assert flow().label(torch.tensor([0.0, 0.25, 1.0])).tolist() == [0, 250, 1000]


@pytest.mark.parametrize("t", [0.015, 0.25, 0.5, 1.0])
def test_diffused_unit_variance_stays_unit_variance(t: float) -> None:
    x0, noise = (torch.randn(1, 1, 1, 400, 500, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert diffusion().add_noise(x0, noise, torch.full((1, 1), t)).var().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("path", [flow(), diffusion()], ids=name)
def test_time_inverts_level(path: GaussianPath) -> None:
    grid = torch.arange(0, 1001, dtype=torch.float64) / 1000
    torch.testing.assert_close(path.time(path.level(grid)), grid, atol=1e-12, rtol=0)
    assert (path.level(grid).diff() > 0).all()


def test_log_snr_matching_of_the_published_few_steps() -> None:
    """Self-Forcing's shifted flow levels on the sigmoid schedule, and the levels of indices 999, 749, 499, 249."""
    flow_levels = flow().shifted(torch.tensor([1.0, 0.75, 0.5, 0.25], dtype=torch.float64), 5.0)
    torch.testing.assert_close(flow_levels, torch.tensor([1, 0.9375, 0.8333, 0.625]).double(), atol=1e-4, rtol=0)
    path = diffusion()
    assert path.label(path.time(flow_levels)).tolist() == pytest.approx([999, 985, 901, 651], abs=1)
    own = path.level(torch.tensor([1.0, 0.75, 0.5, 0.25], dtype=torch.float64))
    torch.testing.assert_close(own, torch.tensor([0.9995, 0.705, 0.5, 0.295]).double(), atol=5e-4, rtol=0)


@pytest.mark.parametrize("path", [flow(), diffusion()], ids=name)
def test_a_shift_acts_on_the_flow_equivalent_level(path: GaussianPath) -> None:
    t = torch.linspace(0.05, 1, 20, dtype=torch.float64)
    level, shifted = path.level(t), path.level(path.shifted(t, 3.0))
    torch.testing.assert_close(shifted, 3 * level / (1 + 2 * level), atol=2e-3, rtol=0)
    assert path.shifted(t, 1.0) is t


@pytest.mark.parametrize("path", [flow("x0"), diffusion("x0")], ids=name)
def test_loss_weight_turns_an_x0_error_into_a_velocity_error(path: GaussianPath) -> None:
    native = flow("velocity") if isinstance(path, RectifiedFlow) else diffusion("v")
    t = TIMES[:, 2:]
    x0, noise, guess = draw(4, 0), draw(4, 1), draw(4, 2)
    x_t = path.add_noise(x0, noise, t)
    implied = native.target(guess, native.noise(x_t, guess, t), t)
    velocity_error = (implied - native.target(x0, noise, t)).square().mean((2, 3, 4))
    x0_error = (guess - x0).square().mean((2, 3, 4))
    torch.testing.assert_close(path.loss_weight(t) * x0_error, velocity_error, rtol=1e-9, atol=0)
    assert (native.loss_weight(t) == 1).all()
    assert path.loss_weight(torch.zeros(1, 1)).item() == pytest.approx(0.05**-2)


@pytest.mark.parametrize("shift", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("path", [flow(), diffusion()], ids=name)
def test_no_training_time_is_clean(path: GaussianPath, shift: float) -> None:
    law = NoiseLaw(mean=0.0, std=1.0, uniform_share=0.8, shift=shift)
    t = law.sample(path, (60_000,), generator(0, "test"))
    assert t.dtype == torch.float32
    assert 0 < t.min() and t.max() <= 1
    _, sigma = path.alpha_sigma(t)
    assert sigma.min() > 0


def test_every_diffusion_index_is_drawn_equally_often() -> None:
    """World-model-eval draws indices 0..999 uniformly, the first and the last as often as the others."""
    law, path = NoiseLaw(mean=0.0, std=1.0, uniform_share=1.0, shift=1.0), diffusion(steps=10)
    counts = torch.bincount(path.label(law.sample(path, (20_000,), generator(0, "test"))).long(), minlength=10)
    assert counts.tolist() == pytest.approx([2000] * 10, abs=200)


def test_noise_law_is_logit_normal_uniform_and_shifted() -> None:
    shape = (20_000,)
    bell = NoiseLaw(mean=0.5, std=0.8, uniform_share=0.0, shift=1.0).sample(flow(), shape, generator(0, "test"))
    logit = torch.logit(bell.double())
    assert logit.mean().item() == pytest.approx(0.5, abs=0.03)
    assert logit.std().item() == pytest.approx(0.8, abs=0.03)
    flat = NoiseLaw(mean=0.5, std=0.8, uniform_share=1.0, shift=1.0).sample(flow(), shape, generator(0, "test"))
    assert np.quantile(flat, [0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9], abs=0.02)
    shifted = NoiseLaw(mean=0.5, std=0.8, uniform_share=1.0, shift=5.0).sample(flow(), shape, generator(0, "test"))
    torch.testing.assert_close(shifted, 5 * flat / (1 + 4 * flat))


def test_the_cosine_schedule_has_its_published_form() -> None:
    path = cosine()
    t = torch.linspace(0, 1, 401, dtype=torch.float64)
    alpha, sigma = path.alpha_sigma(t)
    angle = (t + 0.008) / 1.008 * np.pi / 2
    wanted = torch.cos(angle) / np.cos(0.008 / 1.008 * np.pi / 2)
    torch.testing.assert_close(alpha[:-1], wanted[:-1], atol=1e-9, rtol=0)
    # The last beta would be 1; it is clipped, so that a trace of x0 is left.
    assert float(alpha[-1]) == pytest.approx(float(alpha[-2]) * 0.001**0.5) and float(alpha[-1]) > 0
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t))
    assert path.label(torch.tensor([1 / 400, 1.0])).tolist() == [0.0, 399.0]
