"""World-model self-distillation with reinforcement learning (WMSD, 2606.12072): an executor that knows its task alone
learns from a demonstrator that was told how, and from what judges say of its videos."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from wm_lightning.checkpoints import NetworkFile
from wm_lightning.clip import Clip, Condition
from wm_lightning.modules.average import Average
from wm_lightning.modules.judged import JudgedModule
from wm_lightning.modules.optimizers import Schedule
from wm_lightning.modules.wmsd_advantages import judged
from wm_lightning.modules.wmsd_algorithm import Algorithm
from wm_lightning.modules.wmsd_checks import check_old, check_settings, check_start
from wm_lightning.modules.wmsd_draws import Draws, Picked
from wm_lightning.modules.wmsd_losses import Lesson, Renoised
from wm_lightning.modules.wmsd_roles import Roles, resting
from wm_lightning.modules.wmsd_rollouts import Rollouts, Steps, noised, repeated, rolled, said_by
from wm_lightning.modules.wmsd_scores import Scores
from wm_lightning.modules.wmsd_surrogates import Others, Surrogate
from wm_lightning.networks.lora import LoRA
from wm_lightning.objectives.advantages import Advantages
from wm_lightning.rewards.bus import Pending


class WMSDModule(JudgedModule):
    """One iteration: the executor rolls out every task several times, judges and the demonstrator say how good that
    was, and one update follows the advantages and the demonstrator's velocities (alg. 1 of 2606.12072)."""

    def __init__(
        self,
        *,
        network: Callable[[], nn.Module],
        start: NetworkFile | None,
        algorithm: Algorithm,
        surrogate: Surrogate | None,
        anchor_draws: int,
        advantage: Callable[..., Advantages] | None,
        copies: int,
        micro_batch: int,
        sweep_batch: int,
        optimizer: Callable[[nn.Module], list[Optimizer]],
        schedule: Schedule,
        ema_decay: float,
        ema_start: int,
        batch_size: int,
        ema_every: int = 1,
        ema_power: bool = False,
        lora: LoRA | None = None,
        start_new: Sequence[str] = (),
        updates: int = 1,
        old_decay: float | None = None,
        old_rise: float = 0.0,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        check_settings(algorithm, surrogate, advantage, copies, self.sampler, self.plan, self.path)
        check_old(algorithm, updates, old_decay, old_rise)
        self.algorithm, self.surrogate, self.advantage = algorithm, surrogate, advantage
        self.copies, self.anchor_draws, self.tasks_a_batch = copies, anchor_draws, batch_size
        self.micro_batch, self.sweep_batch = micro_batch, sweep_batch
        self.make_optimizer, self.schedule, self.lora = optimizer, schedule, lora
        self.updates, self.acts_old = updates, old_decay is not None
        roles = Roles.of(network, start, lora, algorithm, start_new, old=updates > 1 or self.acts_old)
        self.start, self.network, self.demonstrator = roles.start, roles.executor, roles.demonstrator
        self.base, self.critic, self.reference = roles.base, roles.critic, roles.reference
        ema: dict[str, Any] = dict(decay=ema_decay, start=ema_start, every=ema_every, power=ema_power)
        self.average = Average(roles.executor, kept_in=roles.average, **ema)
        old: dict[str, Any] = dict(decay=old_decay or 0.0, start=0, rise=old_rise, kept_in=roles.old)
        self.old = None if roles.old is None else Average(roles.executor, **old)

    @property
    def deployed(self) -> nn.Module:
        return self.average.network

    def trained_for(self) -> dict[str, Any]:
        return {
            "chunks": [self.plan.mask.chunk], "frames": self.frames, "context": self.context, "clean_history": 0.0,
            "history_level": 0.0, "shared": 1.0, "steps": None, "commit": [{"mode": "clean", "t": 0.0}],
            "action_dropout": {"share": 0.0, "granularity": "clip"}, "start": self.start,
        }  # fmt: skip

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the card, and what adapters there are of the base that the card names."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["lora"] = None if self.lora is None else self.lora.to_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises ValueError where the checkpoint was trained from another base than this module's."""
        check_start(checkpoint["card"]["trained_for"].get("start"), self.start)

    def configure_optimizers(self) -> list[Optimizer]:
        learning = [self.network] + [self.demonstrator] * self.algorithm.moves_demonstrator
        learning += [] if self.critic is None else [self.critic]
        groups = [self.make_optimizer(network) for network in learning]
        self.optimizer_counts = tuple(map(len, groups))
        return [optimizer for group in groups for optimizer in group]

    def training_step(self, clip: Clip, batch_idx: int) -> None:
        """One iteration of the algorithm."""
        turn, own = self.algorithm.turn(self.iterations), self.split_optimizers()
        asked, told = self.conditions(clip)
        by_demonstrator = self.algorithm.made_by(turn) == "demonstrator"
        made = self.rollouts(clip, *((told, self.teaching) if by_demonstrator else (asked, self.acting)))
        pending = self.submitted(made.video, clip, made.task) if self.algorithm.rl and self.algorithm.judged else None
        taught = self.taught(made, told) if turn != "demonstrator" and self.algorithm.taught else None
        name = "" if turn == "executor" else "demonstrator_"
        advantage = self.advantages(made, taught if turn == "executor" else None, pending, name)
        if turn != "executor":
            lesson = self.lesson(clip, made, told, self.held(made, told), advantage)
            self.learn(replace(lesson, anchor=self.algorithm.hold), own[1], self.demonstrator, name)
            advantage = None
        if self.critic is not None:
            for number, lesson in enumerate(self.critic_lessons(clip, made, asked)):
                self.learn(lesson, own[1], self.critic, "critic_", number)
        if turn != "demonstrator":
            lesson = self.lesson(clip, made, asked, taught, advantage, told)
            self.learn(lesson, own[0], self.network, "")
            for number in range(1, self.updates):
                self.learn(self.again(lesson, number), own[0], self.network, "", number)
            for follower in (self.average, self.old):
                if follower is not None:
                    follower.update(self.network)
        self.iteration += 1

    def learn(self, lesson: Lesson, optimizers: list[Optimizer], network: nn.Module, name: str, *number: int) -> None:
        """One update of a role on its lesson, logged as `train/{name}...`; several in an iteration are numbered."""
        rate = self.schedule.apply(optimizers, self.iterations, self.total_iterations)
        picked = self.picked(lesson.made, *number)
        losses = lesson.losses(self.denoiser(network), self.surrogate, picked, self.micro_batch)
        loss = self.update(optimizers, network, losses)
        self.log(f"train/{name}loss", loss, prog_bar=not name)
        self.log(f"train/{name}rate", rate)
        for what, value in lesson.logged.items():
            self.log(f"train/{name}{what}", value)

    def conditions(self, clip: Clip) -> tuple[Condition, Condition]:
        """What executor and demonstrator are told, every task `copies` times."""
        told = self.trainer.datamodule.solved(clip, self.frames).to(self.device)  # type: ignore[attr-defined]
        return repeated(self.asked(clip), self.copies), repeated(told, self.copies)

    def draws(self, clip: Clip) -> Draws:
        """This iteration's noise of the clip's tasks."""
        return Draws(self.seed, self.iterations, clip.index.tolist(), self.copies, self.device)

    def lesson(
        self, clip: Clip, made: Rollouts, asked: Condition, taught: Steps | None,
        advantage: Float[Tensor, "b *k"] | None, told: Condition | None = None,
    ) -> Lesson:  # fmt: skip
        """What this iteration learns from; where somebody is `told`, scores and a renoised anchor may be among it."""
        draws, scores, renoised = self.draws(clip), None, None
        if self.critic is not None and told is not None:
            levels = draws.scored(made.states.shape[1], self.anchor_draws)
            scores = Scores(self.denoiser(self.teaching), self.denoiser(self.critic), told, levels)
        if self.algorithm.anchor_states == "renoised" and told is not None:
            renoised = Renoised(self.denoiser(self.teaching), told)
        noises = partial(draws.matching, made.made.shape[1:])
        return Lesson(
            made, asked, taught, advantage, self.algorithm.anchor, self.plan.mask, noises, self.sampler,
            self.others(self.acts_old), scores, renoised,
        )  # fmt: skip

    def others(self, old: bool) -> Others:
        """Who may be asked beside the executor; the old policy where it is not the executor itself."""
        base = None if self.algorithm.moves_demonstrator else self.denoiser(self.demonstrator)
        asked = self.denoiser(self.old.network) if old and self.old is not None else None
        return Others(self.denoiser(self.average.network), base, asked)

    def again(self, lesson: Lesson, number: int) -> Lesson:
        """The same rollouts for one more update, after which the executor is not who made them; under fresh noise."""
        draws = 1 if self.surrogate is None else max(self.surrogate.draws, self.anchor_draws)
        noises = lambda rows, draw: lesson.noises(rows, draw + number * draws)  # noqa: E731
        return replace(lesson, noises=noises, others=self.others(True), logged={})

    def critic_lessons(self, clip: Clip, made: Rollouts, asked: Condition) -> Iterator[Lesson]:
        """The executor's videos under fresh noise, for every update of the critic: it learns to make them."""
        for number in range(self.algorithm.critic):
            noise = self.draws(clip).noise(f"wmsd critic {number}")
            seen = noised(made.context, made.made, self.sampler, self.path, noise, made.task)
            yield replace(self.lesson(clip, seen, asked, seen.velocities, None), anchor=1.0)

    def rollouts(self, clip: Clip, condition: Condition, role: nn.Module) -> Rollouts:
        """Rollouts of all copies by a role, or the films; noise hangs on run, iteration, task and copy alone."""
        task = torch.arange(len(clip), device=self.device).repeat_interleave(self.copies)
        noise, x0 = self.draws(clip).noise("wmsd"), clip.x0[task]
        given = x0[:, : self.context]
        if self.algorithm.of_films:
            return noised(given, x0[:, self.context :], self.sampler, self.path, noise, task)
        with resting(role):
            return rolled(self.denoiser(role), self.sampler, given, condition, self.plan, noise, task)

    def taught(self, made: Rollouts, told: Condition) -> Steps:
        """The demonstrator's velocities at all states, in one sweep that rewards and anchor share.

        Its own rollouts have them already, and films have those of the straight lines to them.
        """
        if self.algorithm.states != "executor":
            return made.velocities
        with resting(self.teaching) as role:
            return said_by(self.denoiser(role), made, told, self.plan.mask, self.sweep_batch)

    def held(self, made: Rollouts, told: Condition) -> Steps | None:
        """What the base says at the states of a demonstrator that rewards move; None where nothing holds it."""
        if self.reference is None:
            return None
        return said_by(self.denoiser(self.reference), made, told, self.plan.mask, self.sweep_batch)

    @property
    def acting(self) -> nn.Module:
        """The network whose rollouts the executor learns from, where it is not the demonstrator."""
        return self.old.network if self.acts_old and self.old is not None else self.network

    @property
    def teaching(self) -> nn.Module:
        """The network that is told the solutions."""
        return {"ema": self.average.network, "shared": self.network}.get(self.algorithm.demonstrator, self.demonstrator)

    def picked(self, made: Rollouts, *number: int) -> Picked:
        """The steps this iteration, or one of its numbered updates, learns at."""
        surrogate, place = self.surrogate if self.algorithm.rl else None, (self.iterations, *number)
        return Picked.of(surrogate, self.sampler, made.states.shape[1], self.anchor_draws, self.seed, *place)

    def advantages(
        self, made: Rollouts, taught: Steps | None, pending: Pending | None, name: str
    ) -> Float[Tensor, "b *k"] | None:
        """What rewards say of every rollout or step, logged as `train/{name}...`; None where they move nothing."""
        if not self.algorithm.rl:
            return None
        assert self.advantage is not None
        scores = None if pending is None or self.judges is None else self.judges.collect([pending], self.over_ranks)
        found = judged(made, scores, taught, self.algorithm, self.advantage, self.of_all_ranks, self.global_rank)
        for what, value in found.logged.items():
            self.log(f"train/{name}{what}", value)
        return found.values
