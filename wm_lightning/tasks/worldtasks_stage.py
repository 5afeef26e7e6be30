"""The held-out tasks of a benchmark, and the network that does them."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from omegaconf import DictConfig

from wm_lightning.checkpoints import NetworkFile
from wm_lightning.clip import Clip
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.data.formats.world_tasks import TaskRow
from wm_lightning.data.loader import evaluation_loader
from wm_lightning.data.windows import Window
from wm_lightning.data.world_tasks import WorldTasksDataModule
from wm_lightning.results.roles import RoleName
from wm_lightning.rewards.writer import Writer
from wm_lightning.tasks.build import build_data, kind_of, network_of
from wm_lightning.tasks.evaluate import read_checkpoint, require
from wm_lightning.tasks.role_stage import Role, Stage, stage_of, written

Told = Literal["instruction", "solution", "written"]
# What a base is called by what it is told.
ROLES: dict[Told, RoleName] = {"instruction": "base", "solution": "demonstrator", "written": "vlm"}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Which tasks a benchmark takes, `count` of the `kinds` (None: all), and what the network is told of them.

    A base is told the `instruction`, the `solution` that comes with the task, or what `writer` has `written`; an
    executor the instruction alone. `frames` of a video count the picture (None: as many as the network was trained on).
    """

    protocol: str
    count: int | None
    kinds: Sequence[str] | None
    frames: int | None
    told: Told
    writer: Callable[[Any], Writer] | None
    batch_size: int
    seed: int


@dataclass(frozen=True)
class Cast:
    """Tasks in their order, the network that does them, and where."""

    rows: tuple[TaskRow, ...]
    data: WorldTasksDataModule
    file: NetworkFile
    role: Role
    stage: Stage


def cast(config: DictConfig, asked: Asked) -> Cast:
    """Tasks and network of a run. Raises ValueError where data, checkpoint and benchmark do not go together."""
    kind = kind_of(config)
    _check_told(asked, kind)
    data = _data(config, asked)
    rows, file = choose(data, asked), read_checkpoint(config, data, kind)
    frames = asked.frames or file.card.trained_for.get("frames")
    if frames is None:
        raise ValueError(f"{config.ckpt_path} does not say how long its videos are; set protocol.frames")
    require(file.card, config, config.module.context, frames)
    clips = tuple(clips_of(data, rows, asked.batch_size))
    stage = stage_of(config, data, clips, frames=frames, seed=asked.seed)
    return Cast(tuple(rows), data, file, _role(config, data, file, stage, asked), stage)


def choose(data: WorldTasksDataModule, asked: Asked) -> list[TaskRow]:
    """The tasks, in the order of their ids' SHA-256: the same ones whatever the run's seed."""
    known = [row for row in data.parts["test"] if asked.kinds is None or row.task_type in asked.kinds]
    if not known:
        there = sorted({row.task_type for row in data.parts["test"]})
        raise ValueError(f"protocol={asked.protocol} is of tasks of {list(asked.kinds or ())}, {data.name} has {there}")
    return sorted(known, key=lambda row: hashlib.sha256(row.id.encode()).digest())[: asked.count]


def clips_of(data: WorldTasksDataModule, rows: Sequence[TaskRow], batch_size: int) -> Iterator[Clip]:
    """Their pictures with their texts; a task's place among all held-out ones seeds its noise, however few run."""
    places = {row.id: place for place, row in enumerate(data.parts["test"])}
    windows = [Window(places[row.id], 0, 1, places[row.id]) for row in rows]
    yield from evaluation_loader(data.windows("test", truth=True), windows, batch_size, 0)


def index_of(rows: Sequence[TaskRow]) -> str:
    """SHA-256 of the tasks in their order, with their words: equal ones may be compared task by task."""
    return hashlib.sha256(json.dumps([(row.id, row.prompt, row.solution) for row in rows]).encode()).hexdigest()


def _check_told(asked: Asked, kind: str) -> None:
    if kind == "executor" and asked.told != "instruction":
        raise ValueError(f"protocol.told={asked.told} is for a base: an executor is told the instruction alone")
    if (asked.told == "written") != (asked.writer is not None):
        raise ValueError(
            f"protocol.told={asked.told} and {asked.writer=}: what is written needs a writer, all else none"
        )


def _data(config: DictConfig, asked: Asked) -> WorldTasksDataModule:
    data: ClipDataModule = build_data(config)
    if not isinstance(data, WorldTasksDataModule) or not data.pictures_only:
        raise ValueError(
            f"protocol={asked.protocol} is of held-out tasks, which {data.name} has none of; set data=world_tasks"
        )
    return data


def _role(config: DictConfig, data: WorldTasksDataModule, file: NetworkFile, stage: Stage, asked: Asked) -> Role:
    network, named = network_of(config, file, stage.device), ROLES[asked.told]
    if asked.writer is None:
        told = data.asked if asked.told == "instruction" else data.solved
        return Role("executor" if kind_of(config) == "executor" else named, network, told)
    reasons: Counter[str] = Counter()
    return Role(named, network, partial(written, data, asked.writer(data), reasons), reasons)
