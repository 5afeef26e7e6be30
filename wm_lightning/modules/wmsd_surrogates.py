"""What stands in for the likelihood of a rollout when rewards move the executor: matching, transitions, or neither."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wm_lightning.clip import Condition, Latents
from wm_lightning.modules.wmsd_rollouts import Rollouts, States, renoised
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
class Others:
    """Who may be asked beside the executor: its moving average, the base as it was, and the `old` policy that made the
    rollouts, None where that is the executor as it is."""

    average: Denoiser
    base: Denoiser | None = None
    old: Denoiser | None = None


@dataclass(frozen=True)
class Moved:
    """Rollouts that an advantage moves: what the executor was told of them, and the sampler's steps to learn at.

    The advantage is theirs, or one for each of the `picked` steps. `noise` gives that of one draw.
    """

    made: Rollouts
    asked: Condition
    advantage: Float[Tensor, "b *draws"]
    picked: Int[Tensor, "draws"]
    noise: Callable[[int], Latents]
    mask: FrameMask
    others: Others

    @property
    def steps(self) -> list[int]:
        """The picked steps' numbers."""
        return self.picked.tolist()

    @property
    def given(self) -> Given:
        """No generated frame was given, at any of the steps."""
        return self.made.given.repeat(len(self.picked), 1)

    def old(self, at: States, said: Latents) -> Latents:
        """The velocities of the policy that made the rollouts: what the executor `said` where it is the same."""
        return said.detach() if self.others.old is None else self.asked_of(self.others.old, at)

    @torch.no_grad()
    def asked_of(self, other: Denoiser, at: States) -> Latents:
        """What somebody else says of the same states."""
        return at.velocities(other, self.mask)


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
        """The loss of one update; of the first after the executor's own rollouts every ratio is 1."""
        ...


@dataclass(frozen=True, kw_only=True)
class Held:
    """What holds a policy that noises videos anew: `trust` weighs its `kl` to the executor's moving average, `hold`
    that to the base as it was (the squared distance of velocities, or that weighed by level as the likelihood's bound
    does, "elbo").

    It learns at all steps but the `skip` noisiest, of which 1 leaves pure noise out.
    """

    draws: int
    trust: float = 0.0
    hold: float = 0.0
    kl: VelocityKL = "velocity"
    skip: int = 0

    def eligible(self, sampler: Sampler) -> Sequence[int]:
        """A network that was trained for few steps knows their levels alone."""
        return range(self.skip, sampler.steps.steps)


@dataclass(frozen=True, kw_only=True)
class AWM(Held):
    """Advantage-weighted matching (2509.25050) at the sampler's own levels.

    `weighting` and `p` turn a matching loss into a log-probability, `aggregation` and `clip` that into a loss.
    """

    weighting: Weighting
    p: float
    aggregation: Aggregation
    clip: float

    def loss(self, executor: Denoiser, sampler: Sampler, moved: Moved) -> PolicyLoss:
        """Videos are noised anew, and what the executor says of them is held against that noise."""
        at, clean, noise = renoised(moved.made, moved.asked, moved.steps, moved.noise, executor.path)
        said = at.velocities(executor, moved.mask)

        def log_prob(velocity: Latents) -> Float[Tensor, "rows draws"]:
            matching = sample_error(velocity, noise - clean, moved.given)
            found = matching_log_prob(matching, at.t[:, 0], weighting=self.weighting, p=self.p)
            return found.unflatten(0, (len(moved.picked), len(moved.made))).T

        new, old = log_prob(said), log_prob(moved.old(at, said))
        found = policy_loss(new, old, moved.advantage, clip=self.clip, aggregation=self.aggregation)
        return _held(found, self, moved, lambda other: _velocity_kl(said, other, at, moved, self.kl))


@dataclass(frozen=True, kw_only=True)
class NFT(Held):
    """DiffusionNFT (2509.16117): good videos pull the executor's velocities away from the old policy's, bad ones push.

    `beta` is how far its two hypothetical policies lie apart, `clip` the advantage that counts as wholly good.
    """

    beta: float
    clip: float

    def loss(self, executor: Denoiser, sampler: Sampler, moved: Moved) -> PolicyLoss:
        """Its ratio is 1 by definition: there is no likelihood."""
        at, clean, _ = renoised(moved.made, moved.asked, moved.steps, moved.noise, executor.path)
        said = at.velocities(executor, moved.mask)
        rows, draws = len(moved.made), len(moved.picked)
        advantage = moved.advantage.reshape(rows, -1).expand(-1, draws).T.flatten()  # draws one after the other
        old = moved.old(at, said)
        loss = nft_loss(said, old, at.x_t, at.t, clean, advantage, moved.given, beta=self.beta, clip=self.clip)
        found = PolicyLoss(loss, torch.ones_like(loss.detach()), torch.zeros_like(loss.detach()))
        return _held(found, self, moved, lambda other: _velocity_kl(said, other, at, moved, self.kl))


@dataclass(frozen=True)
class GRPO:
    """Flow-GRPO (2505.05470): the density of the sampler's own random steps, so it needs a sampler that has some.

    `trust` weighs the `kl` to the executor's moving average, `hold` that to the base: of the steps' own Gaussians
    ("transition"), or of velocities, as with `AWM`.
    """

    draws: int
    clip: float
    aggregation: Aggregation
    trust: float = 0.0
    hold: float = 0.0
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
        made, steps = moved.made, moved.steps
        at = States.at(made, moved.asked, steps)
        after = torch.cat([made.after(step) for step in steps])
        t_next = torch.cat([made.times[step + 1].expand(len(made), -1) for step in steps])

        def taken(said: Latents) -> Step:
            x0 = at.x_t - per_pixel(at.t) * said
            return sampler.step(executor.path, at.x_t, x0, at.t, t_next, torch.zeros_like(at.x_t))

        def log_prob(step: Step) -> Float[Tensor, "rows draws"]:
            return sampler.log_prob(after, step.mean, step.std).unflatten(0, (len(steps), len(made))).T

        said = at.velocities(executor, moved.mask)
        new = taken(said)
        # Those of the rollout: a ratio that is not 1 shows that training sees other passes than rollouts did.
        old = log_prob(taken(torch.cat([made.velocities[:, step] for step in steps])))
        found = policy_loss(log_prob(new), old, moved.advantage, clip=self.clip, aggregation=self.aggregation)

        def kl(other: Denoiser) -> Scalar:
            if self.kl != "transition":
                return _velocity_kl(said, other, at, moved, self.kl)
            return transition_kl(new.mean, taken(moved.asked_of(other, at)).mean, new.std)

        return _held(found, self, moved, kl)


def _held(found: PolicyLoss, by: Held | GRPO, moved: Moved, kl: Callable[[Denoiser], Scalar]) -> PolicyLoss:
    """The loss with its divergences, each of which costs a pass where it weighs something."""
    loss = found.loss
    for weight, other in ((by.trust, moved.others.average), (by.hold, moved.others.base)):
        if weight > 0:
            assert other is not None, "refused where there is no base (check_settings)"
            loss = loss + weight * kl(other)
    return replace(found, loss=loss)


def _velocity_kl(said: Latents, other: Denoiser, at: States, moved: Moved, kl: KL) -> Scalar:
    weight = elbo_weight(at.t, eta=NOISE) if kl == "elbo" else None
    return velocity_kl(said, moved.asked_of(other, at), moved.given, weight)
