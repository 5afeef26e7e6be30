"""Stochastic samplers: reference numbers, the ODE at eta 0, marginals where the velocity is known, and densities."""

import json
import os
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributions import Normal

from tests.networks.tiny import SHAPE, condition, randn, tiny
from tests.sampling.recording import DIFFUSION, FLOW, noise_of, plan
from wm_lightning.clip import Levels
from wm_lightning.networks.denoiser import Denoiser
from wm_lightning.networks.state import empty_state
from wm_lightning.objectives.policy_gradient import policy_loss
from wm_lightning.sampling.rollout import next_chunk
from wm_lightning.sampling.samplers import DDIMSampler, Sampler, StepList, described
from wm_lightning.sampling.sde import CPSSampler, DanceSDESampler, FlowSDESampler, SDESampler

FOLDER = Path(os.environ.get("WM_GOLDENS", Path(__file__).parents[1] / "goldens"))
FILES = sorted(FOLDER.glob("flow_grpo_sde*.safetensors"))
UNIFORM = StepList(kind="uniform", steps=10)
KINDS = [FlowSDESampler, DanceSDESampler, CPSSampler]
# Per frame: pure noise, an ordinary step, at rest, the last step, at rest and clean, at rest at pure noise.
T = torch.tensor([[1.0, 0.7, 0.4, 0.2, 0.0, 1.0]])
T_NEXT = torch.tensor([[0.9, 0.3, 0.4, 0.0, 0.0, 1.0]])


