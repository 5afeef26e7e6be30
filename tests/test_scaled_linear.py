"""Vid2World's noise: zero terminal SNR, x0 shrunk within the path, and the official formulas written out by hand."""

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor

from wm_lightning.config import compose
from wm_lightning.noise_tables import scaled_linear_alphas_cumprod
from wm_lightning.noising import DynamicRescale, NoiseLaw, Prediction, ScaledLinearDiffusion
from wm_lightning.randomness import generator
from wm_lightning.sampling.samplers import DDIMSampler, StepList

STEPS = 1000
RESCALE = DynamicRescale(floor=0.7, steps=400)
# Every index that a 50-step sampler visits, both ends, and the end of the fall of the factor.
TIMES = torch.tensor([[0.001, 0.02, 0.04, 0.3, 0.399, 0.4, 0.401, 0.75, 0.999, 1.0]], dtype=torch.float64)


def path(
    prediction: Prediction = "v", *, zero: bool = True, rescale: DynamicRescale | None = RESCALE
) -> ScaledLinearDiffusion:
    return ScaledLinearDiffusion(
        prediction=prediction, loss_sigma_floor=0.05, steps=STEPS, start=0.00085, end=0.012, zero_terminal_snr=zero,
        rescale=rescale,
    )  # fmt: skip


PATHS = [path(), path(rescale=None), path("x0"), path(zero=False), path("noise", zero=False)]


def name(made: ScaledLinearDiffusion) -> str:
    return f"{made.prediction}-{'rescaled' if made.factors.min() < 1 else 'plain'}-{made.alphas_cumprod[-1] == 0}"


