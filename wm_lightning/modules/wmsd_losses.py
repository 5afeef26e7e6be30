"""The losses of one WMSD iteration over micro-batches of rollouts: policy gradient and anchor, levels in the batch."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wm_lightning.clip import Condition, Latents
from wm_lightning.modules.wmsd_draws import Picked
from wm_lightning.modules.wmsd_rollouts import Rollouts, States, Steps, renoised
from wm_lightning.modules.wmsd_scores import Scores
from wm_lightning.modules.wmsd_surrogates import Moved, Others, Surrogate
from wm_lightning.networks.denoiser import Denoiser
from wm_lightning.networks.masks import FrameMask
from wm_lightning.noising import per_pixel
from wm_lightning.objectives.denoising import Scalar
from wm_lightning.objectives.dmd import dmd_loss
from wm_lightning.objectives.self_distillation import distillation_loss
from wm_lightning.sampling.samplers import Sampler


@runtime_checkable
class Noises(Protocol):
    """Noise like the generated frames, for one draw of some rollouts."""

    def __call__(self, rows: slice, draw: int) -> Latents:
        """Standard normal, `b f c h w`."""
        ...


@dataclass(frozen=True)
class Renoised:
    """The demonstrator, `told` the solution, of an anchor at finished videos under fresh noise: it is asked there."""

    demonstrator: Denoiser
    told: Condition


@dataclass(frozen=True)
class Lesson:
    """All that one update is learned from: rollouts of `made`, what the executor was told (`asked`), the demonstrator's
    velocities at all states (`taught`), and how good every rollout was, or each of its steps (`advantage`); None where
    an algorithm lacks it.

    `anchor` is what the regression on the demonstrator weighs, at the states of `made` or where it is `renoised`,
    `scores` those whom distribution matching follows. `logged` fills as losses are formed.
    """

    made: Rollouts
    asked: Condition
    taught: Steps | None
    advantage: Float[Tensor, "b *k"] | None
    anchor: float
    mask: FrameMask
    noises: Noises
    sampler: Sampler
    others: Others
    scores: Scores | None = None
    renoised: Renoised | None = None
    logged: dict[str, Tensor] = field(default_factory=dict)

    def losses(
        self, executor: Denoiser, surrogate: Surrogate | None, picked: Picked, micro_batch: int
    ) -> list[Callable[[], Scalar]]:
        """One loss per micro-batch of rollouts, formed when it is called; their sum is the loss of the batch."""
        starts = range(0, len(self.made), micro_batch)
        return [partial(self._loss, executor, surrogate, picked, slice(start, start + micro_batch)) for start in starts]

    def _loss(self, executor: Denoiser, surrogate: Surrogate | None, picked: Picked, rows: slice) -> Scalar:
        share = len(self.made[rows]) / len(self.made)
        loss = torch.zeros((), device=self.made.made.device)
        if self.advantage is not None and surrogate is not None:
            loss = loss + share * self._policy(executor, surrogate, picked.policy, rows)
        if self.anchor > 0 and not (self.taught is None and self.renoised is None):
            gap = self._gap(executor, picked.anchor, rows)
            self._log("gap", share * gap)
            loss = loss + share * self.anchor * gap
        if self.scores is not None:
            loss = loss + share * self._matching(executor, self.scores, picked.anchor, rows)
        return loss

    def _policy(self, executor: Denoiser, surrogate: Surrogate, picked: Int[Tensor, "draws"], rows: slice) -> Scalar:
        """The policy's loss over this micro-batch; a rollout that was as good as the others costs no pass."""
        assert self.advantage is not None
        made, every = self.made[rows], self.advantage if self.advantage.ndim == 1 else self.advantage[:, picked]
        able, advantage = every.reshape(len(every), -1).any(1), every[rows]
        moved = able[rows].nonzero()[:, 0]
        if not len(moved):
            return self._nothing(executor)
        found = surrogate.loss(executor, self.sampler, Moved(
            made[moved], self.asked[rows][moved], advantage[moved], picked,
            lambda draw: self.noises(rows, draw)[moved.cpu()], self.mask, self.others,
        ))  # fmt: skip
        # Of the rollouts that were moved at all; a share of 0 has no ratio.
        share = len(moved) / max(1, int(able.sum()))
        self._log("ratio", found.ratio * share)
        self._log("ratio_clipped", found.clipped * share)
        return found.loss * len(moved) / len(made)

    def _nothing(self, executor: Denoiser) -> Scalar:
        """Zero with a gradient of zeros, for every micro-batch goes backwards on all ranks alike."""
        return torch.stack([parameter.sum() * 0 for parameter in executor.network.parameters()]).sum()

    def _gap(self, executor: Denoiser, picked: Int[Tensor, "draws"], rows: slice) -> Scalar:
        """Executor against demonstrator at the picked levels, all of them in one pass."""
        at, target = self._rolled(picked, rows) if self.renoised is None else self._noised(self.renoised, picked, rows)
        said = at.velocities(executor, self.mask)
        return distillation_loss(said, target, torch.zeros_like(at.t, dtype=torch.bool))

    def _rolled(self, picked: Int[Tensor, "draws"], rows: slice) -> tuple[States, Latents]:
        """States of the rollouts, and what was said there already."""
        assert self.taught is not None
        return self._at(picked, rows), torch.cat([self.taught[rows][:, step] for step in picked.tolist()])

    @torch.no_grad()
    def _noised(self, by: Renoised, picked: Int[Tensor, "draws"], rows: slice) -> tuple[States, Latents]:
        """Finished videos noised to the picked levels, and what the demonstrator says there when asked."""
        made, noise, path = self.made[rows], partial(self.noises, rows), by.demonstrator.path
        at, *_ = renoised(made, self.asked[rows], picked.tolist(), noise, path)
        return at, replace(at, told=by.told[rows][at.place]).velocities(by.demonstrator, self.mask)

    def _matching(self, executor: Denoiser, scores: Scores, picked: Int[Tensor, "draws"], rows: slice) -> Scalar:
        """What the executor takes for the clean frames at the picked states, moved as the two scores say.

        So no gradient goes through more than one of its passes, as in DMD2 (2405.14867).
        """
        at = self._at(picked, rows)
        x = at.x_t - per_pixel(at.t) * at.velocities(executor, self.mask)
        noise = torch.cat([self.noises(rows, draw) for draw in range(len(picked))]).to(x)
        t = self._at(scores.levels, rows).t
        told = scores.told[rows][at.place]
        real, fake = scores.x0(at.context, x, noise, t, at.told, told, self.mask)
        self._log("score_gap", (real - fake).abs().mean() * len(self.made[rows]) / len(self.made))
        return dmd_loss(x, real, fake, torch.ones_like(at.t, dtype=torch.bool))

    def _at(self, picked: Int[Tensor, "draws"], rows: slice) -> States:
        return States.at(self.made[rows], self.asked[rows], picked.tolist())

    def _log(self, name: str, value: Tensor) -> None:
        self.logged[name] = self.logged.get(name, torch.zeros_like(value.detach())) + value.detach()
