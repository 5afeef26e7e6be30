"""task=evaluate protocol=worldtasks_bench: how often a network does held-out tasks, by a judge that never taught it."""

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from omegaconf import DictConfig
from rich.table import Table

from wm_lightning.checkpoints import NetworkFile
from wm_lightning.clip import Clip
from wm_lightning.config_record import config_hash, plain
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.data.formats.world_tasks import TaskRow
from wm_lightning.data.loader import evaluation_loader
from wm_lightning.data.windows import Window
from wm_lightning.data.world_tasks import WorldTasksDataModule
from wm_lightning.environment import chosen_config, loaded_code, revision
from wm_lightning.results.pictures import Film, draw_gif, draw_strips
from wm_lightning.results.roles import RoleName
from wm_lightning.results.task_bench import HEAD, BenchResults, caption, lines_of, read_baseline, write_page
from wm_lightning.rewards.bus import RewardBus
from wm_lightning.rewards.writer import Writer
from wm_lightning.tasks import terminal
from wm_lightning.tasks.bench_verdicts import Judged
from wm_lightning.tasks.build import build_data, kind_of, network_of
from wm_lightning.tasks.evaluate import read_checkpoint, require
from wm_lightning.tasks.evaluation import machine
from wm_lightning.tasks.role_stage import Played, Role, instructions, play, solutions, stage_of, written
from wm_lightning.tasks.training_judge import Node, judge_name, judge_of_training, require_another, same_judge

log = logging.getLogger(__name__)
# What a base is called by what it is told.
ROLES: dict[str, RoleName] = {"instruction": "base", "solution": "demonstrator", "written": "vlm"}


