"""Roles that do tasks: a network and what it is told, and how its videos are made, judged and timed."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

import torch
from hydra.utils import instantiate
from jaxtyping import Bool
from omegaconf import DictConfig
from torch import Tensor, nn

from wm_lightning.clip import Clip, Condition, Pixels
from wm_lightning.compute import precise
from wm_lightning.data.task_datamodule import TaskDataModule
from wm_lightning.networks.denoiser import Denoiser
from wm_lightning.noising import GaussianPath
from wm_lightning.results.roles import RoleName
from wm_lightning.rewards.bus import RewardBus, Scores
from wm_lightning.rewards.reward import Failed
from wm_lightning.rewards.writer import Writer
from wm_lightning.sampling.rollout import Plan, SeededNoise, rollout
from wm_lightning.sampling.samplers import Sampler
from wm_lightning.sampling.sde import drawless
from wm_lightning.tasks.build import device_of, plain_node


@dataclass(frozen=True)
class Role:
    """A network, and what it is told of every task, for videos of so many frames."""

    name: RoleName
    network: nn.Module
    told: Callable[[Clip, int], Condition]
    unwritten: Counter[str] = field(default_factory=Counter)  # why a writer wrote nothing, so that it heard less


@dataclass(frozen=True)
class Stage:
    """Where all roles play: the tasks, how many frames of them are given and how videos are made."""

    clips: tuple[Clip, ...]
    data: TaskDataModule
    frames: int
    context: int
    sampler: Sampler
    plan: Plan
    path: GaussianPath
    seed: int
    device: torch.device
    precision: str

    @torch.no_grad()
    def video(self, role: Role, clip: Clip) -> Pixels:
        """What the role makes of some tasks, on the CPU."""
        condition = role.told(clip, self.frames).to(self.device)
        given = clip.x0[:, : self.context].to(self.device)
        noise = SeededNoise(self.seed, "roles", tuple(clip.index.tolist()), self.device)
        with precise(self.device, self.precision):
            model = Denoiser(role.network, self.path)
            made = rollout(model, self.sampler, given, condition, self.plan, noise)
        return self.data.decode(made).cpu()


@dataclass(frozen=True)
class Played:
    """One role's videos of the first tasks, what judges said of all, the seconds one video takes, and why a writer
    wrote nothing, so that it heard less."""

    name: RoleName
    pictures: Pixels
    scores: Scores
    seconds: float | None
    unwritten: dict[str, int]

    def met(self, name: str) -> Bool[Tensor, "n"]:
        """Yes by task."""
        return self.scores.of(name) > 0

    def valid(self, name: str) -> Bool[Tensor, "n"]:
        """Judged by task."""
        return self.scores.valid[:, self.scores.names.index(name)]


def stage_of(
    config: DictConfig, data: TaskDataModule, clips: Sequence[Clip], *, frames: int, seed: int, steps: int | None = None
) -> Stage:
    """The stage of a config: videos of `frames` frames, the picture included, as its network deploys, or in other
    `steps` than those of its sampler."""
    sampler = drawless(instantiate(plain_node(config, "module")["sampler"], _convert_="all"))
    return Stage(
        clips=tuple(clips), data=data, frames=frames, context=config.module.context,
        sampler=sampler if steps is None else sampler.with_steps(steps),
        plan=instantiate(plain_node(config, "rollout"), _convert_="all"),
        path=instantiate(plain_node(config, "noising"), _convert_="all"), seed=seed,
        device=device_of(config), precision=str(config.trainer.precision),
    )  # fmt: skip


def written(data: TaskDataModule, writer: Writer, reasons: Counter[str], clip: Clip, frames: int) -> Condition:
    """What a model writes; where it fails the demonstrator hears the instruction, as it would in use."""
    assert clip.texts is not None
    found = writer(clip.video, clip.texts)
    reasons.update(text.reason for text in found if isinstance(text, Failed))
    pairs = zip(found, clip.texts.instruction, strict=True)
    texts = [asked if isinstance(text, Failed) else data.prompter.shortened(text) for text, asked in pairs]
    return data.told(clip, texts, frames)


def play(role: Role, stage: Stage, bus: RewardBus, *, pictures: int, repeats: int) -> Played:
    """All tasks by one role, judged, and one of them `repeats` times against the clock; the first videos are kept."""
    shown: list[Pixels] = []
    pending = []
    for clip in stage.clips:
        video = stage.video(role, clip)
        assert clip.texts is not None
        pending.append(bus.submit(video, clip.texts))
        if sum(map(len, shown)) < pictures:
            shown.append(video)
    unwritten = dict(role.unwritten)
    scores = bus.collect(pending)  # before anything is timed: judges take their share of the machine
    first = stage.clips[0][:1]
    seconds = [_timed(stage, role, first) for _ in range(repeats + 1)][1:] if repeats else []
    return Played(role.name, torch.cat(shown)[:pictures], scores, median(seconds) if seconds else None, unwritten)


def _timed(stage: Stage, role: Role, clip: Clip) -> float:
    begun = time.perf_counter()
    stage.video(role, clip)
    return time.perf_counter() - begun
