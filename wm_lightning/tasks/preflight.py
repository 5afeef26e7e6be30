"""What a training would refuse only after other work, refused before anything is written."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from wm_lightning.card import Card
from wm_lightning.checkpoints import NetworkFile, read_resumable
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.tasks.build import (
    build_card,
    build_module,
    build_trainer,
    declare_actions,
    plain_node,
    resume_path,
    without,
)
from wm_lightning.tasks.evaluate import build_cast, require
from wm_lightning.tasks.judging import TableSettings
from wm_lightning.tasks.teachers import given_teacher, must_adapt, recipe_of, start_file


def check_training(config: DictConfig) -> None:
    """Raises ValueError where settings, checkpoints or data could not be trained on and measured.

    Modules are built without memory (on the meta device), so this takes moments at any size. Simulated
    data are left in the cache, whole.
    """
    config = without(config, {})
    data: ClipDataModule = instantiate(config.data, _convert_="all")
    declare_actions(config, data)
    teacher = _teacher(config, data) if "teacher" in config.module else None
    card = _trained(config, data, teacher or start_file(config, data))
    _check_table(config, card, teacher)
    build_trainer(config)
    if (path := resume_path(config)) is not None:
        read_resumable(Path(path), card)
    data.prepare_data()
    _check_lengths(config, data)


def _teacher(config: DictConfig, data: ClipDataModule) -> NetworkFile:
    """The teacher that is there, else the card of the one that would be trained, with weights that have no values."""
    if (file := given_teacher(config, data)) is not None and not must_adapt(config, file.card):
        return file
    recipe = recipe_of(config, fine_tuned=file is not None)
    card = _trained(recipe, data, None)
    card.require_mask(recipe.rollout.mask.chunk, "module.teacher.rollout")
    return _weightless(recipe, card)


def _trained(config: DictConfig, data: ClipDataModule, file: NetworkFile | None) -> Card:
    """The card that a training of this config would give its network."""
    card = build_card(config, data, "student" if "teacher" in config.module else "teacher")
    module = _on_meta(lambda: build_module(config, card, file))
    module.configure_optimizers()
    return replace(card, trained_for=module.trained_for())


def _check_table(config: DictConfig, card: Card, teacher: NetworkFile | None) -> None:
    """The rows of the table at the end: masks, commits and numbers of steps."""
    require(card, config)
    settings: TableSettings = instantiate(config.metrics, _convert_="all")
    if settings.horizon < config.rollout.chunk:
        raise ValueError(
            f"metrics.horizon={settings.horizon} is shorter than a chunk of {config.rollout.chunk} frames; raise it"
        )
    cast = _on_meta(lambda: build_cast(config, _weightless(config, card), teacher, torch.device("meta")))
    for _ in cast.subjects(settings.teacher_steps, settings.student_steps):
        pass


def _check_lengths(config: DictConfig, data: ClipDataModule) -> None:
    asked = {
        "data.frames": ("train", data.frames),
        "data.val_frames": ("val", data.val_frames),
        "metrics.context + metrics.horizon": ("test", config.metrics.context + config.metrics.horizon),
    }
    for key, (split, frames) in asked.items():
        reader = data.reader(split)
        longest = max(reader.length(episode) for episode in range(len(reader)))
        if longest < frames:
            raise ValueError(
                f"{key} is {frames} frames, the longest {split} episode of {data.name} has {longest}; lower it"
            )


def _weightless(config: DictConfig, card: Card) -> NetworkFile:
    network = _on_meta(instantiate(plain_node(config, "network"), _convert_="all"))
    weights: dict[str, Tensor] = network.state_dict()
    return NetworkFile(weights, card, "")


def _on_meta(make: Callable[[], Any]) -> Any:
    with torch.device("meta"):
        return make()
