"""Self-distillation against its own statements: the gradient of eq. 7, Proposition 1, and who gets a gradient."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tests.networks.tiny import condition, randn, tiny, videos
from wm_lightning.clip import Levels
from wm_lightning.networks.denoiser import Denoiser
from wm_lightning.networks.masks import FrameMask
from wm_lightning.noising import RectifiedFlow
from wm_lightning.objectives.denoising import frame_error
from wm_lightning.objectives.policy_gradient import policy_loss
from wm_lightning.objectives.self_distillation import (
    CostWeighting,
    distillation_loss,
    distillation_reward,
    reward_to_go,
    step_costs,
    step_rewards,
    step_weights,
    trajectory_cost,
)
from wm_lightning.sampling.samplers import DDIMSampler, PyramidSampler, Sampler, StepList
from wm_lightning.sampling.sde import CPSSampler, DanceSDESampler, FlowSDESampler, SDESampler

FLOW = RectifiedFlow(prediction="velocity", loss_sigma_floor=0.05, label_scale=20.0)
WEIGHTINGS: list[CostWeighting] = ["dt", "uniform"]
GIVEN = torch.tensor([[True, False, False], [False, False, False]])
Velocity = Callable[[Tensor, Levels], Tensor]


def euler(sampler: Sampler, velocity: Velocity, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """Every state of a deterministic rollout, and where it ends."""
    states = []
    for row, row_next in pairwise(sampler.levels(FLOW, x.shape[1]).to(x)):
        t, t_next = row.expand(len(x), -1), row_next.expand(len(x), -1)
        states.append(x)
        x = sampler.step(FLOW, x, FLOW.x0(x, velocity(x, t), t), t, t_next, torch.zeros_like(x)).sample
    return states, x


def none_given(x: Tensor) -> Tensor:
    return torch.zeros(x.shape[:2], dtype=torch.bool)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("pyramid", [False, True], ids=["flat", "pyramid"])
def test_weights_of_steps_sum_to_one(weighting: CostWeighting, pyramid: bool) -> None:
    sampler: Sampler = DDIMSampler(StepList(kind="matched", steps=8, shift=5.0), eta=0.0)
    sampler = PyramidSampler(sampler) if pyramid else sampler
    times = sampler.levels(FLOW, 3)
    weights = step_weights(times, weighting)
    torch.testing.assert_close(weights.sum(0), torch.ones(3))
    assert not weights[times[1:] == times[:-1]].any()
    # The noisiest steps of a shifted schedule are short.
    assert weighting == "uniform" or pyramid or weights[0, 0] < weights[-1, 0] / 5


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_trajectory_s_cost_is_the_sum_over_its_steps_and_the_mean_over_frames(weighting: CostWeighting) -> None:
    times = torch.tensor([[1.0, 1.0, 1.0], [0.7, 0.9, 1.0], [0.2, 0.3, 1.0], [0.0, 0.0, 0.5], [0.0, 0.0, 0.0]])
    gaps = randn(2, 4, 3, seed=1).square()
    expected = torch.zeros(2)
    for b in range(2):
        frames = [f for f in range(3) if not GIVEN[b, f]]
        for f in frames:
            lengths = [float(times[k, f] - times[k + 1, f]) for k in range(4)]
            moves = sum(length > 0 for length in lengths)
            for k, length in enumerate(lengths):
                share = length if weighting == "dt" else (length > 0) / moves
                expected[b] += share * gaps[b, k, f] / len(frames)
    found = trajectory_cost(gaps, times, GIVEN, weighting=weighting)
    torch.testing.assert_close(found, expected)
    assert torch.equal(distillation_reward(gaps, times, GIVEN, weighting=weighting), -found)
    rewards = step_rewards(gaps, times, GIVEN, weighting=weighting)
    assert rewards.shape == (2, 4)
    torch.testing.assert_close(rewards.sum(1), -found)


def test_the_executor_alone_learns_and_the_reward_carries_no_gradient() -> None:
    student, teacher = (randn(2, 3, 2, 2, 2, seed=seed).requires_grad_() for seed in (1, 2))
    own, other = torch.autograd.grad(distillation_loss(student, teacher, GIVEN), [student, teacher], allow_unused=True)
    assert other is None and not own[GIVEN].any() and bool(own[~GIVEN].all())
    times = torch.tensor([1.0, 0.5, 0.0])[:, None].expand(-1, 3)
    gaps = torch.stack([frame_error(student, teacher)] * 2, dim=1)
    assert trajectory_cost(gaps, times, GIVEN, weighting="dt").requires_grad
    for reward in (distillation_reward, step_rewards):
        assert not reward(gaps, times, GIVEN, weighting="dt").requires_grad


def test_given_frames_and_resolution_do_not_change_the_gap() -> None:
    student, teacher = (randn(2, 3, 2, 4, 4, seed=seed) for seed in (1, 2))
    hidden = torch.where(GIVEN[..., None, None, None], 1e6, teacher)
    assert torch.equal(distillation_loss(student, hidden, GIVEN), distillation_loss(student, teacher, GIVEN))
    finer, told = (value.repeat_interleave(2, 3).repeat_interleave(2, 4) for value in (student, teacher))
    torch.testing.assert_close(distillation_loss(finer, told, GIVEN), distillation_loss(student, teacher, GIVEN))


def test_a_demonstrator_that_is_told_the_same_has_nothing_to_teach() -> None:
    model, x = Denoiser(tiny("joint"), FLOW), videos(2, 3, seed=1)
    t = torch.full((2, 3), 0.6).masked_fill(GIVEN, 0.0)

    def velocity(seed: int) -> Tensor:
        return model.predict(x, t, condition(2, 3, seed=seed), None, FrameMask(None))[0]

    parameters = list(model.network.parameters())
    same, different = (distillation_loss(velocity(1), velocity(seed), GIVEN) for seed in (1, 2))
    assert same == 0 and not any(g.any() for g in torch.autograd.grad(same, parameters))
    assert different > 1e-4 and any(bool(g.any()) for g in torch.autograd.grad(different, parameters))


def executor(x: Tensor, t: Levels, theta: Tensor) -> Tensor:
    at = t[..., None, None, None]
    return theta * (1.5 * x).sin() + at * x - 0.5


def demonstrator(x: Tensor, t: Levels) -> Tensor:
    return x + t[..., None, None, None].cos()


def stochastic_costs(sampler: SDESampler, theta: Tensor, noise: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Cost and log-probability of every step of rollouts, one per noise; all states are held fixed for gradients."""
    x, gaps, log_probs = noise[0], [], []
    times = sampler.levels(FLOW, 1).to(x)
    for number, (row, row_next) in enumerate(pairwise(times)):
        t, t_next = row.expand(len(x), 1), row_next.expand(len(x), 1)
        velocity = executor(x, t, theta)
        gaps.append(frame_error(velocity, demonstrator(x, t)))
        step = sampler.step(FLOW, x, FLOW.x0(x, velocity, t), t, t_next, noise[number + 1])
        log_probs.append(sampler.log_prob(step.sample, step.mean, step.std))
        x = step.sample.detach()
    costs = step_costs(torch.stack(gaps, dim=1), times, none_given(x), weighting="dt")
    return costs, torch.stack(log_probs, dim=1)


