"""An executor's table: it, what it came from and its demonstrator on the same held-out tasks, judged alike."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from hydra.utils import instantiate
from jaxtyping import Bool
from omegaconf import DictConfig, open_dict
from rich.progress import Progress
from torch import Tensor, nn

from wm_lightning.checkpoints import NetworkFile, read_network
from wm_lightning.clip import Clip, Pixels
from wm_lightning.compute import precise
from wm_lightning.config_record import config_hash, plain
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.data.world_tasks import WorldTasksDataModule
from wm_lightning.environment import chosen_config, loaded_code, revision
from wm_lightning.metrics.rates import Gain, Rate, paired_gain, rate
from wm_lightning.modules.wmsd_algorithm import Algorithm
from wm_lightning.modules.wmsd_rollouts import prompted
from wm_lightning.networks.denoiser import Denoiser
from wm_lightning.results.pictures import Film, draw_gif, draw_strips
from wm_lightning.results.roles import CRITERIA, RoleName, RoleResults, RoleRow, terminal, write_markdown
from wm_lightning.rewards.bus import RewardBus, Scores
from wm_lightning.rewards.reward import Failed
from wm_lightning.rewards.writer import Writer
from wm_lightning.sampling.rollout import Plan, SeededNoise, rollout
from wm_lightning.sampling.samplers import Sampler
from wm_lightning.sampling.sde import drawless
from wm_lightning.tasks import terminal as console
from wm_lightning.tasks.build import build_card, device_of, network_of, plain_node, without
from wm_lightning.tasks.evaluation import machine
from wm_lightning.tasks.teachers import prepare_start, trained_once

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Distilled:
    """The executor to compare with: trained by another algorithm, all else alike."""

    algorithm: Algorithm
    iterations: int


@dataclass(frozen=True)
class RoleSettings:
    """What the table holds: `tasks` test tasks, `batch_size` at a time, judged by `judges` (which need not be those of
    the training). `draws` are those of the paired bootstrap, `repeats` of the time one video takes; `pictures` tasks
    are drawn, `frame_side` pixels a frame. `writer` writes the solutions that the role "vlm" is told; None leaves the
    row out.
    """

    tasks: int
    batch_size: int
    context: int
    judges: Callable[[Any], RewardBus]
    seed: int
    draws: int
    repeats: int
    pictures: int
    frame_side: int
    distilled: Distilled | None
    writer: Callable[[Any], Writer] | None


@dataclass(frozen=True)
class Role:
    """A network, and what it is told of every task."""

    name: RoleName
    network: nn.Module
    told: Callable[[Clip], Sequence[str]]
    unwritten: Counter[str] = field(default_factory=Counter)  # why a writer wrote nothing, so that it heard less


@dataclass(frozen=True)
class Stage:
    """Where all roles play: the tasks, how videos are made, and who judges."""

    clips: tuple[Clip, ...]
    data: WorldTasksDataModule
    frames: int
    sampler: Sampler
    plan: Plan
    path: Any
    seed: int
    device: torch.device
    precision: str

    @torch.no_grad()
    def video(self, role: Role, clip: Clip) -> Pixels:
        """What the role makes of some tasks, on the CPU."""
        prompt = self.data.prompter(role.told(clip)).each(lambda x: x.to(self.device))
        condition = prompted(prompt, self.frames, clip.condition.actions.shape[-1])
        noise = SeededNoise(self.seed, "roles", tuple(clip.index.tolist()), self.device)
        with precise(self.device, self.precision):
            model = Denoiser(role.network, self.path)
            made = rollout(model, self.sampler, clip.x0.to(self.device), condition, self.plan, noise)
        return self.data.decode(made).cpu()


@dataclass(frozen=True)
class Played:
    """One role's videos of the first tasks, what judges said of all, and the seconds one video takes."""

    role: Role
    pictures: Pixels
    scores: Scores
    seconds: float | None

    def met(self, name: str) -> Bool[Tensor, "n"]:
        """Yes by task."""
        return self.scores.of(name) > 0

    def valid(self, name: str) -> Bool[Tensor, "n"]:
        """Judged by task."""
        return self.scores.valid[:, self.scores.names.index(name)]


