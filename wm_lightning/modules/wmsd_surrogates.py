"""What stands in for the likelihood of a rollout when rewards move the executor: matching, transitions, or neither."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wm_lightning.clip import Condition, Latents, Levels
from wm_lightning.modules.wmsd_rollouts import Context, Rollouts, velocities_at
from wm_lightning.networks.denoiser import Denoiser
from wm_lightning.networks.masks import FrameMask
from wm_lightning.noising import per_pixel
from wm_lightning.objectives.denoising import Given, Scalar, sample_error
from wm_lightning.objectives.policy_gradient import (
    Aggregation,
    PolicyLoss,
    Weighting,
    elbo_weight,
    matching_log_prob,
    nft_loss,
    policy_loss,
    transition_kl,
    velocity_kl,
)
from wm_lightning.sampling.samplers import Sampler, Step
from wm_lightning.sampling.sde import SDESampler

VelocityKL = Literal["velocity", "elbo"]
KL = Literal["velocity", "elbo", "transition"]
NOISE = 0.7  # eta of the noise in whose unit "elbo" weighs: Flow-GRPO's


@dataclass(frozen=True)
class Moved:
    """Rollouts that an advantage moves: what the executor was told of them, and the sampler's steps to learn at.

    The advantage is theirs, or one for each of the `picked` steps. `noise` gives that of one draw, `average` is the
    executor's moving average.
    """

    made: Rollouts
    asked: Condition
    advantage: Float[Tensor, "b *draws"]
    picked: Int[Tensor, "draws"]
    noise: Callable[[int], Latents]
    mask: FrameMask
    average: Denoiser


@runtime_checkable
class Surrogate(Protocol):
    """A policy loss over `draws` of a rollout's steps."""

    @property
    def draws(self) -> int:
        """Steps a rollout that are learned at."""
        ...

    def eligible(self, sampler: Sampler) -> Sequence[int]:
        """The numbers of the steps that can be learned at. Raises ValueError for a sampler it cannot learn from."""
        ...

    def loss(self, executor: Denoiser, sampler: Sampler, moved: Moved) -> PolicyLoss:
        """The loss of an only update, at which every ratio is 1."""
        ...


@dataclass(frozen=True)
class AWM:
    """Advantage-weighted matching (2509.25050) at the sampler's own levels.

    `weighting` and `p` turn a matching loss into a log-probability, `aggregation` and `clip` that into a loss. Above 0,
    `trust` weighs the `kl` to the executor's moving average: the squared distance of velocities, or that weighed by
    level as the likelihood's bound does ("elbo").
    """

    draws: int
    weighting: Weighting
    p: float
    aggregation: Aggregation
    clip: float
    trust: float = 0.0
    kl: VelocityKL = "velocity"

    def eligible(self, sampler: Sampler) -> Sequence[int]:
        """All steps: a network that was trained for few knows their levels alone."""
        return range(sampler.steps.steps)

    def loss(self, executor: Denoiser, sampler: Sampler, moved: Moved) -> PolicyLoss:
        """Videos are noised anew, and what the executor says of them is held against that noise."""
        made, seen = moved.made, _renoised(executor, moved)
        said = velocities_at(executor, seen.context, seen.x_t, seen.t, seen.asked, moved.mask)
        matching = sample_error(said, seen.noise - seen.clean, seen.given)
        log_prob = matching_log_prob(matching, seen.t[:, 0], weighting=self.weighting, p=self.p)
        log_prob = log_prob.unflatten(0, (len(moved.picked), len(made))).T
        found = policy_loss(log_prob, log_prob, moved.advantage, clip=self.clip, aggregation=self.aggregation)
        return _trusting(found, self.trust, lambda: _velocity_kl(said, seen, moved, self.kl))


@dataclass(frozen=True)
class NFT:
    """DiffusionNFT (2509.16117) with the executor itself as old policy: good videos pull its velocities, bad ones push.

    `beta` is how far its two hypothetical policies lie apart, `clip` the advantage that counts as wholly good, `trust`
    the weight of the `kl` to the executor's moving average, as of `AWM`.
    """

    draws: int
    beta: float
    clip: float
    trust: float = 0.0
    kl: VelocityKL = "velocity"

    def eligible(self, sampler: Sampler) -> Sequence[int]:
        """All steps."""
        return range(sampler.steps.steps)

    def loss(self, executor: Denoiser, sampler: Sampler, moved: Moved) -> PolicyLoss:
        """Its ratio is 1 by definition: there is no likelihood."""
        seen = _renoised(executor, moved)
        said = velocities_at(executor, seen.context, seen.x_t, seen.t, seen.asked, moved.mask)
        rows, draws = len(moved.made), len(moved.picked)
        advantage = moved.advantage.reshape(rows, -1).expand(-1, draws).T.flatten()  # draws one after the other
        loss = nft_loss(
            said, said.detach(), seen.x_t, seen.t, seen.clean, advantage, seen.given, beta=self.beta, clip=self.clip
        )
        found = PolicyLoss(loss, torch.ones_like(loss.detach()), torch.zeros_like(loss.detach()))
        return _trusting(found, self.trust, lambda: _velocity_kl(said, seen, moved, self.kl))


