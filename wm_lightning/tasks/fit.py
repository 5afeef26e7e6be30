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


def export(config: DictConfig, source: Path, expected: Card, target: Path) -> NetworkFile:
    """Writes a checkpoint's deployed network in bfloat16 with its card, and reads it back as others will."""
    file = read_network(source, expected)
    network = instantiate(plain_node(config, "network"), _convert_="all")()
    load_into(network, file, str(source))
    save_network(target, network, file.card, torch.bfloat16)
    return read_network(target, expected)
