"""How a few-step student starts: as the teacher, by causal ODE pairs, or by causal consistency distillation.

All three give the student a causal, teacher-forced view: the noisy copy of a block sees clean blocks
before it (dmd.md's sources: Causal Forcing, CausVid, Self-Forcing).
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wm_lightning.clip import Condition, Latents, Levels
from wm_lightning.networks.denoiser import Denoiser
from wm_lightning.networks.masks import FrameMask, TeacherForcingMask, chunk_blocks
from wm_lightning.networks.state import State
from wm_lightning.objectives.denoising import Scalar, weighted_mse
from wm_lightning.sampling.rollout import Commit, Plan, next_chunk
from wm_lightning.sampling.samplers import DDIMSampler, StepList


@dataclass(frozen=True)
class Players:
    """Student, the moving average of it, and the frozen teacher."""

    student: Denoiser
    target: Denoiser
    teacher: Denoiser


@dataclass(frozen=True)
class Lesson:
    """A batch of clean clips with noise, one uniform draw per frame (equal within a block), and the block length."""

    x0: Latents
    condition: Condition
    noise: Latents
    place: Float[Tensor, "b f"]
    chunk: int
    context: int

    @property
    def counted(self) -> Levels:
        """1 on frames that are learned, 0 on the context."""
        weight = torch.ones_like(self.place)
        weight[:, : self.context] = 0
        return weight


def draw_places(source: np.random.Generator, frames: int, chunk: int) -> Float[Tensor, "f"]:
    """One uniform draw per block, the first frame being a block of its own, given to each of its frames."""
    blocks = chunk_blocks(frames, chunk, first_alone=True)
    # Drawn in float32: a float64 draw just below 1 would be rounded to 1, which is the place of no step.
    return torch.from_numpy(source.random(int(blocks[-1]) + 1, dtype=np.float32))[blocks]


@runtime_checkable
class Initialisation(Protocol):
    """A loss for the first `iterations` training steps of a student."""

    iterations: int

    def loss(self, players: Players, lesson: Lesson, student_times: Float[Tensor, "k"]) -> Scalar:
        """Loss of one batch; only the student receives gradient."""
        ...


@dataclass(frozen=True)
class TeacherInit:
    """The teacher's weights as they are: right for a teacher that is already causal under the student's mask."""

    iterations: int = 0

    def loss(self, players: Players, lesson: Lesson, student_times: Float[Tensor, "k"]) -> Scalar:
        raise ValueError("init=teacher has no iterations and no loss; choose init=causal_ode or init=causal_cd")


def clean_past(model: Denoiser, lesson: Lesson) -> State:
    """The memory of the clean clip, for teacher forcing."""
    clean = torch.zeros_like(lesson.place)
    return model.remember(lesson.x0, clean, lesson.condition, None, FrameMask(lesson.chunk))


def forced_x0(model: Denoiser, x_t: Latents, t: Levels, lesson: Lesson, past: State) -> Latents:
    """x0 of all blocks in one pass, each behind its clean prefix."""
    return model.x0(x_t, t, lesson.condition, past, TeacherForcingMask(lesson.chunk))[0]


@dataclass(frozen=True)
class CausalODE:
    """Regression to the end of the teacher's causal ODE from snapshots at the student's own times.

    The teacher solves its ODE in `steps` steps behind the clean prefix; each block takes one
    snapshot, and the student's x0 there is drawn to the end point.
    """

    iterations: int
    steps: int
    shift: float

    def loss(self, players: Players, lesson: Lesson, student_times: Float[Tensor, "k"]) -> Scalar:
        x_t, t, end = self.snapshots(players.teacher, lesson, student_times)
        with torch.no_grad():
            past = clean_past(players.student, lesson)
        return weighted_mse(forced_x0(players.student, x_t, t, lesson, past), end, lesson.counted)

    @torch.no_grad()
    def snapshots(
        self, teacher: Denoiser, lesson: Lesson, student_times: Float[Tensor, "k"]
    ) -> tuple[Latents, Levels, Latents]:
        """(x_t, t, end of the trajectory), x_t and t being those of one snapshot per block."""
        sampler = DDIMSampler(StepList("matched", self.steps, self.shift), eta=0.0)
        frames = lesson.x0.shape[1]
        plan = Plan(frames, TeacherForcingMask(lesson.chunk), window=None, sink=0, commit=Commit("clean", 0.0))
        chunk = next_chunk(
            teacher, sampler, clean_past(teacher, lesson), lesson.condition, plan, lambda *_: lesson.noise,
            shape=tuple(lesson.x0.shape[2:]), keep=False, record=True,
        )  # fmt: skip
        times = torch.stack([trace.t[0, 0] for trace in chunk.record])
        wanted = student_times.to(times)[(lesson.place * (len(student_times) - 1)).long()]
        nearest = (times[:, None, None] - wanted).abs().argmin(dim=0)
        kept = torch.zeros_like(lesson.noise)
        for step, trace in enumerate(chunk.record):
            kept = torch.where((nearest == step)[..., None, None, None], trace.x_t, kept)
        return kept, times[nearest], chunk.frames


@dataclass(frozen=True)
class CausalConsistency:
    """Consistency distillation behind a clean prefix (consistency models 2303.01469 alg. 2, teacher-forced).

    Two neighbouring times of a grid of `grid` steps: the teacher steps from the later to the earlier,
    and the student's x0 at the one follows its average's x0 at the other.
    """

    iterations: int
    grid: int
    shift: float

    def loss(self, players: Players, lesson: Lesson, student_times: Float[Tensor, "k"]) -> Scalar:
        path = players.student.path
        times = StepList("matched", self.grid, self.shift).times(path).to(lesson.x0.device)
        index = (lesson.place * self.grid).long()
        t, earlier = times[index], times[index + 1]
        x_t = path.add_noise(lesson.x0, lesson.noise, t)
        with torch.no_grad():
            hint = forced_x0(players.teacher, x_t, t, lesson, clean_past(players.teacher, lesson))
            stepped = DDIMSampler(StepList("uniform", 1), eta=0.0).step(path, x_t, hint, t, earlier, x_t).sample
            goal = forced_x0(players.target, stepped, earlier, lesson, clean_past(players.target, lesson))
            # At the clean end there is nothing left to predict: the step itself is the answer.
            goal = torch.where((earlier == 0)[..., None, None, None], stepped, goal)
            past = clean_past(players.student, lesson)
        return weighted_mse(forced_x0(players.student, x_t, t, lesson, past), goal, lesson.counted)
