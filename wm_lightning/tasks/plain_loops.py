"""The training steps without Lightning: what one would write by hand, to hold the modules' own steps against."""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from wm_lightning.clip import Clip
from wm_lightning.modules.dmd import DMDModule
from wm_lightning.modules.teacher import TeacherModule
from wm_lightning.objectives.denoising import Scalar
from wm_lightning.randomness import generator

Step = Callable[[Clip], None]


def plain_update(
    optimizers: Sequence[Optimizer], network: nn.Module, losses: Sequence[Callable[[], Scalar]], clip_norm: float
) -> None:
    """Forward and backward pass of every micro-batch, clipping, one step of every optimizer."""
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    for loss in losses:
        loss().backward()
    if bool(torch.isfinite(clip_grad_norm_(network.parameters(), clip_norm))):
        for optimizer in optimizers:
            optimizer.step()


def teacher_step(module: TeacherModule) -> Step:
    """A step of diffusion forcing, equal to `TeacherModule.training_step` with one micro-batch."""
    optimizers = module.configure_optimizers()

    def step(clip: Clip) -> None:
        module.schedule.apply(optimizers, module.iterations, module.total_iterations)
        mask = module.masks.sample(generator(module.seed, "mask", module.iterations))
        plain_update(optimizers, module.network, [lambda: module.loss(clip, mask)], module.clip_norm)
        module.average.update(module.network)
        module.iteration += 1

    return step


def dmd_step(module: DMDModule) -> Step:
    """A step of distillation after its initialisation, equal to `DMDModule.training_step`."""
    every = module.configure_optimizers()
    student, critic = every[: module.optimizer_counts[0]], every[module.optimizer_counts[0] :]

    def step(clip: Clip) -> None:
        number, clip = module.iterations, module.begun(clip)
        module.schedule.apply(every, number, module.total_iterations)
        if number >= module.critic_warmup and (number - module.critic_warmup) % module.ratio == 0:
            with module.critic_frozen():
                plain_update(student, module.student, [lambda: module.student_loss(clip)], module.clip_norm)
            module.average.update(module.student)
        if number % module.fresh_every == 0 or not module.replay.windows:
            window = module.generate(clip, "critic rollout", learn=False)
            module.replay.push(window)
        else:
            window = module.replay.pick(generator(module.seed, "replay", number)).to(module.device)
        plain_update(critic, module.critic, [lambda: module.critic_loss(window)], module.clip_norm)
        module.iteration += 1

    return step
