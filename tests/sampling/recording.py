"""What the tests of rollouts share: paths, samplers, noise in any precision, and a model that keeps its calls."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from wm_lightning.clip import Condition
from wm_lightning.networks.denoiser import Denoiser, Denoises
from wm_lightning.networks.masks import FrameMask
from wm_lightning.networks.state import State
from wm_lightning.noising import GaussianPath, RectifiedFlow, VPDiffusion
from wm_lightning.sampling.rollout import Commit, CommitMode, Noise, Plan, SeededNoise
from wm_lightning.sampling.samplers import DDIMSampler, FewStepSampler, StepList

FLOW = RectifiedFlow(prediction="velocity", loss_sigma_floor=0.05, label_scale=20.0)
DIFFUSION = VPDiffusion(prediction="v", loss_sigma_floor=0.05, steps=1000, start=-3.0, end=3.0, tau=1.0)
STEPS = 2
FEW_STEP = FewStepSampler(StepList(kind="matched", steps=STEPS, shift=2.0))
DDIM = DDIMSampler(StepList(kind="uniform", steps=STEPS), eta=0.0)
COMMITS = [Commit("clean", 0.0), Commit("noised", 0.1), Commit("scaled", 0.1), Commit("last", 0.0)]


def commit_name(commit: Commit) -> CommitMode:
    return commit.mode


def plan(
    chunk: int, *, commit: Commit = COMMITS[0], window: int | None = None, sink: int = 0, mask: FrameMask | None = None
) -> Plan:
    return Plan(chunk=chunk, mask=FrameMask(chunk) if mask is None else mask, window=window, sink=sink, commit=commit)


def noise_of(samples: Sequence[int], dtype: torch.dtype, seed: int = 5) -> Noise:
    source = SeededNoise(seed, "test", tuple(samples))
    return lambda shape, first, frames, step: source(shape, first, frames, step).to(dtype)


@dataclass(frozen=True)
class Call:
    """One call of a model: what it was shown, behind which past, and the x0 it gave (None for a commit)."""

    x_t: Tensor
    t: Tensor
    condition: Condition
    past: State
    x0: Tensor | None

    @property
    def start(self) -> int:
        return int(self.past.frame[0])


@dataclass(frozen=True)
class Recorder:
    """A model that answers as the one inside and keeps every call."""

    model: Denoises
    calls: list[Call] = field(default_factory=list)

    @property
    def path(self) -> GaussianPath:
        return self.model.path

    def begun(self, context: Tensor, condition: Condition) -> Condition:
        return self.model.begun(context, condition)

    def x0(
        self, x_t: Tensor, t: Tensor, condition: Condition, past: State | None, mask: FrameMask
    ) -> tuple[Tensor, State]:
        x0, state = self.model.x0(x_t, t, condition, past, mask)
        assert past is not None
        self.calls.append(Call(x_t, t, condition, past, x0))
        return x0, state

    def remember(self, x_t: Tensor, t: Tensor, condition: Condition, past: State | None, mask: FrameMask) -> State:
        assert past is not None
        self.calls.append(Call(x_t, t, condition, past, None))
        return self.model.remember(x_t, t, condition, past, mask)

    def passes(self) -> list[Call]:
        """Denoising passes in their order."""
        return [call for call in self.calls if call.x0 is not None]

    def committed(self) -> dict[int, Call]:
        """By first frame, the call whose state was kept: a commit where there was one, else the last pass."""
        return {call.start: call for call in self.calls}


def denoiser(network: nn.Module, path: GaussianPath = FLOW) -> Denoiser:
    return Denoiser(network, path)