def measure_roles(config: DictConfig, data: ClipDataModule, file: NetworkFile, started: float) -> RoleResults:
    """Measures all roles; writes results.json, results.md, rollouts.gif and rollouts.png.

    Raises ValueError for data without tasks.
    """
    if not isinstance(data, WorldTasksDataModule):
        raise ValueError(f"an executor is measured on tasks, and {data.name} has none; set data=world_tasks")
    settings: RoleSettings = instantiate(config.metrics, _convert_="all")
    stage = _stage(config, data, settings)
    bus = settings.judges(data)
    played = []
    with Progress(console=console.console(), transient=True) as progress:
        bar = progress.add_task("roles", total=None)
        for role in _roles(config, data, file, stage.device, settings):
            progress.update(bar, description=f"{role.name}: {settings.tasks} tasks")
            log.info("Measuring the %s on %d tasks", role.name, sum(map(len, stage.clips)))
            played.append(_play(role, stage, bus, settings))
    bus.close()
    rows = tuple(_row(one, played, stage, settings) for one in played)
    results = RoleResults(
        rows=rows, name=config.name, data="simulated" if data.simulated else "real", world=data.name, split="test",
        judge=", ".join(bus.rewards), steps=stage.sampler.steps.steps, revision=revision(),
        config_hash=config_hash(plain(config)), seed=config.seed, seconds=round(time.time() - started, 1),
        machine=machine(stage.device, stage.precision),
        extra={
            "code": [*loaded_code(), *chosen_config()],
            "unwritten": {one.role.name: dict(one.role.unwritten) for one in played if one.role.unwritten},
        },
    )  # fmt: skip
    _write(results, played, stage, settings, Path(config.run_dir))
    return results


def _stage(config: DictConfig, data: WorldTasksDataModule, settings: RoleSettings) -> Stage:
    clips = tuple(data.clips("test", settings.tasks, 1, settings.batch_size))
    module = plain_node(config, "module")
    return Stage(
        clips=clips, data=data, frames=module["frames"],
        sampler=drawless(instantiate(module["sampler"], _convert_="all")),
        plan=instantiate(plain_node(config, "rollout"), _convert_="all"),
        path=instantiate(plain_node(config, "noising"), _convert_="all"), seed=settings.seed,
        device=device_of(config), precision=str(config.trainer.precision),
    )  # fmt: skip


def _roles(
    config: DictConfig, data: WorldTasksDataModule, file: NetworkFile, device: torch.device, settings: RoleSettings
) -> Iterator[Role]:
    """Those that this run has, one at a time in memory but for the base."""
    start = prepare_start(config, data)
    assert start is not None
    base = network_of(config, start, device)
    yield Role("base", base, _instructions)
    if settings.writer is not None:
        reasons: Counter[str] = Counter()
        yield Role("vlm", base, partial(_written, settings.writer(data), reasons), reasons)
    yield Role("demonstrator", base, _solutions)
    if config.metrics.distilled is not None:
        yield Role("distilled", network_of(config, _distilled(config, data, start), device), _instructions)
    yield Role("executor", network_of(config, file, device), _instructions)


def _instructions(clip: Clip) -> Sequence[str]:
    assert clip.texts is not None
    return clip.texts.instruction


def _solutions(clip: Clip) -> Sequence[str]:
    assert clip.texts is not None
    return clip.texts.solution


def _written(writer: Writer, reasons: Counter[str], clip: Clip) -> Sequence[str]:
    """What a model writes; where it fails the demonstrator hears the instruction, as it would in use."""
    assert clip.texts is not None
    found = writer(clip.video, clip.texts)
    reasons.update(text.reason for text in found if isinstance(text, Failed))
    pairs = zip(found, clip.texts.instruction, strict=True)
    return [instruction if isinstance(text, Failed) else text for text, instruction in pairs]


def distilled_recipe(config: DictConfig) -> DictConfig:
    """The config of the executor to compare with."""
    recipe = without(config, {"name": "distilled", "ckpt_path": "last"})
    with open_dict(recipe):
        recipe.module.algorithm = recipe.metrics.distilled.algorithm
        recipe.module.iterations = recipe.metrics.distilled.iterations
        recipe.metrics.distilled = None
    return recipe


