"""An executor's table: it, what it came from and its demonstrator on the same held-out tasks, judged alike."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict
from rich.progress import Progress
from torch import nn

from wm_lightning.checkpoints import NetworkFile, load_into, read_network
from wm_lightning.config_record import config_hash, plain, recorded_overrides
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.data.task_datamodule import TaskDataModule
from wm_lightning.environment import chosen_config, loaded_code, revision
from wm_lightning.metrics.rates import Gain, Rate, paired_gain, rate
from wm_lightning.modules.wmsd_algorithm import Algorithm
from wm_lightning.modules.wmsd_roles import grown
from wm_lightning.results.pictures import Film, draw_gif, draw_strips
from wm_lightning.results.roles import CRITERIA, RoleResults, RoleRow, terminal, write_markdown
from wm_lightning.rewards.bus import RewardBus
from wm_lightning.rewards.writer import Writer
from wm_lightning.tasks import terminal as console
from wm_lightning.tasks.build import build_card, network_of, plain_node, without
from wm_lightning.tasks.evaluation import machine
from wm_lightning.tasks.role_stage import Played, Role, Stage, play, stage_of, written
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
    row out. All roles are measured in `steps` of the sampler, as many as the training's if None.
    """

    tasks: int
    batch_size: int
    context: int
    judges: Callable[[Any], RewardBus]
    steps: int | None
    seed: int
    draws: int
    repeats: int
    pictures: int
    frame_side: int
    distilled: Distilled | None
    writer: Callable[[Any], Writer] | None


def measure_roles(config: DictConfig, data: ClipDataModule, file: NetworkFile, started: float) -> RoleResults:
    """Measures all roles; writes results.json, results.md, rollouts.gif and rollouts.png.

    Raises ValueError for data without tasks.
    """
    if not isinstance(data, TaskDataModule):
        raise ValueError(f"an executor is measured on tasks, and {data.name} has none; set data=world_tasks")
    settings: RoleSettings = instantiate(config.metrics, _convert_="all")
    clips = tuple(data.clips("test", settings.tasks, data.val_frames, settings.batch_size))
    stage = stage_of(config, data, clips, frames=config.module.frames, seed=settings.seed, steps=settings.steps)
    if (there := sum(map(len, stage.clips))) < settings.tasks:
        log.warning("There are %d test tasks, of metrics.tasks=%d asked for: all are measured", there, settings.tasks)
    writer = None if settings.writer is None else settings.writer(data)
    played = []
    with closing(settings.judges(data)) as bus, Progress(console=console.console(), transient=True) as progress:
        bar = progress.add_task("roles", total=None)
        for role in _roles(config, data, file, stage.device, writer):
            progress.update(bar, description=f"{role.name}: {settings.tasks} tasks")
            log.info("Measuring the %s on %d tasks", role.name, there)
            played.append(play(role, stage, bus, pictures=settings.pictures, repeats=settings.repeats))
    unseeded = config.copy()
    unseeded.seed = 0
    rows = tuple(_row(one, played, stage, settings) for one in played)
    results = RoleResults(
        rows=rows, name=config.name, data="simulated" if data.simulated else "real", world=data.name, split="test",
        judge=bus.judge, steps=stage.sampler.steps.steps, revision=revision(),
        config_hash=config_hash(plain(config)), seed=config.seed, seconds=round(time.time() - started, 1),
        machine=machine(stage.device, stage.precision),
        extra={
            "code": [*loaded_code(), *chosen_config()], "family": config_hash(plain(unseeded)),
            "overrides": recorded_overrides(Path(config.run_dir)),
            "failures": {one.name: one.scores.failures for one in played}, "writer": writer and writer.name,
            "unwritten": {one.name: one.unwritten for one in played if one.unwritten},
        },
    )  # fmt: skip
    _write(results, played, stage, settings, Path(config.run_dir))
    return results


def _roles(
    config: DictConfig, data: TaskDataModule, file: NetworkFile, device: torch.device, writer: Writer | None
) -> Iterator[Role]:
    """Those that this run has, one at a time in memory but for the base."""
    start = prepare_start(config, data)
    assert start is not None
    if (own := file.card.trained_for["start"]) != start.sha256:
        raise ValueError(
            f"the executor began as the base {own[:12]}, this run's is {start.sha256[:12]}; name its own by "
            f"module.start, or the table would hold it against another's"
        )
    base = _base(config, start, device)
    yield Role("base", base, data.asked)
    if writer is not None:
        reasons: Counter[str] = Counter()
        yield Role("vlm", base, partial(written, data, writer, reasons), reasons)
    yield Role("demonstrator", base, data.solved)
    if config.metrics.distilled is not None:
        yield Role("distilled", network_of(config, _distilled(config, data, start), device), data.asked)
    yield Role("executor", network_of(config, file, device), data.asked)


def _base(config: DictConfig, start: NetworkFile, device: torch.device) -> nn.Module:
    """What both roles began as, with new parts that add nothing yet."""
    network: nn.Module = instantiate(plain_node(config, "network"), _convert_="all")()
    load_into(network, grown(start, network, config.module.get("start_new", ())), "module.start")
    return network.to(device).eval().requires_grad_(False)


def distilled_recipe(config: DictConfig) -> DictConfig:
    """The config of the executor to compare with: this run's but for algorithm and length."""
    recipe = without(config, {"name": "distilled", "ckpt_path": "last"})
    with open_dict(recipe):
        recipe.module.algorithm = recipe.metrics.distilled.algorithm
        recipe.module.iterations = recipe.metrics.distilled.iterations
        if not recipe.module.algorithm.rl:  # then it hangs on neither, and is the same whatever they are
            recipe.module.surrogate = recipe.module.advantage = None
        recipe.metrics.distilled = None
    return recipe


def prepare_distilled(config: DictConfig, data: ClipDataModule, start: NetworkFile | None) -> None:
    """Trains the executor to compare with, where the table has one and it is not there yet. All ranks must call it."""
    if config.metrics.distilled is not None:
        trained_once(distilled_recipe(config), data, start)


def _distilled(config: DictConfig, data: TaskDataModule, start: NetworkFile) -> NetworkFile:
    recipe = distilled_recipe(config)
    return read_network(trained_once(recipe, data, start), build_card(recipe, data, "executor"))


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
            gains[other.name] = gain
    ids = [name for clip in stage.clips if clip.texts is not None for name in clip.texts.ids]
    tasks = [stage.data.row(name) for name in ids]
    return RoleRow(
        role=one.name, **{name: entry.value for name, entry in rates.items()},
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
    films = [Film(one.name, one.pictures) for one in played]
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