@pytest.mark.parametrize("kind", [FlowSDESampler, DanceSDESampler])
def test_a_reward_and_a_regression_make_the_on_policy_gradient(kind: type[SDESampler]) -> None:
    """Eq. 7 on a one-dimensional SDE of two random steps, against a finite difference with common random numbers.

    Either half alone is far off. What is credited to every step makes the same gradient and varies less; the cost of
    the step's own state would not make it.
    """
    samples, width = 100_000, 1e-3
    sampler = kind(StepList(kind="uniform", steps=3), eta=0.7)
    noise = [randn(samples, 1, 1, 1, 1, seed=seed, dtype=torch.float64) for seed in range(4)]
    # One copy of the parameter per rollout, so that every rollout's own gradient is seen.
    theta = torch.full((samples, 1, 1, 1, 1), 0.8, dtype=torch.float64, requires_grad=True)
    costs, log_probs = stochastic_costs(sampler, theta, noise)
    (regression,) = torch.autograd.grad(costs.sum(), theta, retain_graph=True)

    def score_of(reward: Tensor) -> Tensor:
        """The score term of rewards, of rollouts or of their steps, less a baseline."""
        advantage = (reward - reward.mean(0)).detach().expand_as(log_probs)
        loss = policy_loss(log_probs, log_probs, advantage, clip=1.0, aggregation="exp_first").loss
        return torch.autograd.grad(loss * log_probs.numel(), theta, retain_graph=True)[0]

    score, by_step, own = (score_of(r) for r in (-costs.sum(1, keepdim=True), reward_to_go(-costs), -costs))
    with torch.no_grad():
        up, down = (stochastic_costs(sampler, theta + shift, noise)[0].sum(1) for shift in (width, -width))
    difference = ((up - down) / (2 * width)).reshape_as(theta)

    def errors(found: Tensor) -> float:
        """How many standard errors the mean of a gradient lies from that of the finite difference."""
        apart = found - difference
        return float(apart.mean().abs() / (apart.std() / math.sqrt(samples)))

    assert errors(score + regression) < 3
    assert errors(score) > 6 and errors(regression) > 6
    assert errors(by_step + regression) < 3 and by_step.std() < score.std()
    assert errors(own + regression) > 6
    assert float(own.mean().abs() / (own.std() / math.sqrt(samples))) < 3, "what came before tells nothing of a draw"


