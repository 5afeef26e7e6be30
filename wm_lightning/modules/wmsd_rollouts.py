"""Rollouts that something is learned from: every pass of every step is kept, and can be asked again of another role."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wm_lightning.clip import Condition, Latents, Levels
from wm_lightning.networks.denoiser import Denoiser
from wm_lightning.networks.masks import FrameMask
from wm_lightning.noising import GaussianPath, per_pixel
from wm_lightning.objectives.denoising import Given
from wm_lightning.sampling.rollout import Plan, SeededNoise, next_chunk, remember_context
from wm_lightning.sampling.samplers import Sampler

Context = Float[Tensor, "b given c h w"]
Steps = Float[Tensor, "b k f c h w"]


@dataclass(frozen=True)
class Rollouts:
    """Videos made in one chunk behind given frames, and what every step saw and said.

    `times` has one row more than there are steps. `states` and `velocities` are those of the generated frames before
    every step; `made` is where they ended. `task` numbers the tasks, of each of which there are several copies.
    """

    context: Context
    times: Float[Tensor, "k1 f"]
    states: Steps
    velocities: Steps
    made: Latents
    task: Int[Tensor, "b"]

    @property
    def given(self) -> Given:
        """No generated frame was given: for losses over those alone."""
        return torch.zeros(self.made.shape[:2], dtype=torch.bool, device=self.made.device)

    @property
    def video(self) -> Float[Tensor, "b total c h w"]:
        """The given frames, then the generated ones."""
        return torch.cat([self.context, self.made], dim=1)

    def after(self, step: int) -> Latents:
        """Where a step ended."""
        return self.states[:, step + 1] if step + 1 < self.states.shape[1] else self.made

    def __len__(self) -> int:
        return len(self.made)

    def __getitem__(self, rows: slice | Tensor) -> "Rollouts":
        context, states, velocities, made, task = (
            value[rows] for value in (self.context, self.states, self.velocities, self.made, self.task)
        )
        return Rollouts(context, self.times, states, velocities, made, task)


@torch.no_grad()
def rolled(
    model: Denoiser, sampler: Sampler, context: Context, condition: Condition, plan: Plan, noise: SeededNoise,
    task: Int[Tensor, "b"],
) -> Rollouts:  # fmt: skip
    """One chunk behind `context`, up to the length of `condition`, with all its passes.

    Raises ValueError where that is longer than the plan's chunk.
    """
    given, total = context.shape[1], condition.state.shape[1]
    if total - given > plan.chunk:
        raise ValueError(
            f"{total - given} frames are to be made in one chunk, rollout.chunk={plan.chunk}; set it to at least that"
        )
    past = remember_context(model, context, condition, plan, noise)
    shape, new = tuple(context.shape[2:]), condition.frames(given, total)
    chunk = next_chunk(model, sampler, past, new, plan, noise, shape=shape, keep=False, record=True)
    times = sampler.levels(model.path, total - given).to(context.device)
    states = torch.stack([trace.x_t for trace in chunk.record], dim=1)
    said = [velocity(trace.x_t, trace.x0, trace.t) for trace in chunk.record]
    return Rollouts(context, times, states, torch.stack(said, dim=1), chunk.frames, task)


def noised(
    context: Context, video: Latents, sampler: Sampler, path: GaussianPath, noise: SeededNoise, task: Int[Tensor, "b"]
) -> Rollouts:
    """Videos that are there behind `context`, as rollouts of somebody who knows them: straight lines of noise to them.

    Every level has noise of its own. A regression on these velocities is flow matching (2210.02747) at the levels of
    the sampler: who learns it makes such videos.
    """
    times = sampler.levels(path, video.shape[1]).to(video.device)
    shape, first = tuple(video.shape[2:]), [context.shape[1]] * len(video)
    drawn = [noise(shape, first, video.shape[1], step) for step in range(len(times) - 1)]
    levels = times[:-1, None].expand(-1, len(video), -1)
    states = [path.add_noise(video, one, t) for one, t in zip(drawn, levels, strict=True)]
    return Rollouts(context, times, torch.stack(states, 1), torch.stack(drawn, 1) - video[:, None], video, task)


@dataclass(frozen=True)
class States:
    """Noisy videos behind their given frames: the same steps of some rollouts, one step after the other.

    `place` says which of the rollouts each is of, `told` what is said of it.
    """

    place: Int[Tensor, "n"]
    context: Context
    x_t: Latents
    t: Levels
    told: Condition

    @classmethod
    def at(cls, made: Rollouts, told: Condition, steps: Sequence[int]) -> "States":
        """Those that the rollouts went through."""
        place = torch.arange(len(made), device=made.made.device).repeat(len(steps))
        x_t = torch.cat([made.states[:, step] for step in steps])
        t = torch.cat([made.times[step].expand(len(made), -1) for step in steps])
        return cls(place, made.context[place], x_t, t, told[place])

    def velocities(self, model: Denoiser, mask: FrameMask) -> Latents:
        """What a role says of them, in one pass."""
        return velocities_at(model, self.context, self.x_t, self.t, self.told, mask)


def renoised(
    made: Rollouts, told: Condition, steps: Sequence[int], noise: Callable[[int], Latents], path: GaussianPath
) -> tuple[States, Latents, Latents]:
    """Where the rollouts ended, under fresh noise of the levels of these steps; with those clean frames and that noise.

    `noise` gives that of one step, of which 0 is the first here.
    """
    at = States.at(made, told, steps)
    clean = made.made.repeat(len(steps), 1, 1, 1, 1)
    drawn = torch.cat([noise(draw) for draw in range(len(steps))]).to(clean)
    return replace(at, x_t=path.add_noise(clean, drawn, at.t)), clean, drawn


def velocity(x_t: Latents, x0: Latents, t: Levels) -> Latents:
    """noise − x0 of the flow, of a state and its clean frames; t must be above 0."""
    return (x_t.float() - x0.float()) / per_pixel(t)


def velocities_at(
    model: Denoiser, context: Context, x_t: Latents, t: Levels, condition: Condition, mask: FrameMask
) -> Latents:
    """What a role says of noisy frames behind given ones: their velocity, from one pass over the whole clip."""
    seen = torch.cat([context, x_t], dim=1)
    label = torch.cat([t.new_zeros(context.shape[:2]), t], dim=1)
    x0, _ = model.x0(seen, label, condition, None, mask)
    return velocity(x_t, x0[:, context.shape[1] :], t)


@torch.no_grad()
def said_by(model: Denoiser, made: Rollouts, condition: Condition, mask: FrameMask, batch: int) -> Steps:
    """Velocities of another role at all states of the rollouts, without gradient, `batch` states a pass."""
    rows = len(made) * made.states.shape[1]
    parts = [velocities_at(model, *flat, condition[place], mask) for place, flat in _flattened(made, batch, rows)]
    return torch.cat(parts).unflatten(0, made.states.shape[:2])


def _flattened(made: Rollouts, batch: int, rows: int) -> Iterator[tuple[Tensor, tuple[Context, Latents, Levels]]]:
    """Rollout numbers and (context, state, level) of up to `batch` states at a time, step by step within a rollout."""
    steps = made.states.shape[1]
    states = made.states.flatten(0, 1)
    for start in range(0, rows, batch):
        place = torch.arange(start, min(start + batch, rows), device=states.device)
        rollout, step = place // steps, place % steps
        yield rollout, (made.context[rollout], states[place], made.times[step])


def repeated(condition: Condition, copies: int) -> Condition:
    """Every row `copies` times, one after the other."""
    rows = torch.arange(len(condition), device=condition.state.device).repeat_interleave(copies)
    return replace(condition)[rows]
