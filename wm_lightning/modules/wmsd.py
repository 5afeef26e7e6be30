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
from wm_lightning.clip import Clip, Condition, Latents
from wm_lightning.modules.base import WorldModelModule
from wm_lightning.modules.optimizers import Schedule
from wm_lightning.modules.wmsd_advantages import judged
from wm_lightning.modules.wmsd_algorithm import Algorithm
from wm_lightning.modules.wmsd_checks import check_settings
from wm_lightning.modules.wmsd_losses import Lesson, Picked, stratified
from wm_lightning.modules.wmsd_roles import RoleAverage, Roles
from wm_lightning.modules.wmsd_rollouts import Rollouts, Steps, noised, repeated, rolled, said_by
from wm_lightning.modules.wmsd_scores import Scores
from wm_lightning.modules.wmsd_surrogates import Surrogate
from wm_lightning.networks.lora import LoRA
from wm_lightning.objectives.advantages import Advantages
from wm_lightning.randomness import generator, normal
from wm_lightning.rewards.bus import Pending, RewardBus
from wm_lightning.sampling.rollout import SeededNoise, rollout
from wm_lightning.sampling.sde import drawless


class WMSDModule(WorldModelModule):
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
        judges: Callable[[Any], RewardBus],
        advantage: Callable[..., Advantages] | None,
        copies: int,
        frames: int,
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
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if copies < 2 and algorithm.rl:
            raise ValueError(f"module.copies={copies}: a rollout is held against the others of its task, so 2 or more")
        if start is None:
            raise ValueError("module.start=null: executor and demonstrator begin as one base; name its file")
        rewarded, critic = algorithm.demonstrator == "rewarded", algorithm.critic > 0
        roles = Roles.of(network, start, lora, rewarded=rewarded, critic=critic, held=algorithm.hold > 0, new=start_new)
        self.network, self.demonstrator, self.base, self.critic, self.reference = (
            roles.executor, roles.demonstrator, roles.base, roles.critic, roles.reference,
        )  # fmt: skip
        self.average = RoleAverage(roles.average, decay=ema_decay, start=ema_start, every=ema_every, power=ema_power)
        self.lora, self.start = lora, start.sha256
        self.algorithm, self.surrogate, self.anchor_draws = algorithm, surrogate, anchor_draws
        check_settings(algorithm, surrogate, advantage, self.sampler, self.plan, self.path)
        self.make_judges, self.advantage = judges, advantage
        self.copies, self.frames = copies, frames
        self.micro_batch, self.sweep_batch = micro_batch, sweep_batch
        self.make_optimizer, self.schedule = optimizer, schedule
        self.tasks_a_batch = batch_size
        self.judges: RewardBus | None = None

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
        if (base := checkpoint["card"]["trained_for"].get("start")) != self.start:
            raise ValueError(
                f"the checkpoint's executor began as the base {base[:12]}, this run's is {self.start[:12]}, and its "
                f"demonstrator would be another; name that base's file by module.start"
            )

    def setup(self, stage: str) -> None:
        """Judges may need the data: the world's own look up what a task asks for."""
        self.judges = self.make_judges(self.trainer.datamodule)  # type: ignore[attr-defined]

    def teardown(self, stage: str) -> None:
        """Ends the judges' threads."""
        if self.judges is not None:
            self.judges.close()

    def configure_optimizers(self) -> list[Optimizer]:
        learning = [self.network] + [self.demonstrator] * (self.algorithm.demonstrator == "rewarded")
        learning += [] if self.critic is None else [self.critic]
        groups = [self.make_optimizer(network) for network in learning]
        self.optimizer_counts = tuple(map(len, groups))
        return [optimizer for group in groups for optimizer in group]

    def training_step(self, clip: Clip, batch_idx: int) -> None:
        """One iteration of the algorithm."""
        turn, own = self.algorithm.turn(self.iterations), self.split_optimizers()
        asked, told = self.conditions(clip, self.copies)
        by_demonstrator = turn == "demonstrator" or self.algorithm.states == "demonstrator"
        made = self.rollouts(
            clip, told if by_demonstrator else asked, self.teaching if by_demonstrator else self.network
        )
        pending = self.submitted(made, clip)
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
            self.learn(self.lesson(clip, made, asked, taught, advantage, told), own[0], self.network, "")
            self.average.update(self.network)
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

    def validation_step(self, clip: Clip, batch_idx: int) -> None:
        """How many of the tasks the deployed network does, by its judges."""
        asked, _ = self.conditions(clip, 1)
        given = clip.x0[:, : self.context]
        noise = SeededNoise(self.seed, "validation", tuple(clip.index.tolist()), self.device)
        made = rollout(self.denoiser(self.deployed), drawless(self.sampler), given, asked, self.plan, noise)
        assert self.judges is not None and clip.texts is not None
        self._pending.append(self.judges.submit(self.trainer.datamodule.decode(made), clip.texts))  # type: ignore[attr-defined]

    def on_validation_epoch_start(self) -> None:
        """Fresh judgements."""
        self._pending: list[Pending] = []

    def on_validation_epoch_end(self) -> None:
        """Logs the share of yes among valid judgements over all ranks, and minus their weighted mean as the score."""
        assert self.judges is not None
        scores = self.judges.collect(self._pending, self.over_ranks)
        met = torch.where(scores.valid, (scores.value > 0).float(), torch.nan)
        weights = scores.weights / scores.weights.sum().clamp_min(1e-9)
        score = torch.zeros(())
        for place, name in enumerate(scores.names):
            total, count = self._over_ranks(met[:, place])
            share = total / count  # NaN where every judgement failed, which is no 0
            score = score - (weights[place] * share if count or weights[place] else 0.0)
            self.log(f"val/{name}_met", share.to(self.device))
        self.log("val/score", score.nan_to_num(torch.inf).to(self.device), prog_bar=True)
        self.log("iteration", float(self.iterations))

    def conditions(self, clip: Clip, copies: int) -> tuple[Condition, Condition]:
        """What executor and demonstrator are told, every task `copies` times."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        asked, told = data.asked(clip, self.frames), data.solved(clip, self.frames)
        return repeated(asked.to(self.device), copies), repeated(told.to(self.device), copies)

    def lesson(
        self, clip: Clip, made: Rollouts, asked: Condition, taught: Steps | None,
        advantage: Float[Tensor, "b *k"] | None, told: Condition | None = None,
    ) -> Lesson:  # fmt: skip
        """What this iteration learns from; scores are among it where there is a critic and somebody is `told`."""
        scores = None
        if self.critic is not None and told is not None:
            steps, source = made.states.shape[1], generator(self.seed, "wmsd score", self.iterations)
            levels = torch.from_numpy(source.integers(steps, size=self.anchor_draws))
            scores = Scores(self.denoiser(self.teaching), self.denoiser(self.critic), told, levels)
        noises = partial(self.matching_noise, clip, made)
        average = self.denoiser(self.average.network)
        return Lesson(
            made, asked, taught, advantage, self.algorithm.anchor, self.plan.mask, noises, self.sampler, average, scores
        )

    def critic_lessons(self, clip: Clip, made: Rollouts, asked: Condition) -> Iterator[Lesson]:
        """The executor's videos under fresh noise, for every update of the critic: it learns to make them."""
        for number in range(self.algorithm.critic):
            noise = self.copies_noise(clip, f"wmsd critic {number}")
            seen = noised(made.context, made.made, self.sampler, self.path, noise, made.task)
            yield replace(self.lesson(clip, seen, asked, seen.velocities, None), anchor=1.0)

    def copies_noise(self, clip: Clip, purpose: str) -> SeededNoise:
        """Noise of all copies, which hangs on run, iteration, task and copy alone."""
        samples = tuple(index * self.copies + copy for index in clip.index.tolist() for copy in range(self.copies))
        return SeededNoise(self.seed, f"{purpose}/{self.iterations}", samples, self.device)

    def rollouts(self, clip: Clip, condition: Condition, role: nn.Module) -> Rollouts:
        """Rollouts of all copies by a role, or the films; noise hangs on run, iteration, task and copy alone."""
        task = torch.arange(len(clip), device=self.device).repeat_interleave(self.copies)
        noise, x0 = self.copies_noise(clip, "wmsd"), clip.x0[task]
        given = x0[:, : self.context]
        if self.algorithm.of_films:
            return noised(given, x0[:, self.context :], self.sampler, self.path, noise, task)
        role.eval()
        made = rolled(self.denoiser(role), self.sampler, given, condition, self.plan, noise, task)
        role.train()
        return made

    def taught(self, made: Rollouts, told: Condition) -> Steps:
        """The demonstrator's velocities at all states, in one sweep that rewards and anchor share.

        Its own rollouts have them already, and films have those of the straight lines to them.
        """
        if self.algorithm.states != "executor":
            return made.velocities
        role = self.teaching
        role.eval()
        taught = said_by(self.denoiser(role), made, told, self.plan.mask, self.sweep_batch)
        role.train()
        return taught

    def held(self, made: Rollouts, told: Condition) -> Steps | None:
        """What the base says at the states of a demonstrator that rewards move; None where nothing holds it."""
        if self.reference is None:
            return None
        return said_by(self.denoiser(self.reference), made, told, self.plan.mask, self.sweep_batch)

    @property
    def teaching(self) -> nn.Module:
        """The network that is told the solutions."""
        return {"ema": self.average.network, "shared": self.network}.get(self.algorithm.demonstrator, self.demonstrator)

    def picked(self, made: Rollouts, *number: int) -> Picked:
        """The steps this iteration, or one of its numbered updates, learns at."""
        every, place = range(made.states.shape[1]), (self.iterations, *number)
        surrogate = self.surrogate if self.algorithm.rl else None
        able, draws = (every, 1) if surrogate is None else (surrogate.eligible(self.sampler), surrogate.draws)
        return Picked(
            policy=torch.tensor(able)[stratified(len(able), draws, self.seed, "wmsd policy", *place)],
            anchor=stratified(len(every), self.anchor_draws, self.seed, "wmsd anchor", *place),
        )

    def matching_noise(self, clip: Clip, made: Rollouts, rows: slice, draw: int) -> Latents:
        """The noise that AWM puts on the videos of some rollouts: it hangs on run, iteration, task, copy and draw."""
        shape, start = made.made.shape[1:], rows.start
        parts = []
        for row in range(start, min(rows.stop, len(made))):
            place = (self.iterations, int(clip.index[made.task[row]]), row % self.copies, draw)
            parts.append(normal(shape, self.seed, "wmsd matching", *place))
        return torch.stack(parts)

    def submitted(self, made: Rollouts, clip: Clip) -> Pending | None:
        """Videos handed to the judges, who work while the demonstrator is asked; None where nobody judges."""
        if not (self.algorithm.rl and self.algorithm.judged):
            return None
        assert self.judges is not None and clip.texts is not None
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        return self.judges.submit(data.decode(made.video), clip.texts[made.task.cpu()])

    def over_ranks(self, counts: Tensor) -> Tensor:
        """The sum over all ranks, which must all call it."""
        return self.of_all_ranks(counts.to(self.device)[None]).sum(0).cpu()

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
