"""Few-step distillation: a student that rolls out its own video, matched to the teacher by two scores (DMD).

The critic is what DMD calls the fake score: it learns the score of what the student makes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from wm_lightning.checkpoints import NetworkFile, load_into
from wm_lightning.clip import Clip
from wm_lightning.modules.optimizers import Schedule
from wm_lightning.modules.replay import Replay, Window
from wm_lightning.modules.self_forced import SelfForcedModule
from wm_lightning.objectives.denoising import Scalar, denoising_weight, weighted_mse
from wm_lightning.objectives.dmd import dmd_loss, sid_loss
from wm_lightning.randomness import generator


class DMDModule(SelfForcedModule):
    """Student, frozen teacher and critic, all of one architecture, in alternating updates."""

    def __init__(
        self,
        *,
        network: Callable[[], nn.Module],
        teacher: NetworkFile,
        compile: bool,
        variant: Literal["dmd", "sid"],
        sid_alpha: float,
        regression_weight: float,
        ratio: int,
        critic_warmup: int,
        fresh_every: int,
        replay_slots: int,
        student_optimizer: Callable[[nn.Module], list[Optimizer]],
        critic_optimizer: Callable[[nn.Module], list[Optimizer]],
        schedule: Schedule,
        batch_size: int,
        **shared: Any,
    ) -> None:
        super().__init__(network=network, teacher=teacher, compile=compile, **shared)
        self.critic = network()
        load_into(self.critic, teacher, "the teacher's checkpoint")
        if compile:
            self.critic.compile()
        self.variant, self.sid_alpha, self.regression_weight = variant, sid_alpha, regression_weight
        self.ratio, self.critic_warmup, self.fresh_every = ratio, critic_warmup, fresh_every
        self.make_student_optimizer, self.make_critic_optimizer = student_optimizer, critic_optimizer
        self.schedule, self.replay = schedule, Replay(replay_slots)
        self.register_buffer("student_updates", torch.zeros((), dtype=torch.long))
        self.register_buffer("critic_updates", torch.zeros((), dtype=torch.long))

    student_updates: Tensor
    critic_updates: Tensor

    def configure_optimizers(self) -> list[Optimizer]:
        student, critic = self.make_student_optimizer(self.student), self.make_critic_optimizer(self.critic)
        self.optimizer_counts = (len(student), len(critic))
        return student + critic

    def training_step(self, clip: Clip, batch_idx: int) -> None:
        """One iteration: the student every `ratio`-th time, the critic every time, after the initialisation."""
        student, critic = self.split_optimizers()
        clip = self.begun(clip)
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

    def critic_loss(self, window: Window) -> Scalar:
        """Denoising loss in the network's own target, on the frames the scores look at."""
        t = self.scored_levels(window, "critic level")
        noise = self.noise_like(window.x, "critic noise", window.index)
        x_t = self.path.add_noise(window.x, noise, t)
        prediction, _ = self.denoiser(self.critic).predict(x_t, t, window.condition, None, self.score.mask)
        return weighted_mse(prediction, self.path.target(window.x, noise, t), denoising_weight(self.path, t))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds all ranks' replay."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["replay"] = self.replay.state_dict(self.of_all_ranks)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the replay."""
        super().on_load_checkpoint(checkpoint)
        self.replay.load_state_dict(checkpoint["replay"], self.global_rank, self.trainer.world_size)