def frames(seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return randn(1, 6, 2, 3, 5, seed=seed, dtype=dtype)


@pytest.mark.golden
def test_golden_files_are_there() -> None:
    assert FILES, f"no flow_grpo_sde*.safetensors in {FOLDER}"


@pytest.mark.golden
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_golden_steps(path: Path) -> None:
    """Mean, deviation, sample and log-probability of every recorded step of the reference."""
    with safe_open(path, "pt") as file:
        golden = {name: file.get_tensor(name) for name in file.keys()}
        meta = json.loads(file.metadata()["meta"])
    steps = StepList(kind="matched", steps=meta["steps"], shift=meta["shift"])
    sampler = FlowSDESampler(steps, eta=meta["noise_level"])
    sigmas, index = golden["sigmas"], golden["step_index"]
    t, t_next = sigmas[index][:, None], sigmas[index + 1][:, None]
    x_t, velocity, after = (golden[name][:, None] for name in ("sample", "velocity", "next_sample"))
    x0 = FLOW.x0(x_t, velocity, t)
    deviation = golden["std"][:, None] * (t - t_next).sqrt()[..., None, None, None]
    noise = (after - golden["mean"][:, None]) / deviation

    step = sampler.step(FLOW, x_t, x0, t, t_next, noise)
    torch.testing.assert_close(step.mean, golden["mean"][:, None], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(step.std, deviation, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(step.sample, after, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(sampler.log_prob(after, step.mean, step.std), golden["log_prob"], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_without_noise_a_step_is_the_ode_s(kind: type[SDESampler]) -> None:
    x_t, x0, noise = frames(0), frames(1), frames(2)
    ode = DDIMSampler(UNIFORM, eta=0.0).step(FLOW, x_t, x0, T, T_NEXT, noise)
    own = kind(UNIFORM, eta=0.0)
    step = own.step(FLOW, x_t, x0, T, T_NEXT, noise)
    assert torch.equal(step.sample, ode.sample) and torch.equal(step.mean, ode.mean)
    assert not step.std.any() and not own.draws
    assert torch.equal(own.levels(FLOW, 3), DDIMSampler(UNIFORM, eta=0.0).levels(FLOW, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_takes_the_step_of_its_own_levels(kind: type[SDESampler]) -> None:
    x_t, x0, noise, sampler = frames(0), frames(1), frames(2), kind(UNIFORM, eta=0.7)
    whole = sampler.step(FLOW, x_t, x0, T, T_NEXT, noise)
    for f in range(T.shape[1]):
        own = slice(f, f + 1)
        alone = sampler.step(FLOW, x_t[:, own], x0[:, own], T[:, own], T_NEXT[:, own], noise[:, own])
        assert torch.equal(alone.sample, whole.sample[:, own]) and torch.equal(alone.std, whole.std[:, own])
    assert (whole.std[0, :, 0, 0, 0] > 0).tolist() == [True, True, False, False, False, False]
    torch.testing.assert_close(whole.sample[:, 3], x0[:, 3])
    assert torch.equal(whole.sample[:, [2, 4, 5]], x_t[:, [2, 4, 5]])


@pytest.mark.parametrize("kind", [FlowSDESampler, DanceSDESampler])
def test_the_mean_is_the_drift_written_with_velocity_and_score(kind: type[SDESampler]) -> None:
    x_t, x0, t, t_next = frames(0, torch.float64), frames(1, torch.float64), 0.7, 0.3
    now, then = (torch.full((1, 6), level, dtype=torch.float64) for level in (t, t_next))
    step = kind(UNIFORM, eta=0.5).step(FLOW, x_t, x0, now, then, x0)
    s = 0.5 * (t / (1 - t)) ** 0.5 if kind is FlowSDESampler else 0.5
    velocity, score = (x_t - x0) / t, -(x_t - (1 - t) * x0) / t**2
    drift = velocity - s**2 / 2 * score
    torch.testing.assert_close(step.mean, x_t + (t_next - t) * drift)
    torch.testing.assert_close(step.std.flatten()[0].item(), s * (t - t_next) ** 0.5)


@pytest.mark.parametrize("eta", [0.3, 0.7, 1.0])
def test_a_cps_step_keeps_the_level_of_noise(eta: float) -> None:
    """Told the truth, a sample holds exactly as much noise as its level says, however long the step."""
    t, t_next = torch.full((1, 6), 1.0), torch.full((1, 6), 0.3)
    x0 = frames(1)
    from_noise = CPSSampler(UNIFORM, eta=eta).step(FLOW, frames(0), x0, t, t_next, frames(2))
    kept = (from_noise.mean - 0.7 * x0) / frames(0)
    torch.testing.assert_close(kept.square() + from_noise.std**2, torch.full_like(kept, 0.09))


def two_gaussians(x_t: Tensor, t: Levels, *, place: float, spread: float) -> Tensor:
    """E[x0 | x_t] of an even mixture of N(±place, spread²)."""
    alpha, sigma = (value[..., None, None, None] for value in FLOW.alpha_sigma(t))
    variance = alpha**2 * spread**2 + sigma**2
    chosen = (alpha * place * x_t / variance).tanh()
    at = torch.stack([x_t - alpha * place, x_t + alpha * place]) * (alpha * spread**2 / variance)
    return (1 + chosen) / 2 * (place + at[0]) + (1 - chosen) / 2 * (at[1] - place)


def distance_to_two_gaussians(sampler: Sampler, samples: int, *, place: float = 1.0, spread: float = 0.4) -> float:
    """1-Wasserstein distance between what the sampler makes and the mixture's own quantiles."""
    share = (torch.arange(samples, dtype=torch.float64) + 0.5) / samples
    x = Normal(0.0, 1.0).icdf(share).reshape(-1, 1, 1, 1, 1).float()
    for number, (row, row_next) in enumerate(pairwise(sampler.levels(FLOW, 1))):
        t, t_next = row.expand(samples, 1), row_next.expand(samples, 1)
        x0 = two_gaussians(x, t, place=place, spread=spread)
        x = sampler.step(FLOW, x, x0, t, t_next, randn(*x.shape, seed=number)).sample
    grid = torch.linspace(-place - 6 * spread, place + 6 * spread, 20_001, dtype=torch.float64)
    below = (Normal(place, spread).cdf(grid) + Normal(-place, spread).cdf(grid)) / 2
    right = torch.searchsorted(below, share).clamp(1, len(grid) - 1)
    return float((x.flatten().sort().values - grid[right]).abs().mean())


# CPS is no discretised SDE of the flow, and biased at any number of steps.
@pytest.mark.parametrize(
    ("kind", "eta", "bound"),
    [(FlowSDESampler, 0.0, 0.01), (FlowSDESampler, 0.7, 0.02), (DanceSDESampler, 0.7, 0.02), (CPSSampler, 0.7, 0.06)],
)
def test_samples_are_distributed_as_the_data(kind: type[SDESampler], eta: float, bound: float) -> None:
    sampler = kind(StepList(kind="uniform", steps=200), eta=eta)
    found = distance_to_two_gaussians(sampler, samples=10_000)
    assert found < bound


@pytest.mark.parametrize("kind", [FlowSDESampler, DanceSDESampler])
def test_log_prob_is_the_gaussian_s_over_frames_that_drew(kind: type[SDESampler]) -> None:
    sampler, noise = kind(UNIFORM, eta=0.7), frames(2, torch.float64)
    step = sampler.step(FLOW, frames(0, torch.float64), frames(1, torch.float64), T, T_NEXT, noise)
    drew = [0, 1]
    expected = Normal(step.mean[:, drew], step.std[:, drew].expand_as(step.mean[:, drew])).log_prob(
        step.sample[:, drew]
    )
    found = sampler.log_prob(step.sample, step.mean, step.std)
    torch.testing.assert_close(found, expected.mean((1, 2, 3, 4)))
    # What happens to frames that drew nothing is no concern of the likelihood's.
    changed = torch.cat([step.sample[:, drew], frames(5, torch.float64)[:, 2:]], dim=1)
    assert torch.equal(sampler.log_prob(changed, step.mean, step.std), found)


def test_log_prob_of_cps_is_the_bare_square() -> None:
    sampler = CPSSampler(UNIFORM, eta=0.7)
    step = sampler.step(FLOW, frames(0), frames(1), T, T_NEXT, frames(2))
    expected = -(step.std * frames(2))[:, [0, 1]].square().mean()
    torch.testing.assert_close(sampler.log_prob(step.sample, step.mean, step.std), expected[None])


@pytest.mark.parametrize("kind", KINDS)
def test_the_sample_is_held_fixed(kind: type[SDESampler]) -> None:
    """A sample that still hangs on its mean would give a density whose gradient is 0 without anyone noticing."""
    x0 = frames(1).requires_grad_()
    sampler = kind(UNIFORM, eta=0.7)
    step = sampler.step(FLOW, frames(0), x0, T, T_NEXT, frames(2))
    (gradient,) = torch.autograd.grad(sampler.log_prob(step.sample, step.mean, step.std).sum(), x0)
    assert gradient[:, [0, 1]].abs().min() > 0 and not gradient[:, 2:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_densities_are_float32_and_of_the_sample_as_it_is_stored(kind: type[SDESampler]) -> None:
    x_t, x0, noise = (frames(seed).bfloat16() for seed in range(3))
    sampler = kind(UNIFORM, eta=0.7)
    step = sampler.step(FLOW, x_t, x0, T, T_NEXT, noise)
    assert step.sample.dtype == torch.bfloat16 and step.mean.dtype == step.std.dtype == torch.float32
    found = sampler.log_prob(step.sample, step.mean, step.std)
    exact = sampler.log_prob(step.sample.double(), step.mean.double(), step.std.double())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_window_s_steps_draw(kind: type[SDESampler]) -> None:
    windowed, full = kind(UNIFORM, eta=0.7, window=(1, 3)), kind(UNIFORM, eta=0.7)
    ode = DDIMSampler(UNIFORM, eta=0.0)
    for number, (row, row_next) in enumerate(pairwise(windowed.levels(FLOW, 6))):
        given = FLOW, frames(0), frames(1), row[None], row_next[None], frames(2)
        same = full if number in (1, 2) else ode
        assert torch.equal(windowed.step(*given).sample, same.step(*given).sample), number
        assert bool(windowed.step(*given).std.any()) == (number in (1, 2))
    fewer = windowed.with_steps(3)
    assert [len(fewer.levels(FLOW, 1)), fewer.window, fewer.eta] == [4, (1, 3), 0.7]
    with pytest.raises(ValueError, match=r"window=\(1, 3\) .* before step 1, which is the last"):
        windowed.with_steps(2)


@pytest.mark.parametrize("kind", KINDS)
def test_another_path_is_refused(kind: type[SDESampler]) -> None:
    sampler = kind(UNIFORM, eta=0.7)
    with pytest.raises(ValueError, match="VPDiffusion; choose noising=rectified_flow"):
        sampler.levels(DIFFUSION, 2)
    with pytest.raises(ValueError, match="VPDiffusion"):
        sampler.step(DIFFUSION, frames(0), frames(1), T, T_NEXT, frames(2))


def test_settings_are_checked_and_described() -> None:
    with pytest.raises(ValueError, match="eta=-1.0"):
        FlowSDESampler(UNIFORM, eta=-1.0)
    with pytest.raises(ValueError, match=r"eta=1.5 of CPS must lie in \[0, 1\]"):
        CPSSampler(UNIFORM, eta=1.5)
    with pytest.raises(ValueError, match=r"window=\(3, 3\)"):
        FlowSDESampler(UNIFORM, eta=0.7, window=(3, 3))
    sampler = CPSSampler(UNIFORM, eta=0.7, window=[0, 2])
    assert isinstance(sampler, Sampler)
    assert described(sampler)["name"] == "CPSSampler" and described(sampler)["window"] == [0, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_a_recorded_rollout_gives_a_ratio_of_exactly_one(kind: type[SDESampler]) -> None:
    """Means made anew, with gradient, from what the loop recorded: bitwise those that were sampled from."""
    model, sampler = Denoiser(tiny("joint"), FLOW), kind(StepList(kind="uniform", steps=4), eta=0.7)
    driven = condition(2, 3, seed=1)
    noise = noise_of((0, 1), torch.float32)
    with torch.no_grad():
        chunk = next_chunk(model, sampler, empty_state(2), driven, plan(3), noise, shape=SHAPE, keep=False, record=True)
    times = sampler.levels(FLOW, 3)

    def log_probs() -> Tensor:
        made = []
        for number, trace in enumerate(chunk.record[:-1]):
            x0, _ = model.x0(trace.x_t, trace.t, driven, empty_state(2), plan(3).mask)
            t_next = times[number + 1].expand(2, -1)
            step = sampler.step(FLOW, trace.x_t, x0, trace.t, t_next, torch.zeros_like(x0))
            made.append(sampler.log_prob(trace.after, step.mean, step.std))
        return torch.stack(made, dim=1)

    with torch.no_grad():
        old = log_probs()
    for number, trace in enumerate(chunk.record[:-1]):
        step = sampler.step(
            FLOW, trace.x_t, trace.x0, trace.t, times[number + 1].expand(2, -1), torch.zeros_like(trace.x0)
        )
        assert torch.equal(sampler.log_prob(trace.after, step.mean, step.std), old[:, number])
    found = policy_loss(log_probs(), old, torch.tensor([1.0, -2.0]), clip=1e-5, aggregation="exp_first")
    assert found.ratio == 1 and found.clipped == 0
    found.loss.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.network.parameters())