@dataclass(frozen=True)
class GRPO:
    """Flow-GRPO (2505.05470): the density of the sampler's own random steps, so it needs a sampler that has some.

    `trust` weighs the `kl` to the executor's moving average: that of the steps' own Gaussians ("transition"), or of
    velocities, as of `AWM`.
    """

    draws: int
    clip: float
    aggregation: Aggregation
    trust: float = 0.0
    kl: KL = "transition"

    def eligible(self, sampler: Sampler) -> Sequence[int]:
        """The steps that draw: never the last, and those of the sampler's window alone."""
        if not isinstance(sampler, SDESampler) or not sampler.draws:
            raise ValueError(
                "surrogate=grpo learns from the density of random steps, and this sampler has none; set sampler=cps, "
                "flow_sde or dance_sde with eta above 0, or surrogate=awm"
            )
        first, behind = sampler.window or (0, sampler.steps.steps - 1)
        return range(first, min(behind, sampler.steps.steps - 1))

    def loss(self, executor: Denoiser, sampler: Sampler, moved: Moved) -> PolicyLoss:
        """The steps that were taken, taken again with gradient from where they began."""
        assert isinstance(sampler, SDESampler)
        made, steps = moved.made, moved.picked.tolist()
        seen = _revisited(moved)
        after = torch.cat([made.after(step) for step in steps])
        t_next = torch.cat([_level(made, step + 1) for step in steps])

        def taken(said: Latents) -> Step:
            x0 = seen.x_t - per_pixel(seen.t) * said
            return sampler.step(executor.path, seen.x_t, x0, seen.t, t_next, torch.zeros_like(seen.x_t))

        def log_prob(step: Step) -> Float[Tensor, "rows draws"]:
            return sampler.log_prob(after, step.mean, step.std).unflatten(0, (len(steps), len(made))).T

        said = velocities_at(executor, seen.context, seen.x_t, seen.t, seen.asked, moved.mask)
        new = taken(said)
        # Those of the rollout: a ratio that is not 1 shows that training sees other passes than rollouts did.
        old = log_prob(taken(torch.cat([made.velocities[:, step] for step in steps])))
        found = policy_loss(log_prob(new), old, moved.advantage, clip=self.clip, aggregation=self.aggregation)

        def kl() -> Scalar:
            if self.kl != "transition":
                return _velocity_kl(said, seen, moved, self.kl)
            return transition_kl(new.mean, taken(_held(seen, moved)).mean, new.std)

        return _trusting(found, self.trust, kl)


@dataclass(frozen=True)
class _Seen:
    """States at the picked levels, draws one after the other."""

    x_t: Latents
    t: Levels
    context: Context
    asked: Condition
    given: Given


@dataclass(frozen=True)
class _Renoised(_Seen):
    """Videos noised to the picked levels."""

    clean: Latents
    noise: Latents


def _trusting(found: PolicyLoss, trust: float, kl: Callable[[], Scalar]) -> PolicyLoss:
    """The loss with a divergence of that weight, which costs a pass where it has one."""
    return found if trust <= 0 else replace(found, loss=found.loss + trust * kl())


@torch.no_grad()
def _held(seen: _Seen, moved: Moved) -> Latents:
    """What the executor's moving average says of the same states."""
    return velocities_at(moved.average, seen.context, seen.x_t, seen.t, seen.asked, moved.mask)


def _velocity_kl(said: Latents, seen: _Seen, moved: Moved, kl: KL) -> Scalar:
    weight = elbo_weight(seen.t, eta=NOISE) if kl == "elbo" else None
    return velocity_kl(said, _held(seen, moved), seen.given, weight)


def _revisited(moved: Moved) -> _Seen:
    """The states of the rollouts themselves."""
    made, steps = moved.made, moved.picked.tolist()
    place = torch.arange(len(made), device=made.made.device).repeat(len(steps))
    x_t = torch.cat([made.states[:, step] for step in steps])
    t = torch.cat([_level(made, step) for step in steps])
    return _Seen(x_t, t, made.context[place], moved.asked[place], made.given[place])


def _renoised(executor: Denoiser, moved: Moved) -> _Renoised:
    made, draws = moved.made, len(moved.picked)
    clean = made.made.repeat(draws, 1, 1, 1, 1)
    noise = torch.cat([moved.noise(draw) for draw in range(draws)]).to(clean)
    t = torch.cat([_level(made, step) for step in moved.picked.tolist()])
    place = torch.arange(len(made), device=clean.device).repeat(draws)
    x_t = executor.path.add_noise(clean, noise, t)
    return _Renoised(x_t, t, made.context[place], moved.asked[place], made.given[place], clean, noise)


def _level(made: Rollouts, step: int) -> Levels:
    return made.times[step].expand(len(made), -1)
