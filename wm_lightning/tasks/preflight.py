"""What a training would refuse only after other work, refused before anything is written."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from wm_lightning.card import Card
from wm_lightning.checkpoints import NetworkFile, read_resumable
from wm_lightning.config_record import flat, plain
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.data.windows import count_windows
from wm_lightning.tasks.build import (
    build_card,
    build_module,
    build_trainer,
    declare_actions,
    kind_of,
    plain_node,
    resume_path,
    without,
)
from wm_lightning.tasks.evaluate import build_cast, require
from wm_lightning.tasks.judging import TableSettings
from wm_lightning.tasks.teachers import given_teacher, must_adapt, pretraining_of, recipe_of, start_file

# Where things lie: what lies there is held against the card and the key of the latent cache.
PLACES = ("data.root", "data.latents", "data.autoencoder.weights")


def check_training(config: DictConfig) -> None:
    """Raises ValueError where settings, checkpoints or data could not be trained on and measured.

    Modules are built without memory (on the meta device), so this takes moments at any size. Simulated
    data are left in the cache, whole.
    """
    given, config = config, without(config, {})
    data: ClipDataModule = instantiate(config.data, _convert_="all")
    declare_actions(config, data)
    teacher = _teacher(config, data) if "teacher" in config.module else None
    card = _trained(config, data, teacher or _start(config, data))
    _check_table(config, card, teacher, data)
    build_trainer(config)
    if (path := resume_path(config)) is not None:
        _check_same_training(given, Path(path), read_resumable(Path(path), card))
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


def _start(config: DictConfig, data: ClipDataModule) -> NetworkFile | None:
    """What the training starts from: a file, or the card of what would be trained first."""
    if (recipe := pretraining_of(config)) is None:
        return start_file(config, data)
    return _weightless(recipe, _trained(recipe, data, None))


def _trained(config: DictConfig, data: ClipDataModule, file: NetworkFile | None) -> Card:
    """The card that a training of this config would give its network."""
    card = build_card(config, data, kind_of(config))
    module = _on_meta(lambda: build_module(config, card, file))
    module.configure_optimizers()
    return replace(card, trained_for=module.trained_for())


def _check_table(config: DictConfig, card: Card, teacher: NetworkFile | None, data: ClipDataModule) -> None:
    """The rows of the table at the end: masks, commits and numbers of steps."""
    settings: TableSettings = instantiate(config.metrics, _convert_="all")
    require(card, config, settings.context, settings.context + settings.horizon)
    # A chunk longer than the clips of training is their length: it ends where they do.
    chunk = min(config.rollout.chunk, max(1, data.frames - config.module.context))
    if settings.horizon < chunk:
        raise ValueError(f"metrics.horizon={settings.horizon} is shorter than a chunk of {chunk} frames; raise it")
    cast = _on_meta(lambda: build_cast(config, _weightless(config, card), teacher, torch.device("meta"), data.decode))
    for _ in cast.subjects(settings.teacher_steps, settings.student_steps):
        pass


def _check_same_training(config: DictConfig, path: Path, saved: Mapping[str, Any]) -> None:
    """A training goes on as it was: what is changed now would be recorded, and change nothing or half of it."""
    nodes = ("module", "network", "noising", "rollout", "data", "seed")
    before, after = (flat({key: values.get(key) for key in nodes}) for values in (saved, plain(config)))
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key) and key not in PLACES]
    if changed:
        shown = "; ".join(f"{key}={before.get(key)} then, {after.get(key)} now" for key in changed[:6])
        raise ValueError(
            f"{path} is of a training with other settings: {shown}. Continue it as it was, or start another run "
            f"(without ckpt_path; module.start and module.teacher.ckpt_path begin from a file's weights)"
        )


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
        # Half of the clips are continued, half are the real reference.
        if split != "train" and count_windows(reader, frames) < 2:
            raise ValueError(
                f"{key} is {frames} frames, of which {data.name} has a single clip in {split}; two are needed, lower it"
            )


def _weightless(config: DictConfig, card: Card) -> NetworkFile:
    network = _on_meta(instantiate(plain_node(config, "network"), _convert_="all"))
    weights: dict[str, Tensor] = network.state_dict()
    return NetworkFile(weights, card, "")


def _on_meta(make: Callable[[], Any]) -> Any:
    with torch.device("meta"):
        return make()
