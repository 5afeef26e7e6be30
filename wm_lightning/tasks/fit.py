"""One training: module, trainer, fit, and the export of what it deploys."""

import logging
from pathlib import Path

import torch
from hydra.utils import instantiate
from lightning import Trainer
from omegaconf import DictConfig

from wm_lightning.card import Card
from wm_lightning.checkpoints import NetworkFile, load_into, read_network, save_network
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.tasks.build import build_module, build_trainer, plain_node, resume_path

log = logging.getLogger(__name__)


def fit(config: DictConfig, data: ClipDataModule, card: Card, file: NetworkFile | None) -> Trainer:
    """Trains `config.module` on the data, from the start (and what `file` holds) or from its checkpoint."""
    module = build_module(config, card, file)
    trainer, path = build_trainer(config), resume_path(config)
    if path is not None:
        log.info("Continuing %s", path)
    elif config.ckpt_path == "last":
        log.info("No checkpoint in %s yet: starting from the beginning", config.run_dir)
    trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
    if module.skipped:
        log.warning("%d updates were skipped because their gradient was not finite", int(module.skipped))
    return trainer


def best_checkpoint(config: DictConfig) -> Path:
    """The checkpoint of the best validation, or the last one where nothing was validated."""
    folder = Path(config.run_dir) / "checkpoints"
    best = folder / "best.ckpt"
    return best if best.is_file() else folder / "last.ckpt"


def deployed_file(config: DictConfig, source: Path, expected: Card, start: NetworkFile | None) -> NetworkFile:
    """The deployed network of a checkpoint; that of one which holds adapters is `start` with them merged into it."""
    if config.module.get("lora") is None or source.suffix != ".ckpt":
        return read_network(source, expected)
    # Here: what a run does not use must not be part of what its results were made by.
    from wm_lightning.adapted_checkpoints import read_adapted  # noqa: PLC0415

    assert start is not None
    return read_adapted(source, start)


def export(
    config: DictConfig, source: Path, expected: Card, target: Path, start: NetworkFile | None = None
) -> NetworkFile:
    """Writes a checkpoint's deployed network in bfloat16 with its card, and reads it back as others will."""
    file = deployed_file(config, source, expected, start)
    network = instantiate(plain_node(config, "network"), _convert_="all")()
    load_into(network, file, str(source))
    save_network(target, network, file.card, torch.bfloat16)
    return read_network(target, expected)