def test_a_step_is_credited_with_the_steps_behind_it() -> None:
    rewards = torch.tensor([[1.0, 2.0, 4.0], [-1.0, 0.5, 0.1]])
    torch.testing.assert_close(reward_to_go(rewards), torch.tensor([[6.0, 4.0, 0.0], [0.6, 0.1, 0.0]]))


def linear_pair(seed: int, *, lipschitz: float, size: float) -> tuple[Velocity, Velocity]:
    """A linear teacher of a known Lipschitz constant, and a student that differs from it by a bounded function."""
    matrix, other, place = randn(6, 6, seed=seed).double(), randn(6, 6, seed=seed + 1).double(), randn(6, seed=seed + 2)
    matrix = lipschitz * matrix / torch.linalg.matrix_norm(matrix, 2)

    def teacher(x: Tensor, t: Levels) -> Tensor:
        return (x.flatten(1) @ matrix.T + t[:, :1] * place).view_as(x)

    def student(x: Tensor, t: Levels) -> Tensor:
        return teacher(x, t) + size * (x.flatten(1) @ other.T + t[:, :1]).tanh().view_as(x)

    return teacher, student


@pytest.mark.parametrize("lipschitz", [0.0, 0.5, 3.0])
def test_proposition_1(lipschitz: float) -> None:
    """Ends of coupled rollouts lie no further apart than e^L times the root of the student's cost, exactly."""
    sampler = DDIMSampler(StepList(kind="uniform", steps=10), eta=0.0)
    closest = 0.0
    for seed in range(0, 45, 3):
        teacher, student = linear_pair(seed, lipschitz=lipschitz, size=0.1 * (1 + seed % 7))
        x = randn(8, 2, 1, 1, 3, seed=seed, dtype=torch.float64)
        states, end = euler(sampler, student, x)
        times = sampler.levels(FLOW, 2).double()
        gaps = [
            frame_error(student(s, t), teacher(s, t))
            for s, t in zip(states, (row.expand(8, -1) for row in times), strict=False)
        ]
        cost = trajectory_cost(torch.stack(gaps, dim=1), times, none_given(x), weighting="dt")
        apart = (end - euler(sampler, teacher, x)[1]).flatten(1).norm(dim=1)
        bound = math.exp(lipschitz) * (cost * x[0].numel()).sqrt()
        assert bool((apart <= bound).all())
        closest = max(closest, float((apart / bound).max()))
    assert closest > 0.01  # the bound says something


def test_proposition_1_is_tight_for_a_constant_difference_and_zero_for_none() -> None:
    sampler = DDIMSampler(StepList(kind="matched", steps=7, shift=3.0), eta=0.0)
    teacher, _ = linear_pair(0, lipschitz=0.0, size=0.0)
    x, apart = randn(8, 2, 1, 1, 3, seed=1, dtype=torch.float64), torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    times = sampler.levels(FLOW, 2).double()
    _, end = euler(sampler, lambda s, t: teacher(s, t) + apart, x)
    cost = trajectory_cost(frame_error(x + apart, x)[:, None].expand(-1, 7, -1), times, none_given(x), weighting="dt")
    shift = (end - euler(sampler, teacher, x)[1]).flatten(1).norm(dim=1)
    torch.testing.assert_close(shift, (cost * x[0].numel()).sqrt())
    assert torch.equal(euler(sampler, teacher, x)[1], euler(sampler, linear_pair(0, lipschitz=0.0, size=0.0)[1], x)[1])


def test_given_frames_pass_through_a_rollout_unchanged() -> None:
    """A frame that stands at t = 0 throughout is never touched, whatever the sampler draws elsewhere."""
    x = randn(2, 3, 2, 2, 2, seed=1)
    for kind in (FlowSDESampler, DanceSDESampler, CPSSampler):
        sampler, made = kind(StepList(kind="uniform", steps=4), eta=0.7), x
        for number, (row, row_next) in enumerate(pairwise(sampler.levels(FLOW, 3))):
            t, t_next = (level.expand(2, -1).masked_fill(GIVEN, 0.0) for level in (row, row_next))
            x0 = randn(*x.shape, seed=10 + number)
            made = sampler.step(FLOW, made, x0, t, t_next, randn(*x.shape, seed=20 + number)).sample
        assert torch.equal(made[GIVEN], x[GIVEN]) and not torch.equal(made[~GIVEN], x[~GIVEN])