def draw(seed: int, frames: int = TIMES.shape[1]) -> Tensor:
    return torch.randn(1, frames, 2, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand() -> tuple[np.ndarray, np.ndarray]:
    """(cumulative alphas, factors) by diffusion index, as the official code computes them."""
    betas = np.linspace(np.sqrt(0.00085), np.sqrt(0.012), STEPS) ** 2
    root = np.sqrt(np.cumprod(1 - betas))
    first, last = root[0], root[-1]
    root = (root - last) * first / (first - last)
    return root**2, np.concatenate([np.linspace(1.0, 0.7, 400), np.full(600, 0.7)])


def at(value: np.ndarray, index: int) -> float:
    return float(value[index])


@pytest.mark.parametrize("made", PATHS, ids=name)
def test_x0_noise_and_the_prediction_come_back(made: ScaledLinearDiffusion) -> None:
    x0, noise = draw(0), draw(1)
    x_t, target = made.add_noise(x0, noise, TIMES), made.target(x0, noise, TIMES)
    torch.testing.assert_close(made.x0(x_t, target, TIMES), x0, atol=1e-9, rtol=0)
    torch.testing.assert_close(made.noise(x_t, x0, TIMES), noise, atol=1e-9, rtol=0)
    torch.testing.assert_close(made.prediction_of(x_t, x0, TIMES), target, atol=1e-9, rtol=0)
    clean = torch.zeros(1, TIMES.shape[1], dtype=torch.float64)
    assert torch.equal(made.add_noise(x0, noise, clean), x0)


def test_the_schedule_ends_in_pure_noise_and_begins_where_it_did() -> None:
    ends = torch.tensor([0.001, 1.0], dtype=torch.float64)
    for rescale in (None, RESCALE):
        alpha, sigma = path(rescale=rescale).alpha_sigma(ends)
        assert alpha[1] == 0 and sigma[1] == 1
        assert alpha[0].item() ** 2 == pytest.approx(1 - 0.00085, abs=1e-9)
    table, plain = by_hand()[0], scaled_linear_alphas_cumprod(STEPS, start=0.00085, end=0.012, zero_terminal_snr=False)
    np.testing.assert_allclose(path().alphas_cumprod[1:], table, atol=1e-12)
    assert plain[-1] == pytest.approx(0.00466, abs=5e-6)  # what Stable Diffusion leaves of the signal
    # Figures of the paper's history level, the second smallest index of 50 steps, and of index 20.
    assert np.sqrt(1 - table[39]) == pytest.approx(0.199, abs=5e-4) and table[39] == pytest.approx(0.960, abs=5e-4)
    assert np.sqrt(1 - table[20]) == pytest.approx(0.141, abs=2e-3)


def test_the_factor_falls_over_400_steps_and_stays() -> None:
    t = (torch.arange(STEPS, dtype=torch.float64) + 1) / STEPS
    factor = path().factor(t)
    np.testing.assert_allclose(factor, by_hand()[1], atol=1e-12)
    assert factor[39].item() == pytest.approx(0.971, abs=5e-4) and factor[19].item() == pytest.approx(0.986, abs=5e-4)
    assert path().factor(torch.zeros(1)).item() == 1 and (path(rescale=None).factor(t) == 1).all()
    alpha, sigma = path().alpha_sigma(t)
    unscaled, same = path(rescale=None).alpha_sigma(t)
    torch.testing.assert_close(alpha, unscaled * factor)
    assert torch.equal(sigma, same)
    assert DynamicRescale(floor=0.7, steps=400).table(10).tolist() == pytest.approx(np.linspace(1, 0.7, 400)[:10])
    for wrong in ({"floor": 0.0, "steps": 400}, {"floor": 1.1, "steps": 400}, {"floor": 0.7, "steps": 0}):
        with pytest.raises(ValueError, match="floor"):
            DynamicRescale(**wrong)


def test_training_sees_the_shrunk_frames() -> None:
    """What the official training computes: x_k and v of c_k x0, under the schedule without the factor."""
    x0, noise = draw(0), draw(1)
    shrunk = path().factor(TIMES)[..., None, None, None] * x0
    plain = path(rescale=None)
    torch.testing.assert_close(path().add_noise(x0, noise, TIMES), plain.add_noise(shrunk, noise, TIMES))
    torch.testing.assert_close(path().target(x0, noise, TIMES), plain.target(shrunk, noise, TIMES))
    v = draw(2)
    x_t = path().add_noise(x0, noise, TIMES)
    factor = path().factor(TIMES)[..., None, None, None]
    torch.testing.assert_close(factor * path().x0(x_t, v, TIMES), plain.x0(x_t, v, TIMES))


@pytest.mark.parametrize("eta", [0.0, 1.0, 0.3])
@pytest.mark.parametrize(("index", "index_next"), [(999, 979), (419, 399), (399, 379), (39, 19)])
def test_a_ddim_step_is_the_official_one(index: int, index_next: int, eta: float) -> None:
    """x_prev = √ᾱ_prev (c_prev / c) x̂0 + √(1 − ᾱ_prev − σ²) ε̂ + σ noise, with x̂0 and ε̂ those of v, in float64."""
    cumulative, factors = by_hand()
    a, a_next = at(cumulative, index), at(cumulative, index_next)
    x_t, v, noise = draw(0, 1), draw(1, 1), draw(2, 1)
    x0_hat, e_hat = a**0.5 * x_t - (1 - a) ** 0.5 * v, a**0.5 * v + (1 - a) ** 0.5 * x_t
    std = eta * ((1 - a_next) / (1 - a) * (1 - a / a_next)) ** 0.5
    moved = a_next**0.5 * (at(factors, index_next) / at(factors, index)) * x0_hat
    official = moved + (1 - a_next - std**2) ** 0.5 * e_hat + std * noise

    made = path()
    t, t_next = (torch.full((1, 1), (k + 1) / STEPS, dtype=torch.float64) for k in (index, index_next))
    sampler = DDIMSampler(StepList(kind="uniform", steps=50), eta=eta)
    step = sampler.step(made, x_t, made.x0(x_t, v, t), t, t_next, noise)
    torch.testing.assert_close(step.sample, official, atol=1e-10, rtol=0)
    assert step.std.item() == pytest.approx(std, abs=1e-12)


def test_the_last_step_gives_the_true_frames() -> None:
    made, x_t, v = path(), draw(0, 1), draw(1, 1)
    t, clean = torch.full((1, 1), 0.02).double(), torch.zeros(1, 1).double()
    x0 = made.x0(x_t, v, t)
    step = DDIMSampler(StepList(kind="uniform", steps=50), eta=1.0).step(made, x_t, x0, t, clean, draw(2, 1))
    assert torch.equal(step.sample, x0)


def test_the_configs_are_these_paths_and_50_steps_are_trailing() -> None:
    for choice, rescale in (("vp_scaled_linear", None), ("vid2world", RESCALE)):
        config = compose([f"noising={choice}", "sampler=ddim_vid2world"])
        made = instantiate(config.noising, _convert_="all")
        wanted = path(rescale=rescale)
        assert torch.equal(made.alphas_cumprod, wanted.alphas_cumprod)
        assert torch.equal(made.factors, wanted.factors) and made.prediction == "v"
        sampler = instantiate(config.sampler, _convert_="all")
        times = sampler.levels(made, 1)[:, 0]
        assert made.label(times)[:-1].tolist() == list(range(999, 0, -20)) and times[-1] == 0
        assert sampler.eta == 1.0


def test_time_level_label_and_training_times() -> None:
    for made in (path(), path(rescale=None)):
        grid = torch.arange(STEPS + 1, dtype=torch.float64) / STEPS
        levels = made.level(grid)
        assert (levels.diff() > 0).all() and levels[0] == 0 and levels[-1] == 1
        torch.testing.assert_close(made.time(levels), grid, atol=1e-12, rtol=0)
        assert made.label(grid).tolist() == [0, *range(STEPS)]
        t = torch.linspace(0.05, 1, 20, dtype=torch.float64)
        shifted = made.level(made.shifted(t, 3.0))
        level = made.level(t)
        torch.testing.assert_close(shifted, 3 * level / (1 + 2 * level), atol=2e-3, rtol=0)
        assert made.noisy(torch.tensor([1e-7, 0.0005, 0.001, 0.0011])).tolist() == pytest.approx([1e-3] * 3 + [2e-3])
        drawn = NoiseLaw(mean=0.0, std=1.0, uniform_share=1.0, shift=1.0).sample(made, (50_000,), generator(0, "test"))
        counts = torch.bincount(made.label(drawn).long(), minlength=STEPS)
        assert counts.min() > 15 and len(counts) == STEPS


def test_noise_alone_cannot_be_predicted_where_nothing_else_is_left() -> None:
    with pytest.raises(ValueError, match="zero_terminal_snr"):
        path("noise")
    with pytest.raises(ValueError, match="rectified flow"):
        path("velocity")


def test_the_published_sampler_comes_whole_whatever_the_module_takes_by_itself() -> None:
    """A number of steps that the module's own file sets would stay behind where its sampler is exchanged."""
    for words in ([], ["size=paper"]):
        config = compose(["experiment=vid2world", "sampler@module.sampler=ddim_vid2world", *words])
        sampler = instantiate(config.module.sampler, _convert_="all")
        assert (sampler.eta, sampler.steps) == (1.0, StepList("uniform", 50))
