"""What a training would refuse only after other work, refused before anything is written."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from wm_lightning.card import Card
from wm_lightning.checkpoint_io import fall_back
from wm_lightning.checkpoints import NetworkFile, read_resumable
from wm_lightning.config_record import flat, plain
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.data.windows import count_windows
from wm_lightning.tasks.build import build_trainer, declare_actions, kind_of, resume_path, without
from wm_lightning.tasks.estimate import say_and_check
from wm_lightning.tasks.evaluate import build_cast, require
from wm_lightning.tasks.judging import TableSettings
from wm_lightning.tasks.planned import on_meta, plan_training, weightless

log = logging.getLogger(__name__)

# Where things lie: what lies there is held against the card and the key of the latent cache.
PLACES = (
    "data.root", "data.films", "data.latents", "data.autoencoder.weights", "data.autoencoder.folder",
    "data.encoders.folder",
)  # fmt: skip


def check_training(config: DictConfig) -> None:
    """Raises ValueError where settings, checkpoints or data could not be trained on and measured.

    Modules are built without memory (on the meta device), so this takes moments at any size. Simulated
    data are left in the cache, whole.
    """
    given, config = config, without(config, {})
    data: ClipDataModule = instantiate(config.data, _convert_="all")
    declare_actions(config, data)
    if executor := kind_of(config) == "executor":
        # Here: what a run does not use must not be part of what its results were made by.
        from wm_lightning.tasks.roles_check import check_roles, with_tasks  # noqa: PLC0415

        with_tasks(data)  # before its base is held against a network for other pictures
        plan = plan_training(config, data)
        check_roles(config, data, plan.trainings[-1].file)
    else:
        plan = plan_training(config, data)
        _check_table(config, plan.card, plan.teacher, data)
    _check_strategy(config)
    build_trainer(config)
    _mend(config)
    if (path := resume_path(config)) is not None:
        _check_same_training(given, Path(path), read_resumable(Path(path), plan.card))
    say_and_check(config, plan)
    data.prepare_data()
    if not executor:  # whose clips are single pictures
        _check_lengths(config, data)


def _check_table(config: DictConfig, card: Card, teacher: NetworkFile | None, data: ClipDataModule) -> None:
    """The rows of the table at the end: masks, commits and numbers of steps."""
    settings: TableSettings = instantiate(config.metrics, _convert_="all")
    require(card, config, settings.context, settings.context + settings.horizon)
    # A chunk longer than the clips of training is their length: it ends where they do.
    chunk = min(config.rollout.chunk, max(1, data.frames - config.module.context))
    if settings.horizon < chunk:
        raise ValueError(f"metrics.horizon={settings.horizon} is shorter than a chunk of {chunk} frames; raise it")
    cast = on_meta(lambda: build_cast(config, weightless(config, card), teacher, torch.device("meta"), data.decode))
    for _ in cast.subjects(settings.teacher_steps, settings.student_steps):
        pass


def _check_strategy(config: DictConfig) -> None:
    if str(config.trainer.get("strategy")).startswith("fsdp"):
        raise ValueError(
            f"trainer.strategy={config.trainer.strategy} is FSDP1, with which Lightning lets no module step its "
            f"optimizers itself, as all of this suite do; trainer=fsdp shards by FSDP2"
        )


def _mend(config: DictConfig) -> None:
    """A damaged last checkpoint gives its name to the one before it: a run goes on from there, and says so."""
    folder = Path(config.run_dir) / "checkpoints"
    if config.ckpt_path == "last" and (wrong := fall_back(folder / "last.ckpt", folder / "previous.ckpt")):
        log.warning("%s is damaged (%s). Going on from the checkpoint before it", folder / "last.ckpt", wrong)


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
