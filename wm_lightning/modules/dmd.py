"""Few-step distillation: a student that rolls out its own video, matched to the teacher by two scores (DMD).

The critic is what DMD calls the fake score: it learns the score of what the student makes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from wm_lightning.checkpoints import NetworkFile, load_into
from wm_lightning.clip import Clip, Levels
from wm_lightning.modules.average import Average
from wm_lightning.modules.base import WorldModelModule
from wm_lightning.modules.frozen import Frozen
from wm_lightning.modules.initialisation import Initialisation, Lesson, Players, draw_places
from wm_lightning.modules.optimizers import Schedule
from wm_lightning.modules.replay import Replay, Window
from wm_lightning.modules.self_forcing import Score, SelfRollout
from wm_lightning.objectives.denoising import Scalar, denoising_weight, weighted_mse
from wm_lightning.objectives.dmd import dmd_loss, sid_loss
from wm_lightning.randomness import generator
from wm_lightning.sampling.guidance import Guided
from wm_lightning.sampling.rollout import rollout
from wm_lightning.sampling.samplers import described


class DMDModule(WorldModelModule):
    """Student, frozen teacher and critic, all of one architecture, in alternating updates."""

    def __init__(
        self,
        *,
        network: Callable[[], nn.Module],
        teacher: NetworkFile,
        score: Score,
        rollout: SelfRollout,
        init: Initialisation,
        variant: Literal["dmd", "sid"],
        sid_alpha: float,
        regression: Initialisation | None,
        regression_weight: float,
        ratio: int,
        critic_warmup: int,
        fresh_every: int,
        replay_slots: int,
        student_optimizer: Callable[[nn.Module], list[Optimizer]],
        critic_optimizer: Callable[[nn.Module], list[Optimizer]],
        schedule: Schedule,
        ema_decay: float,
        ema_start: int,
        batch_size: int,
        frames: int,
        compile: bool,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.student, self.critic, frozen = network(), network(), network()
        for copy in (self.student, self.critic, frozen):
            load_into(copy, teacher, "the teacher's checkpoint")
        self.teacher = Frozen(frozen)
        self.teacher_hash, self.teacher_card = teacher.sha256, teacher.card
        self.average = Average(self.student, decay=ema_decay, start=ema_start)
        if compile:
            self.student.compile()
            self.critic.compile()
        self.score, self.self_rollout, self.init = score, rollout, init
        self.variant, self.sid_alpha = variant, sid_alpha
        self.regression, self.regression_weight = regression, regression_weight
        self.ratio, self.critic_warmup, self.fresh_every = ratio, critic_warmup, fresh_every
        self.make_student_optimizer, self.make_critic_optimizer = student_optimizer, critic_optimizer
        self.schedule, self.frames = schedule, frames
        self.replay = Replay(replay_slots)
        self.register_buffer("student_updates", torch.zeros((), dtype=torch.long))
        self.register_buffer("critic_updates", torch.zeros((), dtype=torch.long))
        self._check()

    student_updates: Tensor
    critic_updates: Tensor

    def _check(self) -> None:
        card, plan = self.teacher_card, self.plan
        self.self_rollout.check(self.context, self.score.context, plan.chunk, self.frames)
        card.require_mask(self.score.mask.chunk, "module.score.mask")
        card.require_one_level(self.score.mask.chunk, "module.score")
        # Every initialisation, that without iterations too, takes the teacher under the student's mask.
        card.require_mask(plan.mask.chunk, "rollout.mask")
        for use, frames in self.spans().items():
            card.require_frames(frames, use)
        card.require_context(self.score.context, "module.score.context")
        if self.score.guidance != 1:
            card.require_null("all", "guidance of the teacher's score")

    def spans(self) -> dict[str, int]:
        """How many frames teacher and student see at once, by the key that says so."""
        lessons = self.init.iterations > 0 or self.regression is not None
        return self.self_rollout.spans(self.score.context, self.plan.window, self.frames if lessons else 0)

    @property
    def deployed(self) -> nn.Module:
        return self.average.network

    def trained_for(self) -> dict[str, Any]:
        commit = self.plan.commit
        return {
            "chunks": [self.plan.mask.chunk], "frames": self.spans()["rollout.window"], "context": self.context,
            "clean_history": 1.0, "history_level": 0.0, "shared": 1.0,
            "steps": len(self.student_times()) - 1, "sampler": described(self.sampler),
            "commit": [{"mode": commit.mode, "t": commit.t}],
            "action_dropout": {"share": 0.0, "granularity": "frame"}, "teacher": self.teacher_hash,
        }  # fmt: skip

    def student_times(self) -> Float[Tensor, "k"]:
        """The student's step times, the last of them 0."""
        return self.sampler.levels(self.path, 1)[:, 0]

    def configure_optimizers(self) -> list[Optimizer]:
        student, critic = self.make_student_optimizer(self.student), self.make_critic_optimizer(self.critic)
        self.optimizer_counts = (len(student), len(critic))
        return student + critic

    def training_step(self, clip: Clip, batch_idx: int) -> None:
        """One iteration: the student every `ratio`-th time, the critic every time, after the initialisation."""
        student, critic = self.split_optimizers()
        self.schedule.apply(student + critic, self.iterations, self.total_iterations)
        iteration = self.iterations - self.init.iterations
        if iteration < 0:
            loss = self.update(student, self.student, [lambda: self.lesson_loss(self.init, clip)])
            self.average.update(self.student)
            self.log("train/init", loss, prog_bar=True)
        else:
            if iteration >= self.critic_warmup and (iteration - self.critic_warmup) % self.ratio == 0:
                self.update_student(student, clip)
            self.update_critic(critic, clip, iteration)
        self.iteration += 1

    def update_student(self, optimizers: list[Optimizer], clip: Clip) -> None:
        """One self-forcing rollout with gradient, scored by teacher and critic."""
        with self.critic_frozen():
            loss = self.update(optimizers, self.student, [lambda: self.student_loss(clip)])
        self.average.update(self.student)
        self.student_updates += 1
        self.log("train/student", loss, prog_bar=True)

    @contextmanager
    def critic_frozen(self) -> Iterator[None]:
        """While the student learns: through the backward pass too, which may run the critic again (checkpointing)."""
        self.critic.requires_grad_(False)
        yield
        self.critic.requires_grad_(True)

    def update_critic(self, optimizers: list[Optimizer], clip: Clip, iteration: int) -> None:
        """The critic learns to denoise what the student makes, from a fresh rollout or from the replay."""
        if iteration % self.fresh_every == 0 or not self.replay.windows:
            window = self.generate(clip, "critic rollout", learn=False)
            self.replay.push(window)
        else:
            window = self.replay.pick(generator(self.seed, "replay", self.iterations)).to(self.device)
        loss = self.update(optimizers, self.critic, [lambda: self.critic_loss(window)])
        self.critic_updates += 1
        self.log("train/critic", loss, prog_bar=True)

    def generate(self, clip: Clip, purpose: str, *, learn: bool) -> Window:
        """The student's own rollout from the clip's context, cut to the scored window and its clean context."""
        source = generator(self.seed, f"{purpose}/plan", self.iterations)
        lengths = self.self_rollout.lengths
        length = lengths[int(source.integers(len(lengths)))]
        chunks = (length - self.context) // self.plan.chunk
        exits = self.self_rollout.draw_exits(source, chunks, len(self.student_times()) - 1)
        grad_frames = self.self_rollout.grad_frames
        with torch.set_grad_enabled(learn):
            x = rollout(
                self.denoiser(self.student), self.sampler, clip.frames(0, self.context).x0,
                clip.condition.frames(0, length), self.plan, self.rollout_noise(purpose, clip.index),
                exits=exits, grad_from=0 if grad_frames is None else length - grad_frames,
            )  # fmt: skip
        start = length - self.self_rollout.scored - self.score.context
        return Window(x[:, start:], clip.condition.frames(start, length), clip.index)

    def scored_levels(self, window: Window, purpose: str) -> Levels:
        """One level per sample on the scored frames, 0 on the clean context."""
        level = self.per_sample(purpose, window.index, lambda source: self.score.level(self.path, source))
        t = level.expand(window.x.shape[:2]).clone()
        t[:, : self.score.context] = 0.0
        return t

    def student_loss(self, clip: Clip) -> Scalar:
        """DMD (or SiD) on the student's own window, plus the optional regression."""
        window = self.generate(clip, "student rollout", learn=True)
        context = self.score.context
        x = torch.cat([window.x[:, :context].detach(), window.x[:, context:]], dim=1)
        t = self.scored_levels(window, "student level")
        noise = self.noise_like(x, "student score", window.index)
        with torch.set_grad_enabled(self.variant == "sid"):
            x_t = self.path.add_noise(x, noise, t)
            real, _ = self.teacher_score().x0(x_t, t, window.condition, None, self.score.mask)
            fake, _ = self.denoiser(self.critic).x0(x_t, t, window.condition, None, self.score.mask)
        counted = self.self_rollout.counted(x.shape[1], context).to(x.device).expand(x.shape[:2])
        if self.variant == "dmd":
            loss = dmd_loss(x, real, fake, counted)
        else:
            loss = sid_loss(x, real, fake, counted, alpha=self.sid_alpha)
        if self.regression is not None:
            loss = loss + self.regression_weight * self.lesson_loss(self.regression, clip)
        self.log("train/score_gap", (real - fake).detach().abs().mean())
        return loss

    def teacher_score(self) -> Any:
        """The teacher as a score. It sees a window at once, so that guidance drops the actions of all its frames."""
        teacher = self.denoiser(self.teacher)
        return teacher if self.score.guidance == 1 else Guided(teacher, self.score.guidance, "all")

    def critic_loss(self, window: Window) -> Scalar:
        """Denoising loss in the network's own target, on the frames the scores look at."""
        t = self.scored_levels(window, "critic level")
        noise = self.noise_like(window.x, "critic noise", window.index)
        x_t = self.path.add_noise(window.x, noise, t)
        prediction, _ = self.denoiser(self.critic).predict(x_t, t, window.condition, None, self.score.mask)
        return weighted_mse(prediction, self.path.target(window.x, noise, t), denoising_weight(self.path, t))

    def lesson_loss(self, init: Initialisation, clip: Clip) -> Scalar:
        """The loss of an initialisation (or regression) on real clips."""
        x0 = clip.x0
        chunk = self.plan.mask.chunk or x0.shape[1]
        place = self.per_sample("lesson place", clip.index, lambda source: draw_places(source, x0.shape[1], chunk))
        lesson = Lesson(x0, clip.condition, self.noise_like(x0, "lesson noise", clip.index), place, chunk, self.context)
        players = Players(*(self.denoiser(n) for n in (self.student, self.average.network, self.teacher)))
        return init.loss(players, lesson, self.student_times())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the card, the teacher's hash and all ranks' replay."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["teacher_hash"] = self.teacher_hash
        checkpoint["replay"] = self.replay.state_dict(self.of_all_ranks)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the replay. Raises ValueError where the run continues with another teacher."""
        if checkpoint["teacher_hash"] != self.teacher_hash:
            raise ValueError(
                f"the checkpoint was distilled from teacher {checkpoint['teacher_hash'][:12]}, this run has "
                f"{self.teacher_hash[:12]}; name the same file with module.teacher.ckpt_path"
            )
        self.replay.load_state_dict(checkpoint["replay"], self.global_rank, self.trainer.world_size)
