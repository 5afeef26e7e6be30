"""A training step without values: the module's own code, its memory and products counted."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.optim import Optimizer

from wm_lightning.clip import Clip, Condition, Prompt
from wm_lightning.compute import precise
from wm_lightning.modules.base import WorldModelModule
from wm_lightning.modules.dmd import DMDModule
from wm_lightning.modules.replay import Window
from wm_lightning.modules.teacher import TeacherModule
from wm_lightning.networks.masks import FrameMask
from wm_lightning.tasks.meter import CPU, Meter, Shape, size_of, without_memory
from wm_lightning.tasks.plain_loops import plain_update

# A part of all steps, as a share, and what is done in one of them.
Share = tuple[float, Callable[[Clip], None]]


@dataclass(frozen=True)
class Batch:
    """What one rank is given in a step: clips, their frames (c, h, w) as the network sees them, columns of actions,
    and words of a prompt (0: there is none), each an id or so wide features."""

    clips: int
    frames: int
    shape: tuple[int, int, int]
    actions: int
    words: int = 0
    width: int = 0

    def clip(self) -> Clip:
        """Clips whose frames have no values."""
        latents = Shape(torch.empty(self.clips, self.frames, *self.shape, device="meta"))
        state = torch.zeros(self.clips, self.frames, dtype=torch.long)
        there = torch.ones(self.clips, self.words, dtype=torch.bool)
        features = Shape(torch.empty(self.clips, self.words, self.width, device="meta")) if self.width else there.long()
        prompt = Prompt(features, there) if self.words else None
        condition = Condition(torch.zeros(self.clips, self.frames, self.actions), state, prompt=prompt)
        video = torch.zeros(self.clips, self.frames, 3, 0, 0, dtype=torch.uint8)
        return Clip(video, condition, torch.arange(self.clips), latents=latents)


@dataclass(frozen=True)
class Rehearsal:
    """What a training step takes, in bytes and FLOPs.

    `weights`, `gradients` and `optimizer` are by network. `passing` is the most of all else at once: what is kept for
    the backward pass, a rollout's memory, what comes and goes. `most` is the fullest moment, when not everything is
    there. `flops` are those of an average step.
    """

    weights: dict[str, int]
    gradients: dict[str, int]
    optimizer: dict[str, int]
    passing: int
    most: int
    flops: float


def rehearse(module: WorldModelModule, batch: Batch, *, precision: str) -> Rehearsal:
    """What the steps of a module take that was built on the meta device; it is of no other use from then on.

    Raises TypeError for a module whose steps are not known here.
    """
    meter = Meter()
    without_memory(module)
    module._device = CPU  # which a LightningModule goes by, and which was the meta device when it was built
    optimizers: list[Optimizer] = module.configure_optimizers()  # type: ignore[assignment]
    _take_state(optimizers)
    states = {p: [v for v in s.values() if isinstance(v, Tensor)] for o in optimizers for p, s in o.state.items()}
    meter.hold([*module.parameters(), *module.buffers(), *(value for state in states.values() for value in state)])
    clip, flops = batch.clip(), 0.0
    with meter.watch(module), warnings.catch_warnings():
        # What a module logs goes nowhere without a Trainer, which it says with every call.
        warnings.filterwarnings("ignore", message="You are trying to `self.log")
        for share, step in _steps(module, optimizers, batch.clips):
            meter.flops = 0.0
            with precise(CPU, precision):
                step(clip)
            flops += share * meter.flops
    learning = {p for o in optimizers for group in o.param_groups for p in group["params"]}
    networks = {name: set(child.parameters()) for name, child in module.named_children()}
    return Rehearsal(
        weights={name: size_of([*part.parameters(), *part.buffers()]) for name, part in module.named_children()},
        gradients={name: size_of(own & learning) for name, own in networks.items()},
        optimizer={name: sum(size_of(states[p]) for p in own & states.keys()) for name, own in networks.items()},
        passing=meter.most_passing,
        most=meter.most,
        flops=flops,
    )


def _take_state(optimizers: list[Optimizer]) -> None:
    """Lets optimizers make what they keep, which they do in their first step."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def _steps(module: WorldModelModule, optimizers: list[Optimizer], clips: int) -> Iterator[Share]:
    """All kinds of steps of a module, their shares adding up to 1."""
    if isinstance(module, TeacherModule):
        return _teacher_steps(module, optimizers, clips)
    if isinstance(module, DMDModule):
        return _dmd_steps(module, optimizers)
    # What a run does not use must not be part of what its results were made by.
    from wm_lightning.tasks.rehearsal_executor import executor_steps  # noqa: PLC0415

    return executor_steps(module, optimizers)


def _teacher_steps(module: TeacherModule, optimizers: list[Optimizer], clips: int) -> Iterator[Share]:
    """One for every mask, of no more than two micro-batches: all others are like the second."""
    size = -(-clips // module.micro_batches)
    parts = -(-clips // size)
    for chunk, share in zip(module.masks.chunks, module.masks.shares, strict=True):
        if share > 0:
            step = partial(_teacher_step, module, optimizers, FrameMask(chunk), range(0, clips, size)[:2])
            yield share * parts / min(2, parts), step


def _teacher_step(
    module: TeacherModule, optimizers: list[Optimizer], mask: FrameMask, places: range, clip: Clip
) -> None:
    losses = [lambda part=clip[place : place + places.step]: module.loss(part, mask) for place in places]
    plain_update(optimizers, module.network, losses, module.clip_norm)
    module.average.update(module.network)


def _dmd_steps(module: DMDModule, optimizers: list[Optimizer]) -> Iterator[Share]:
    """The lessons of the initialisation, the critic's rollouts and updates, and the student's."""
    first = min(1.0, module.init.iterations / module.total_iterations)
    own, rest = optimizers[: module.optimizer_counts[0]], optimizers[module.optimizer_counts[0] :]

    def lesson(clip: Clip) -> None:
        losses = [lambda: module.lesson_loss(module.init, module.begun(clip))]
        plain_update(own, module.student, losses, module.clip_norm)
        module.average.update(module.student)

    if first > 0:
        yield first, lesson
    windows: list[Window] = []

    def fresh(clip: Clip) -> None:
        windows.append(module.generate(module.begun(clip), "critic rollout", learn=False))

    def critic(clip: Clip) -> None:
        plain_update(rest, module.critic, [lambda: module.critic_loss(windows[0])], module.clip_norm)

    def student(clip: Clip) -> None:
        plain_update(own, module.student, [lambda: module.student_loss(module.begun(clip))], module.clip_norm)
        module.average.update(module.student)

    yield (1 - first) / module.fresh_every, fresh
    yield 1 - first, critic
    # Behind the critic, whose gradients are still there.
    yield (1 - first) / module.ratio, student
