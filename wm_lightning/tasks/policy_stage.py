"""What an evaluation of policies needs before any of them acts: checkpoints as worlds, and starts with a task left."""

import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from wm_lightning.clip import Clip
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.data.eval_index import make_index, windows_of
from wm_lightning.data.loader import evaluation_loader
from wm_lightning.envs.arenas import Arena, Played, play
from wm_lightning.envs.policy import Briefing, Policy
from wm_lightning.envs.push_task import PushTask
from wm_lightning.envs.world_model import WorldModel
from wm_lightning.metrics.pinned import file_hash
from wm_lightning.tasks.build import build_data, kind_of
from wm_lightning.tasks.environments import composed, world_model

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Contender:
    """A checkpoint as a world, and what it is called in the results."""

    name: str
    kind: str
    path: str
    checkpoint: str
    model: WorldModel


@dataclass(frozen=True)
class Stage:
    """All starts (given frames and hidden state) with the briefing of all; `batch_size` episodes run side by side."""

    start: Clip
    briefing: Briefing
    batch_size: int

    def play(self, arena: Arena, policy: Policy, name: str) -> Played:
        """Every start under one policy in one world."""
        parts = []
        for rows in np.array_split(np.arange(len(self.start)), -(-len(self.start) // self.batch_size)):
            numbers = tuple(self.briefing.numbers[row] for row in rows)
            told = replace(self.briefing, numbers=numbers, targets=self.briefing.targets[rows])
            parts.append(play(arena, policy, name, self.start[torch.from_numpy(rows)], told))
        return Played.cat(parts)


def contenders(config: DictConfig, data: ClipDataModule, against: Sequence[str], steps: int | None) -> list[Contender]:
    """The checkpoint at `ckpt_path`, and the others: each a path, behind which words for its config may follow.

    Raises ValueError where one was trained on other data, for policies must see the same in every world.
    """
    found = [_contender(config, data, steps)]
    for entry in against:
        path, *words = shlex.split(entry)
        other = composed(path, words)
        other.cache_dir, other.trainer = config.cache_dir, config.trainer
        own = build_data(other)
        theirs, ours = ((one.manifest["hash"], one.pixels, one.spec) for one in (own, data))
        if theirs != ours:
            raise ValueError(
                f"protocol.against names {path}, which is of {own.name} (frames {own.pixels}, content "
                f"{theirs[0][:12]}); {config.ckpt_path} is of {data.name} (frames {data.pixels}, content "
                f"{ours[0][:12]}): name checkpoints of the same data"
            )
        found.append(_contender(other, own, None))
    names = [one.name for one in found]
    return [replace(one, name=_numbered(names, place)) for place, one in enumerate(found)]


def _contender(config: DictConfig, data: ClipDataModule, steps: int | None) -> Contender:
    model = world_model(config, data, steps)
    path = Path(config.run_dir) / "checkpoints" / "best.ckpt" if config.ckpt_path == "last" else Path(config.ckpt_path)
    return Contender(model.name, kind_of(config), str(path), file_hash(path), model)


def _numbered(names: Sequence[str], place: int) -> str:
    """The name, with a number where others have the same."""
    alike = [other for other, name in enumerate(names) if name == names[place]]
    return names[place] if len(alike) == 1 else f"{names[place]} {alike.index(place) + 1}"


def decision_of(models: Sequence[WorldModel], asked: int | None) -> int:
    """How many actions are executed before a policy sees again: as asked, else the longest chunk.

    Raises ValueError where a model's chunk does not divide it.
    """
    decision = max(model.chunk for model in models) if asked is None else asked
    for model in models:
        if decision < 1 or decision % model.chunk:
            raise ValueError(
                f"protocol.decision={decision}: {model.name} makes {model.chunk} frames at a time, so a decision must "
                f"be a multiple of {model.chunk}"
            )
    return decision


def horizon_of(models: Sequence[WorldModel], asked: int, decision: int) -> int:
    """The frames of an episode: as many whole decisions as `asked` holds.

    Raises ValueError where that is none, or more than a model can make.
    """
    horizon = asked - asked % decision
    for model in models:
        most = horizon if model.longest is None else model.longest - model.context
        if not 0 < horizon <= most:
            raise ValueError(
                f"protocol.horizon={asked} in decisions of {decision} actions is {horizon} frames; {model.name} "
                f"{'needs one at least' if horizon < 1 else f'makes {most} at most'}"
            )
    return horizon


def starts_of(data: ClipDataModule, goal: PushTask, *, count: int, context: int, seed: int) -> tuple[Clip, np.ndarray]:
    """The first frames of `count` test episodes (all there are if fewer), and the block of each that is to be pushed.

    Episodes that begin with both blocks at home are left out. Raises ValueError where no start is left.
    """
    reader = data.reader("test")
    longest = max(reader.length(episode) for episode in range(len(reader)))
    entries = [replace(e, length=context) for e in make_index(reader, clips=len(reader), frames=longest, seed=seed)]
    windows = windows_of(reader, entries)
    clip = Clip.cat(list(evaluation_loader(data.windows("test", truth=True), windows, 64, 0)))
    targets = goal.targets(clip.video, clip.index.tolist())
    rows = np.flatnonzero(targets >= 0)[:count]
    if not len(rows):
        raise ValueError(f"every test episode of {data.name} begins with its blocks at home; give data.world.seed=N")
    if len(rows) < count:
        log.warning("%d starts, not %d: the test split holds no more", len(rows), count)
    return clip[torch.from_numpy(rows)], targets[rows]
