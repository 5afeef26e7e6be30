"""The generators a results table compares: teachers, controls, students and baselines."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from wm_lightning.clip import Clip, Latents, Pixels, to_pixels
from wm_lightning.networks.denoiser import Denoiser
from wm_lightning.networks.rerun import Rerun
from wm_lightning.noising import GaussianPath
from wm_lightning.results.results import Use
from wm_lightning.sampling.rollout import Commit, Plan, SeededNoise, rollout
from wm_lightning.sampling.samplers import FewStepSampler, Sampler

CLEAN = Commit(mode="clean", t=0.0)
LAST = Commit(mode="last", t=0.0)


@dataclass(frozen=True)
class Subject:
    """A generator of video and how the table names it.

    `unjudged` says why its quality is not measured (None: it is). `decode` makes pixels of what the model makes.
    """

    role: str
    name: str
    model: Denoiser
    sampler: Sampler
    plan: Plan
    steps: int
    cached: bool
    unjudged: str | None = None
    decode: Callable[[Latents], Pixels] = to_pixels

    @property
    def forwards(self) -> int:
        """Forward passes per chunk; a commit of its own is one more. Guidance takes two, run side by side or not."""
        commits = self.cached and not self.plan.rerun and self.plan.commit.mode != "last"
        steps, guidance = len(self.sampler.levels(self.model.path, self.plan.chunk)) - 1, self.plan.guidance
        if guidance is None or guidance.scale == 1:
            return steps + int(commits)
        return 2 * steps + int(commits) * (2 if guidance.drop == "all" else 1)

    @torch.no_grad()
    def generate(self, clip: Clip, context: int, seed: int, device: torch.device) -> Pixels:
        """Video of the clip's length from its first `context` frames, on the CPU."""
        noise = SeededNoise(seed, "evaluation", tuple(clip.index.tolist()), device)
        start = clip.frames(0, context).x0.to(device)
        made = rollout(self.model, self.sampler, start, clip.condition.to(device), self.plan, noise)
        return self.decode(made).cpu()


SAME = "speed only: the video is that of the row with a cache, but for what evicted frames left behind in it"


@dataclass(frozen=True)
class Cast:
    """Networks and settings the subjects are made of; `student` is None when only a teacher was trained."""

    teacher: nn.Module
    student: nn.Module | None
    path: GaussianPath
    teacher_sampler: Sampler
    student_sampler: Sampler | None
    plan: Plan
    history_level: float  # how noisy a history the teacher was trained on
    decode: Callable[[Latents], Pixels]
    teacher_plan: Plan | None = None  # of a distillation's teacher, which need not be the student's

    def subjects(self, teacher_steps: Sequence[int], student_steps: Sequence[int]) -> Iterator[Subject]:
        """Rows of the table in their order, baselines aside; the steps a student was trained for are always there."""
        for subject in self._undecoded(teacher_steps, student_steps):
            yield replace(subject, decode=self.decode, cached=subject.cached and self._caches(subject.model))

    def _caches(self, model: Denoiser) -> bool:
        """Whether anything is kept from chunk to chunk; a network that cannot is run over the whole again."""
        return not self.plan.rerun and getattr(model.network, "remembers", True)

    def _undecoded(self, teacher_steps: Sequence[int], student_steps: Sequence[int]) -> Iterator[Subject]:
        yield from self._teachers(teacher_steps)
        if self.student is not None and self.student_sampler is not None:
            steps = sorted({self.student_sampler.steps.steps, *student_steps}, reverse=True)
            yield from self._controls(steps, self.student_sampler)
            yield from self._students(steps, self.student, self.student_sampler)

    def deployed(self, teacher_steps: Sequence[int]) -> Use:
        """How the network that this cast is about was trained to be used."""
        if self.student_sampler is None:
            role, steps, commit = "teacher", max(teacher_steps), self._teachers_commit
        else:
            role, steps, commit = "student", self.student_sampler.steps.steps, self.plan.commit
        return Use(role, steps, None if self.plan.rerun else commit.mode)

    @property
    def _teachers_commit(self) -> Commit:
        """How a teacher remembers: clean, or as its plan says where a pass of its own shows it something else."""
        plan = self.plan if self.student is None else self.teacher_plan
        return plan.commit if plan is not None and plan.commit.mode in ("noised", "scaled") else CLEAN

    def _teachers(self, steps: Sequence[int]) -> Iterator[Subject]:
        teacher, most = Denoiser(self.teacher, self.path), max(steps)
        plan = self.plan if self.student is None else self.teacher_plan
        own = replace(self.plan, commit=self._teachers_commit, guidance=None if plan is None else plan.guidance)

        def made(count: int, model: Denoiser, plan: Plan, cached: bool, unjudged: str | None) -> Subject:
            return Subject("teacher", "teacher", model, self._euler(count), plan, count, cached, unjudged)

        for count in steps:
            yield made(count, teacher, own, True, None)
        if not self._caches(teacher):
            return
        yield made(most, Denoiser(Rerun(self.teacher), self.path), own, False, SAME)
        last_level = float(self._euler(most).levels(self.path, 1)[-2, 0])
        untrained = last_level > self.history_level
        noisy = "speed only: the teacher was not trained on a history this noisy"
        reason = noisy if untrained else "speed only: quality is compared behind clean commits"
        yield made(most, teacher, replace(own, commit=LAST), True, reason)

    def _controls(self, steps: Sequence[int], sampler: Sampler) -> Iterator[Subject]:
        """The teacher's weights at the student's steps: what few steps give without any distillation."""
        teacher, plan = Denoiser(self.teacher, self.path), replace(self.plan, commit=CLEAN)
        for count in steps:
            yield Subject("control", "undistilled, Euler", teacher, self._euler(count), plan, count, True)
            renoise = FewStepSampler(sampler.steps.with_steps(count))
            yield Subject("control", "undistilled, re-noised", teacher, renoise, plan, count, True)

    def _students(self, steps: Sequence[int], network: nn.Module, sampler: Sampler) -> Iterator[Subject]:
        student, trained = Denoiser(network, self.path), self.plan.commit
        for commit in (CLEAN, LAST):
            own = commit.mode == trained.mode or (commit is CLEAN and trained.mode in ("noised", "scaled"))
            plan = self.plan if own else replace(self.plan, commit=commit)
            reason = None if own else f"speed only: the student was trained to commit with mode {trained.mode}"
            for count in steps:
                few = sampler.with_steps(count)
                yield Subject("student", "student", student, few, plan, count, True, reason)

    def _euler(self, steps: int) -> Sampler:
        return self.teacher_sampler.with_steps(steps)


def baseline_copy(clip: Clip, context: int) -> Pixels:
    """The last given frame, held."""
    held = clip.video[:, context - 1 : context].expand(-1, clip.video.shape[1] - context, -1, -1, -1)
    return torch.cat([clip.video[:, :context], held], dim=1).cpu()


def with_shuffled_actions(clips: Sequence[Clip]) -> list[Clip]:
    """Batches of clips driven by their neighbours' actions, across batches; all that they are judged against stays."""
    rolled = torch.cat([clip.condition.actions for clip in clips]).roll(1, dims=0)
    parts = rolled.split([len(clip) for clip in clips])
    shuffled = [replace(clip.condition, actions=part) for clip, part in zip(clips, parts, strict=True)]
    changes: list[dict[str, Any]] = [{"condition": condition} for condition in shuffled]
    return [replace(clip, **change) for clip, change in zip(clips, changes, strict=True)]
