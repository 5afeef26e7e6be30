"""Policy gradients against their definitions: corners of the clip, surrogates, NFT, and divergences."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from tests.networks.tiny import randn
from wm_lightning.noising import RectifiedFlow
from wm_lightning.objectives.denoising import frame_mean, sample_error
from wm_lightning.objectives.policy_gradient import (
    Aggregation,
    Weighting,
    elbo_weight,
    matching_log_prob,
    nft_loss,
    policy_loss,
    transition_kl,
    velocity_kl,
)

PATH = RectifiedFlow(prediction="velocity", loss_sigma_floor=0.05, label_scale=1.0)
SHAPE = (3, 4, 2, 3, 5)  # b f c h w
GIVEN = torch.tensor([[True, False, False, False], [True, True, False, False], [False, False, False, False]])
AGGREGATIONS: list[Aggregation] = ["exp_first", "sum_first"]
WEIGHTINGS: list[Weighting] = ["uniform", "t", "t**2", "huber", "ghuber"]
A = torch.tensor([1.5, -2.0, 0.0])


def clipped(log_ratio: float, advantage: float, aggregation: Aggregation = "exp_first") -> tuple[Tensor, Tensor]:
    """(loss, gradient in the log-probability) of one rollout with one draw."""
    log_prob = torch.tensor([[log_ratio]], requires_grad=True)
    loss = policy_loss(log_prob, torch.zeros(1, 1), torch.tensor([advantage]), clip=0.2, aggregation=aggregation).loss
    return loss.detach(), torch.autograd.grad(loss, log_prob)[0]


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_the_four_corners_of_the_clip(aggregation: Aggregation) -> None:
    high, low = math.log(1.5), math.log(0.5)
    for ratio, advantage in ((high, 1.0), (low, -1.0)):
        loss, gradient = clipped(ratio, advantage, aggregation)
        assert gradient == 0
        assert float(loss) == pytest.approx(-advantage * (1.2 if advantage > 0 else 0.8))
    for ratio, advantage in ((high, -1.0), (low, 1.0)):
        loss, gradient = clipped(ratio, advantage, aggregation)
        assert float(gradient) == pytest.approx(-advantage * math.exp(ratio)) == pytest.approx(float(loss))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_on_policy_the_ratio_is_one_and_the_gradient_the_policy_s(aggregation: Aggregation) -> None:
    """−A ∇log p, a mean over rollouts and draws, the same for both aggregations."""
    log_prob = randn(3, 5, seed=1).requires_grad_()
    found = policy_loss(log_prob, log_prob, A, clip=1e-5, aggregation=aggregation)
    assert found.ratio == 1 and found.clipped == 0
    torch.testing.assert_close(found.loss.detach(), -A.mean())
    (gradient,) = torch.autograd.grad(found.loss, log_prob)
    torch.testing.assert_close(gradient, -A[:, None].expand(3, 5) / 15)


def test_every_draw_may_have_an_advantage_of_its_own() -> None:
    log_prob, advantage = randn(3, 5, seed=1).requires_grad_(), randn(3, 5, seed=2)
    loss = policy_loss(log_prob, log_prob, advantage, clip=1e-5, aggregation="exp_first").loss
    (gradient,) = torch.autograd.grad(loss, log_prob)
    torch.testing.assert_close(gradient, -advantage / 15)
    with pytest.raises(ValueError, match="each of its draws has another advantage"):
        policy_loss(log_prob, log_prob, advantage, clip=0.2, aggregation="sum_first")


def test_aggregations_differ_away_from_one() -> None:
    old, new = randn(3, 5, seed=1), randn(3, 5, seed=2)
    ratio = (new - old).exp()
    first = policy_loss(new, old, A, clip=100.0, aggregation="exp_first")
    summed = policy_loss(new, old, A, clip=100.0, aggregation="sum_first")
    torch.testing.assert_close(first.loss, -(A[:, None] * ratio).mean())
    torch.testing.assert_close(summed.loss, -(A * (new - old).mean(1).exp()).mean())
    torch.testing.assert_close(first.ratio, ratio.mean())


def test_what_is_logged_counts_ratios_outside_the_range() -> None:
    new = torch.tensor([[0.0, 0.5], [-0.5, 0.01]])
    found = policy_loss(new, torch.zeros(2, 2), torch.tensor([1.0, 1.0]), clip=0.2, aggregation="exp_first")
    assert found.clipped == 0.5
    assert not found.ratio.requires_grad


def test_a_mean_over_micro_batches_is_that_of_the_batch() -> None:
    new, old, advantage = randn(4, 3, seed=1), randn(4, 3, seed=2), torch.tensor([1.0, 0.0, -1.0, 3.0])
    whole = policy_loss(new, old, advantage, clip=0.2, aggregation="exp_first").loss
    halves = [
        policy_loss(new[rows], old[rows], advantage[rows], clip=0.2, aggregation="exp_first").loss
        for rows in (slice(2), slice(2, 4))
    ]
    torch.testing.assert_close(sum(halves) / 2, whole)


def test_a_ratio_beyond_all_numbers_leaves_other_rollouts_alone() -> None:
    log_prob = torch.tensor([[200.0], [0.0]], requires_grad=True)
    loss = policy_loss(log_prob, torch.zeros(2, 1), torch.tensor([0.0, 1.0]), clip=0.2, aggregation="exp_first").loss
    (gradient,) = torch.autograd.grad(loss, log_prob)
    assert loss == -0.5 and gradient.tolist() == [[0.0], [-0.5]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_ratios_are_reckoned_in_float32_at_least(dtype: torch.dtype) -> None:
    """In bfloat16 a log-probability of 1 would swallow every change below 0.004, and clip ranges are 1e-5."""
    prediction, target = randn(*SHAPE, seed=1, dtype=dtype), randn(*SHAPE, seed=2, dtype=dtype)
    error = sample_error(prediction, target, GIVEN)
    assert error.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(
        error.double(), sample_error(prediction.double(), target.double(), GIVEN), rtol=1e-6, atol=0
    )
    log_prob = matching_log_prob(error, torch.full((3,), 0.5, dtype=dtype), weighting="ghuber", p=0.25)
    assert log_prob.dtype == error.dtype


def test_matching_weightings_are_the_published_formulas() -> None:
    error, t = torch.tensor([0.0, 1e-4, 0.3, 9.0]).double(), torch.tensor([0.9, 0.5, 0.7, 1.0]).double()
    expected: dict[Weighting, Tensor] = {
        "uniform": error,
        "t": t * error,
        "t**2": t**2 * error,
        "huber": t * ((error + 1e-10) ** 0.5 - 1e-5),
        "ghuber": t / 0.25 * ((error + 1e-10) ** 0.25 - 1e-10**0.25),
    }
    for weighting, psi in expected.items():
        torch.testing.assert_close(matching_log_prob(error, t, weighting=weighting, p=0.25), -psi)
    by_t, by_one = (matching_log_prob(error, t, weighting=w, p=1.0) for w in ("t", "ghuber"))
    torch.testing.assert_close(by_one, by_t, atol=1e-12, rtol=1e-9)
    half = matching_log_prob(error, t, weighting="ghuber", p=0.5)
    torch.testing.assert_close(half, 2 * matching_log_prob(error, t, weighting="huber", p=0.5))


def test_ghuber_damps_large_errors_and_stays_finite_at_none() -> None:
    error, t = torch.tensor([0.0, 0.01, 1.0, 4.0], requires_grad=True), torch.ones(4)
    (slope,) = torch.autograd.grad(matching_log_prob(error, t, weighting="ghuber", p=0.25).sum(), error)
    torch.testing.assert_close(slope[1:], -(error[1:].detach() ** -0.75))
    assert bool(slope.isfinite().all())


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_awm_raises_the_likelihood_of_what_was_good(weighting: Weighting) -> None:
    """One on-policy step on the velocity: a good rollout's matching loss falls, a bad one's grows."""
    x0, noise = randn(*SHAPE, seed=1), randn(*SHAPE, seed=2)
    t = torch.tensor([0.3, 0.6, 0.9])[:, None].expand(SHAPE[:2]).masked_fill(GIVEN, 0.0)
    level = frame_mean(t, GIVEN)
    torch.testing.assert_close(level, torch.tensor([0.3, 0.6, 0.9]))
    velocity = (PATH.target(x0, noise, t) + 0.5 * randn(*SHAPE, seed=3)).requires_grad_()
    error = sample_error(velocity, PATH.target(x0, noise, t), GIVEN)
    log_prob = matching_log_prob(error, level, weighting=weighting, p=0.25)[:, None]
    loss = policy_loss(log_prob, log_prob, A, clip=1.0, aggregation="exp_first").loss
    (gradient,) = torch.autograd.grad(loss, velocity)
    after = sample_error(velocity.detach() - gradient, PATH.target(x0, noise, t), GIVEN)
    assert after[0] < error[0] and after[1] > error[1] and after[2] == error[2]
    assert not gradient[GIVEN].any()


def test_given_frames_stay_out_of_every_loss() -> None:
    """Renoising leaves them, nothing put in their place changes a loss, and no gradient reaches them."""
    x0, noise, old = (randn(*SHAPE, seed=seed) for seed in (1, 2, 3))
    t = torch.full(SHAPE[:2], 0.6).masked_fill(GIVEN, 0.0)
    x_t = PATH.add_noise(x0, noise, t)
    assert torch.equal(x_t[GIVEN], x0[GIVEN])
    velocity, elsewhere = randn(*SHAPE, seed=4).requires_grad_(), torch.where(GIVEN[..., None, None, None], 100.0, 0.0)

    def losses(shift: Tensor) -> list[Tensor]:
        return [
            sample_error(velocity, noise - x0 + shift, GIVEN).sum(),
            velocity_kl(velocity, old + shift, GIVEN, elbo_weight(t, eta=0.7)),
            nft_loss(velocity, old + shift, x_t, t, x0 + shift, A, GIVEN, beta=0.5, clip=5.0),
        ]

    for before, after in zip(losses(torch.zeros_like(x0)), losses(elsewhere), strict=True):
        assert torch.equal(before, after) and before != 0
        (gradient,) = torch.autograd.grad(before, velocity)
        assert not gradient[GIVEN].any() and bool(gradient[~GIVEN].all())
    everything = torch.ones_like(GIVEN)
    assert not sample_error(velocity, old, everything).any()


def nft_gradient(advantage: float, *, beta: float, clip: float = 5.0) -> tuple[Tensor, Tensor]:
    """(loss, gradient in the velocity) at the old policy."""
    x0, noise, old = (randn(*SHAPE, seed=seed, dtype=torch.float64) for seed in (1, 2, 3))
    t = torch.full(SHAPE[:2], 0.6, dtype=torch.float64)
    velocity = old.clone().requires_grad_()
    x_t, advantages = PATH.add_noise(x0, noise, t), torch.full((3,), advantage, dtype=torch.float64)
    loss = nft_loss(velocity, old, x_t, t, x0, advantages, GIVEN, beta=beta, clip=clip)
    return loss.detach(), torch.autograd.grad(loss, velocity)[0]


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_nft_at_the_old_policy(beta: float) -> None:
    """Both losses are equal there, so the loss forgets r, and the gradient is proportional to 2 r − 1."""
    rewards = {a: nft_gradient(a, beta=beta) for a in (-20.0, -5.0, -1.0, 0.0, 2.5, 5.0)}
    full_loss, full = rewards[5.0]
    assert full.abs().max() > 0
    for advantage, (loss, gradient) in rewards.items():
        torch.testing.assert_close(loss, full_loss)
        share = min(max(0.5 + advantage / 10, 0.0), 1.0)
        torch.testing.assert_close(gradient, (2 * share - 1) * full, atol=1e-12, rtol=1e-9)


def test_nft_is_the_published_formula() -> None:
    """Its gradient too, to which the normalisers are constants."""
    x0, noise, old, new = (randn(*SHAPE, seed=seed, dtype=torch.float64) for seed in (1, 2, 3, 4))
    t, beta, clip, advantage = 0.6, 0.3, 2.0, torch.tensor([1.0, -3.0, 0.5]).double()
    x_t, new = (1 - t) * x0 + t * noise, new.requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for b in range(SHAPE[0]):
        keep, share = ~GIVEN[b], float((0.5 + advantage[b] / (2 * clip)).clamp(0, 1))
        for r, u in ((share, beta * new + (1 - beta) * old), (1 - share, (1 + beta) * old - beta * new)):
            gap = (x_t - t * u - x0)[b, keep]
            total = total + clip * r * gap.square().mean() / gap.abs().mean().detach() / beta / SHAPE[0]
    levels = torch.full(SHAPE[:2], t, dtype=torch.float64)
    found = nft_loss(new, old, x_t, levels, x0, advantage, GIVEN, beta=beta, clip=clip)
    torch.testing.assert_close(found, total)
    torch.testing.assert_close(torch.autograd.grad(found, new), torch.autograd.grad(total, new))


@pytest.mark.parametrize("advantage", [5.0, -5.0])
def test_nft_pulls_towards_good_samples_and_pushes_away_from_bad_ones(advantage: float) -> None:
    x0, noise, old = (randn(*SHAPE, seed=seed, dtype=torch.float64) for seed in (1, 2, 3))
    _, gradient = nft_gradient(advantage, beta=1.0)
    before, after = (sample_error(u, noise - x0, GIVEN) for u in (old, old - gradient))
    assert bool(((after < before) if advantage > 0 else (after > before)).all())


def test_divergences_vanish_with_their_gradients_where_nothing_differs() -> None:
    velocity = randn(*SHAPE, seed=1).requires_grad_()
    std = torch.full((*SHAPE[:2], 1, 1, 1), 0.3)
    for loss in (velocity_kl(velocity, velocity, GIVEN), transition_kl(velocity, velocity, std)):
        assert loss == 0 and not torch.autograd.grad(loss, velocity)[0].any()


def test_references_get_no_gradient() -> None:
    new, reference = (randn(*SHAPE, seed=seed).requires_grad_() for seed in (1, 2))
    t, std = torch.full(SHAPE[:2], 0.5), torch.full((*SHAPE[:2], 1, 1, 1), 0.3)
    losses = [
        velocity_kl(new, reference, GIVEN),
        transition_kl(new, reference, std),
        nft_loss(new, reference, randn(*SHAPE, seed=3), t, randn(*SHAPE, seed=4), A, GIVEN, beta=1.0, clip=5.0),
        policy_loss(new.flatten(1), reference.flatten(1), A, clip=0.5, aggregation="exp_first").loss,
    ]
    for loss in losses:
        own, other = torch.autograd.grad(loss, [new, reference], allow_unused=True)
        assert own.abs().max() > 0 and other is None


def test_transition_kl_is_the_gaussians_over_frames_that_drew() -> None:
    mean, reference = (randn(*SHAPE, seed=seed, dtype=torch.float64) for seed in (1, 2))
    std = torch.tensor([0.2, 0.5, 0.0, 0.0], dtype=torch.float64)[None, :, None, None, None].expand(3, -1, 1, 1, 1)
    drew = slice(0, 2)
    spread = std[:, drew].expand_as(mean[:, drew])
    expected = kl_divergence(Normal(mean[:, drew], spread), Normal(reference[:, drew], spread)).mean()
    torch.testing.assert_close(transition_kl(mean, reference, std), expected)


def test_the_elbo_s_matching_loss_weighs_the_error_of_x0_by_half_the_fall_of_snr() -> None:
    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(((1 - t) / t).square().sum(), t)
    level, error = t.detach(), torch.tensor([0.3, 2.0, 1.0], dtype=torch.float64)  # of velocities; of x0: t² times that
    found = matching_log_prob(error, level, weighting="elbo", p=1.0)
    torch.testing.assert_close(found, slope / 2 * level.square() * error)


def test_the_elbo_weight_is_one_over_twice_the_variance() -> None:
    t = torch.tensor([[0.1, 0.5, 0.9, 1.0, 0.0]])
    s = 0.7 * (t / (1 - t)).sqrt()
    torch.testing.assert_close(elbo_weight(t, eta=0.7)[0, :3], (1 / (2 * s**2))[0, :3])
    assert elbo_weight(t, eta=0.7)[0, 3:].tolist() == [0, 0]


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="clip=0"):
        policy_loss(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1), clip=0.0, aggregation="exp_first")
    with pytest.raises(ValueError, match="p=0.0 must be positive"):
        matching_log_prob(torch.ones(1), torch.ones(1), weighting="ghuber", p=0.0)
    with pytest.raises(ValueError, match="beta=0"):
        nft_gradient(1.0, beta=0.0)