def prepare_distilled(config: DictConfig, data: ClipDataModule, start: NetworkFile | None) -> None:
    """Trains the executor to compare with, where the table has one and it is not there yet. All ranks must call it."""
    if config.metrics.distilled is not None:
        trained_once(distilled_recipe(config), data, start)


def _distilled(config: DictConfig, data: WorldTasksDataModule, start: NetworkFile) -> NetworkFile:
    recipe = distilled_recipe(config)
    return read_network(trained_once(recipe, data, start), build_card(recipe, data, "executor"))


def _play(role: Role, stage: Stage, bus: RewardBus, settings: RoleSettings) -> Played:
    shown, pending = [], []
    for clip in stage.clips:
        video = stage.video(role, clip)
        assert clip.texts is not None
        pending.append(bus.submit(video, clip.texts))
        if sum(map(len, shown)) < settings.pictures:
            shown.append(video)
    first = stage.clips[0][:1]
    seconds = [_timed(stage, role, first) for _ in range(settings.repeats + 1)][1:]
    scores = bus.collect(pending)
    return Played(role, torch.cat(shown)[: settings.pictures], scores, median(seconds) if seconds else None)


def _timed(stage: Stage, role: Role, clip: Clip) -> float:
    begun = time.perf_counter()
    stage.video(role, clip)
    return time.perf_counter() - begun


def _row(one: Played, all_of_them: Sequence[Played], stage: Stage, settings: RoleSettings) -> RoleRow:
    rates = {name: rate(one.met(name), one.valid(name)) for name in CRITERIA}
    known = [value for entry in rates.values() if (value := entry.value) is not None]
    gains: dict[str, Gain] = {}
    for other in all_of_them:
        valid = one.valid("task") & other.valid("task")
        gain = paired_gain(
            one.met("task"), other.met("task"), valid, draws=settings.draws, seed=settings.seed
        )  # fmt: skip
        if other is not one and gain is not None:
            gains[other.role.name] = gain
    ids = [name for clip in stage.clips if clip.texts is not None for name in clip.texts.ids]
    tasks = [stage.data.row(name) for name in ids]
    return RoleRow(
        role=one.role.name, **{name: entry.value for name, entry in rates.items()},
        average=sum(known) / len(known) if len(known) == len(CRITERIA) else None, n=len(ids),
        valid=int(one.scores.valid.all(1).sum()), valid_by={name: entry.n for name, entry in rates.items()},
        intervals={name: entry.interval for name, entry in rates.items()},
        gains={name: (gain.value, gain.low, gain.high) for name, gain in gains.items()},
        by_task=_by(one, [row.task_type for row in tasks]), by_agent=_by(one, [row.agent_type for row in tasks]),
        seconds=None if one.seconds is None else round(one.seconds, 4),
    )  # fmt: skip


def _by(one: Played, kinds: Sequence[str]) -> Mapping[str, tuple[float, int]]:
    """The rate of `task` over the tasks of each kind, and how many those are."""
    found: dict[str, Rate] = {}
    for kind in dict.fromkeys(kinds):
        here = torch.tensor([other == kind for other in kinds])
        found[kind] = rate(one.met("task") & here, one.valid("task") & here)
    return {kind: (value, entry.n) for kind, entry in found.items() if (value := entry.value) is not None}


def _write(results: RoleResults, played: Sequence[Played], stage: Stage, settings: RoleSettings, folder: Path) -> None:
    results.to_json(folder / "results.json")
    write_markdown(results, folder / "results.md")
    films = [Film(one.role.name, one.pictures) for one in played]
    caption = "; ".join(
        text for clip in stage.clips[:1] if clip.texts for text in clip.texts.instruction[: settings.pictures]
    )
    context, side = settings.context, settings.frame_side
    draw_gif(
        folder / "rollouts.gif", films, context=context, clips=settings.pictures, side=side, fps=3, caption=caption,
        most_bytes=1_500_000,
    )  # fmt: skip
    draw_strips(folder / "rollouts.png", films, context=context, clips=2, columns=9, side=side, caption=caption)
    console.console().print(terminal(results))
    console.console().print(f"\nWritten: {folder}/results.json, results.md, rollouts.gif, rollouts.png")
