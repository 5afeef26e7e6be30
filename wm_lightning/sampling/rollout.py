"""The one loop that makes video: chunks denoised one after another behind a committed past.

Validation, self-forcing, evaluation and play all call `next_chunk`; a gap between how a model is
trained and how it is used cannot live in a second loop, for there is none.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from wm_lightning.clip import Condition, Latents, Levels
from wm_lightning.networks.denoiser import Denoiser, Denoises
from wm_lightning.networks.masks import FrameMask
from wm_lightning.networks.rerun import Rerun
from wm_lightning.networks.state import State, empty_state, evict
from wm_lightning.noising import GaussianPath, per_pixel
from wm_lightning.randomness import frame_noise
from wm_lightning.sampling.guidance import Guidance, guided_by
from wm_lightning.sampling.samplers import Sampler

CommitMode = Literal["clean", "noised", "scaled", "last"]
COMMIT_DRAW = 10_000  # A step number no denoising step has, for the noise of a committed frame.

# (shape of a frame, absolute index of the first frame per sample, number of frames, step) -> noise
Noise = Callable[[tuple[int, ...], Sequence[int], int, int], Latents]


@dataclass(frozen=True)
class SeededNoise:
    """One independent draw per (sample, absolute frame, step): chunking and batching change nothing."""

    seed: int
    purpose: str
    samples: tuple[int, ...]
    device: torch.device | str = "cpu"

    def __call__(self, shape: tuple[int, ...], first: Sequence[int], frames: int, step: int) -> Latents:
        if len(first) != len(self.samples):
            raise ValueError(f"{len(self.samples)} sample indices for a batch of {len(first)}")
        if len(set(first)) == 1:
            block = range(first[0], first[0] + frames)
            return frame_noise(shape, self.seed, self.purpose, self.samples, block, step, device=self.device)
        rows = [
            frame_noise(shape, self.seed, self.purpose, (sample,), range(start, start + frames), step)
            for sample, start in zip(self.samples, first, strict=True)
        ]
        return torch.cat(rows).to(self.device)


@dataclass(frozen=True)
class Commit:
    """How finished frames enter the memory, and the time they are labelled with.

    clean: as they are. noised: at noise level t, drawn once per frame. scaled: alpha(t) x0 without
    noise. last: the input and label of the chunk's last denoising pass, whose state is simply kept,
    so that no pass is spent on committing (context frames, which have no such pass, go in clean; a training
    chunk that exits early is noised to that last level first, or it would remember what inference never does).
    Without `rescaled`, "noised" leaves out the factor that a path may shrink x0 by (Vid2World's code does).
    """

    mode: CommitMode
    t: float
    rescaled: bool = True

    def inputs(self, path: GaussianPath, x0: Latents, noise: Callable[[], Latents]) -> tuple[Latents, Levels]:
        """What the network is shown for finished frames: (x_t, t)."""
        t = x0.new_full(x0.shape[:2], 0.0 if self.mode == "last" else self.t)
        if self.mode == "noised":
            shown = x0 if self.rescaled else x0 / per_pixel(path.factor(t))
            return path.add_noise(shown, noise(), t), t
        if self.mode == "scaled":
            return path.add_noise(x0, torch.zeros_like(x0), t), t
        return x0, t


@dataclass(frozen=True)
class Plan:
    """How a rollout proceeds: frames per chunk, who sees whom, how much is remembered, how it is committed.

    `chunk` frames are denoised together; `mask` is independent of it. `window` counts sinks, kept
    and current frames together (None: everything is kept). `guidance` None is the model as it is. With `rerun` nothing
    but inputs is remembered, and every pass runs the window again, as systems without a cache do.
    """

    chunk: int
    mask: FrameMask
    window: int | None
    sink: int
    commit: Commit
    guidance: Guidance | None = None
    rerun: bool = False

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ValueError(f"a chunk needs at least one frame, got {self.chunk=}")
        if self.window is not None and self.window < self.sink + self.chunk:
            raise ValueError(
                f"window={self.window} is shorter than sink={self.sink} plus chunk={self.chunk}; "
                f"set rollout.window to at least {self.sink + self.chunk}"
            )

    def first_chunk(self, frames: int) -> int:
        """Frames of the first chunk where `frames` are to be made: a chunk may be longer than any clip."""
        return min(self.chunk, frames)


def as_planned(model: Denoises, plan: Plan) -> Denoises:
    """The model under the plan's guidance and way of remembering; unchanged where it is that already."""
    if plan.rerun and isinstance(model, Denoiser) and not isinstance(model.network, Rerun):
        model = Denoiser(Rerun(model.network), model.path)
    return guided_by(model, plan.guidance)


@dataclass(frozen=True)
class Trace:
    """One denoising pass: its input, its time, the x0 it gave and the sample after the step."""

    x_t: Latents
    t: Levels
    x0: Latents
    after: Latents


@dataclass(frozen=True)
class Chunk:
    """Generated frames, the past that includes them (None where committing was not asked for), and the passes."""

    frames: Latents
    past: State | None
    record: tuple[Trace, ...] = ()


def next_chunk(
    model: Denoises,
    sampler: Sampler,
    past: State,
    condition: Condition,
    plan: Plan,
    noise: Noise,
    *,
    shape: tuple[int, ...],
    exit_step: int | None = None,
    keep: bool = True,
    record: bool = False,
) -> Chunk:
    """Denoises as many frames as `condition` has, behind `past`, and commits them.

    `shape` is that of one frame (c, h, w). With `exit_step` the chunk is the x0 of that step, which
    alone carries gradient (self-forcing, 2506.08009 alg. 1); None means all steps and no gradient.
    """
    model = as_planned(model, plan)
    frames = condition.actions.shape[1]
    past = evict(past, window=plan.window, sink=plan.sink, incoming=frames)
    draw = partial(noise, shape, past.frame.tolist(), frames)
    times = sampler.levels(model.path, frames).to(condition.actions.device)
    traces: list[Trace] = []
    for last, state in _passes(model, sampler, times, past, condition, plan, draw, exit_step):  # noqa: B007
        traces = [*traces, last] if record else [last]
    made = traces[-1].x0 if exit_step is not None else traces[-1].after
    if keep:
        early = exit_step is not None and exit_step + 2 < len(times)
        kept = None if early or plan.commit.mode != "last" else state
        past = kept or _committed(model, past, times[-2], made, condition, plan, partial(draw, COMMIT_DRAW))
    return Chunk(made, past if keep else None, tuple(traces) if record else ())


def _passes(
    model: Denoises, sampler: Sampler, times: Float[Tensor, "k f"], past: State, condition: Condition, plan: Plan,
    draw: Callable[[int], Latents], exit_step: int | None,
) -> Iterator[tuple[Trace, State]]:  # fmt: skip
    """The denoising passes of one chunk, up to and including the exit step."""
    x, learning = draw(0), torch.is_grad_enabled()
    for step, (row, row_next) in enumerate(pairwise(times)):
        t, t_next = row.expand(len(x), -1), row_next.expand(len(x), -1)
        seen, label = _with_finished(x, t, plan.commit, model.path)
        with torch.set_grad_enabled(learning and exit_step == step):
            x0, state = model.x0(seen, label, condition, past, plan.mask)
        with torch.no_grad():
            draws = sampler.draws and step + 2 < len(times) and exit_step != step
            fresh = draw(step + 1) if draws else torch.zeros_like(x)
            x = sampler.step(model.path, x, x0, t, t_next, fresh).sample
        yield Trace(seen, label, x0, x), state
        if exit_step == step:
            return


def _with_finished(x: Latents, t: Levels, commit: Commit, path: GaussianPath) -> tuple[Latents, Levels]:
    """Frames of a chunk that are already clean are shown as committed ones are (pyramid schedules)."""
    finished = t == 0
    if not bool(finished.any()):
        return x, t
    if commit.mode in ("noised", "last"):
        raise ValueError(f"frames that finish at different steps need commit mode 'clean' or 'scaled', got {commit}")
    shown, label = commit.inputs(path, x, lambda: x)
    return torch.where(finished[..., None, None, None], shown, x), torch.where(finished, label, t)


@torch.no_grad()
def _committed(
    model: Denoises, past: State, last: Float[Tensor, "f"], made: Latents, condition: Condition, plan: Plan,
    noise: Callable[[], Latents],
) -> State:  # fmt: skip
    """A pass of its own. In mode "last" that happens only in training, to a chunk that stopped early: it is
    noised to the time `last` of the last step, where a chunk that takes all its steps is remembered."""
    if plan.commit.mode == "last":
        t = last.expand(len(made), -1)
        x_t = model.path.add_noise(made.detach(), noise(), t)
    else:
        x_t, t = plan.commit.inputs(model.path, made.detach(), noise)
    return model.remember(x_t, t, condition, past, plan.mask)


@torch.no_grad()
def remember_context(model: Denoises, context: Latents, condition: Condition, plan: Plan, noise: Noise) -> State:
    """The state after the given frames, committed in one pass: the sinks and the newest that the window holds."""
    model = as_planned(model, plan)
    batch, frames = context.shape[:2]
    rows, condition = torch.arange(frames), condition.frames(0, frames)
    if plan.window is not None and frames > plan.window:
        rows = torch.cat([rows[: plan.sink], rows[frames - (plan.window - plan.sink) :]])
    shape = tuple(context.shape[2:])
    whole, t = plan.commit.inputs(model.path, context, lambda: noise(shape, [0] * batch, frames, COMMIT_DRAW))
    past = replace(empty_state(batch), frame=torch.full((batch,), frames - len(rows)))
    kept = replace(condition, actions=condition.actions[:, rows], state=condition.state[:, rows])
    return model.remember(whole[:, rows], t[:, rows], kept, past, plan.mask)


def iter_chunks(
    model: Denoises, sampler: Sampler, past: State, conditions: Iterable[Condition], plan: Plan, noise: Noise,
    *, shape: tuple[int, ...],
) -> Iterator[Chunk]:  # fmt: skip
    """Chunks as their conditions arrive: an action exists only when it is chosen."""
    for condition in conditions:
        chunk = next_chunk(model, sampler, past, condition, plan, noise, shape=shape)
        assert chunk.past is not None
        past = chunk.past
        yield chunk


def rollout(
    model: Denoises,
    sampler: Sampler,
    context: Latents,
    condition: Condition,
    plan: Plan,
    noise: Noise,
    *,
    exits: Sequence[int] | None = None,
    grad_from: int = 0,
) -> Float[Tensor, "b total c h w"]:
    """Context frames followed by generated ones, up to the length of `condition`.

    `exits` names one exit step per chunk; chunks that end at or before frame `grad_from` carry no
    gradient. A shorter last chunk is legal. The last chunk is not committed: nothing would read it.
    """
    model = as_planned(model, plan)
    total, given = condition.actions.shape[1], context.shape[1]
    shape = tuple(context.shape[2:])
    if exits is not None:
        _check_exits(exits, chunks=-(-(total - given) // plan.chunk), steps=len(sampler.levels(model.path, 1)) - 1)
    condition = model.begun(context, condition)
    past = remember_context(model, context, condition, plan, noise)
    made = [context]
    for index, start in enumerate(range(given, total, plan.chunk)):
        stop = min(start + plan.chunk, total)
        exit_step = None if exits is None else exits[index]
        with torch.set_grad_enabled(torch.is_grad_enabled() and stop > grad_from):
            chunk = next_chunk(
                model, sampler, past, condition.frames(start, stop), plan, noise,
                shape=shape, exit_step=exit_step, keep=stop < total,
            )  # fmt: skip
        made.append(chunk.frames)
        past = past if chunk.past is None else chunk.past
    return torch.cat(made, dim=1)


def _check_exits(exits: Sequence[int], *, chunks: int, steps: int) -> None:
    if len(exits) != chunks or not all(0 <= step < steps for step in exits):
        raise ValueError(f"exits={list(exits)}: {chunks} chunks need one exit step each, from 0 to {steps - 1}")