@dataclass(frozen=True, kw_only=True)
class TaskBench:
    """A benchmark: `tasks` held-out tasks (null: all), `videos` of each, of `frames` frames with the picture (null: as
    many as the network was trained on).

    A base is told the `instruction`, the `solution` that comes with the task, or what `writer` has `written`; an
    executor the instruction alone. `judges` judge by the `criteria`, and must not be those that taught the checkpoint
    unless `same_judge`. `against` names a run folder or results.json of this protocol on the same tasks, to pair with.
    `seed` is that of noise and bootstraps, of `draws` draws; `repeats` videos are timed; `pictures` tasks are drawn,
    `frame_side` pixels a frame. `kinds` are the types that a task must have one of; null takes all. `paper` says what
    its authors did, `published` what they found, `departures` what is always otherwise here.
    """

    name: str
    tasks: int | None
    videos: int
    frames: int | None
    told: Literal["instruction", "solution", "written"]
    criteria: Sequence[str]
    judges: Callable[..., RewardBus]
    same_judge: bool
    writer: Callable[[Any], Writer] | None
    against: str | None
    kinds: Sequence[str] | None
    batch_size: int
    seed: int
    draws: int
    repeats: int
    pictures: int
    frame_side: int
    paper: Mapping[str, Any]
    published: Sequence[Mapping[str, Any]]
    departures: Sequence[str]

    def __call__(self, config: DictConfig) -> dict[str, float]:
        """Writes results.json, results.md, rollouts.gif and rollouts.png; returns the rates by criterion."""
        started, kind = time.time(), kind_of(config)
        taught = judge_of_training(config)
        require_another(config, taught, self.same_judge)
        self._check_told(kind)
        baseline = None if self.against is None else read_baseline(Path(self.against))
        data = self._data(config)
        rows = self.choose(data)
        file = read_checkpoint(config, data, kind)
        frames = self.frames or file.card.trained_for.get("frames")
        if frames is None:
            raise ValueError(f"{config.ckpt_path} does not say how long its videos are; set protocol.frames")
        require(file.card, config, config.module.context, frames)
        ids, index = [row.id for row in rows], index_of(rows)
        bus = self.judges(data, weights=dict.fromkeys(self.criteria, 1.0))
        if baseline is not None:
            baseline.require(self.name, bus.judge, index, ids, list(bus.rewards))
        played, device = self._played(config, data, rows, frames, file, bus)
        judged = Judged.of([one.scores for one in played], draws=self.draws, seed=self.seed)
        first = played[0]
        results = BenchResults(
            protocol=self.name, name=config.name, role=first.name, checkpoint=file.sha256, world=data.name,
            data="simulated" if data.simulated else "real", tasks=len(rows), videos=self.videos, index=index,
            judge=bus.judge, judge_of_training=None if taught is None else judge_name(taught),
            steps=config.module.sampler.steps.steps,
            seconds_per_video=None if first.seconds is None else round(first.seconds, 4), shares=judged.shares(),
            average=judged.average(), by_task=judged.by([row.task_type for row in rows]),
            by_agent=judged.by([row.agent_type for row in rows]),
            against=None if baseline is None else judged.against(baseline, ids),
            departures=list(self._departures(config, data, rows, taught)), paper=dict(self.paper),
            published=[dict(row) for row in self.published], verdicts=judged.verdicts(ids), revision=revision(),
            config_hash=config_hash(plain(config)), seed=self.seed, seconds=round(time.time() - started, 1),
            machine=device, extra={"code": [*loaded_code(), *chosen_config()], "unwritten": first.unwritten},
        )  # fmt: skip
        self._write(results, first, rows, config)
        return results.summary()

    def choose(self, data: WorldTasksDataModule) -> list[TaskRow]:
        """The tasks, in the order of their ids' SHA-256: the same ones whatever the run's seed."""
        known = [row for row in data.parts["test"] if self.kinds is None or row.task_type in self.kinds]
        if not known:
            there = sorted({row.task_type for row in data.parts["test"]})
            raise ValueError(f"protocol={self.name} is of tasks of {list(self.kinds or ())}, {data.name} has {there}")
        return sorted(known, key=lambda row: hashlib.sha256(row.id.encode()).digest())[: self.tasks]

    def _check_told(self, kind: str) -> None:
        if kind == "executor" and self.told != "instruction":
            raise ValueError(f"protocol.told={self.told} is for a base: an executor is told the instruction alone")
        if (self.told == "written") != (self.writer is not None):
            raise ValueError(
                f"protocol.told={self.told} and {self.writer=}: what is written needs a writer, all else none"
            )

    def _data(self, config: DictConfig) -> WorldTasksDataModule:
        data: ClipDataModule = build_data(config)
        if not isinstance(data, WorldTasksDataModule) or not data.pictures_only:
            raise ValueError(
                f"protocol={self.name} is of held-out tasks, which {data.name} has none of; set data=world_tasks"
            )
        return data

    def _played(
        self,
        config: DictConfig,
        data: WorldTasksDataModule,
        rows: Sequence[TaskRow],
        frames: int,
        file: NetworkFile,
        bus: RewardBus,
    ) -> tuple[list[Played], str]:
        stage = stage_of(config, data, tuple(self.clips(data, rows)), frames=frames, seed=self.seed)
        role = self._role(config, data, file, stage.device)
        played = []
        try:
            for video in range(self.videos):
                log.info("Measuring %d tasks, video %d of %d", len(rows), video + 1, self.videos)
                repeats = 0 if video else self.repeats
                at = replace(stage, seed=self.seed + video)
                played.append(play(role, at, bus, pictures=self.pictures, repeats=repeats))
        finally:
            bus.close()
        return played, machine(stage.device, stage.precision)

    def clips(self, data: WorldTasksDataModule, rows: Sequence[TaskRow]) -> Iterator[Clip]:
        """Their pictures with their texts; a task's place among all held-out ones seeds its noise, however few run."""
        places = {row.id: place for place, row in enumerate(data.parts["test"])}
        windows = [Window(places[row.id], 0, 1, places[row.id]) for row in rows]
        yield from evaluation_loader(data.windows("test", truth=True), windows, self.batch_size, 0)

    def _role(self, config: DictConfig, data: WorldTasksDataModule, file: NetworkFile, device: torch.device) -> Role:
        network, named = network_of(config, file, device), ROLES[self.told]
        if self.writer is None:
            told = instructions if self.told == "instruction" else solutions
            return Role("executor" if kind_of(config) == "executor" else named, network, told)
        reasons: Counter[str] = Counter()
        return Role(named, network, partial(written, data, self.writer(data), reasons), reasons)

    def _departures(
        self, config: DictConfig, data: WorldTasksDataModule, rows: Sequence[TaskRow], taught: Node | None
    ) -> Iterator[str]:
        """In words, all that keeps the numbers from being the paper's."""
        yield from self.departures
        if data.simulated:
            yield f"simulated tasks ({data.name}), not the paper's"
        if len(rows) != self.paper["tasks"]:
            yield f"{len(rows)} tasks, not {self.paper['tasks']}"
        if taught is not None and same_judge(taught, plain(config)["protocol"]["judges"]):
            yield f"judged by {judge_name(taught)}, which also taught the network"

    def _write(self, results: BenchResults, first: Played, rows: Sequence[TaskRow], config: DictConfig) -> None:
        folder, context = Path(config.run_dir), config.module.context
        results.to_json(folder / "results.json")
        write_page(results, folder / "results.md")
        films, said = [Film(first.name, first.pictures)], "; ".join(row.prompt for row in rows[: self.pictures])
        draw_gif(
            folder / "rollouts.gif", films, context=context, clips=self.pictures, side=self.frame_side, fps=3,
            caption=said, most_bytes=1_500_000,
        )  # fmt: skip
        draw_strips(
            folder / "rollouts.png", films, context=context, clips=self.pictures, columns=9, side=self.frame_side,
            caption=said,
        )  # fmt: skip
        table = Table(*HEAD, title=caption(results))
        for line in lines_of(results):
            table.add_row(*line)
        terminal.console().print(table)
        for departure in results.departures:
            log.warning("Not the paper's number: %s", departure)
        log.info("Written: %s/results.json, results.md, rollouts.gif, rollouts.png", folder)


def index_of(rows: Sequence[TaskRow]) -> str:
    """SHA-256 of the tasks in their order, with their words: equal ones may be compared task by task."""
    return hashlib.sha256(json.dumps([(row.id, row.prompt, row.solution) for row in rows]).encode()).hexdigest()
