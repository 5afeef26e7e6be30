"""One training: module, trainer, fit, and the export of what it deploys."""

import logging
from pathlib import Path

import torch
from lightning import Trainer
from omegaconf import DictConfig

from wm_lightning.card import Card
from wm_lightning.checkpoints import NetworkFile, read_network, save_network
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.modules.base import WorldModelModule
from wm_lightning.tasks.build import build_module, build_trainer, resume_path

log = logging.getLogger(__name__)


def fit(
    config: DictConfig, data: ClipDataModule, card: Card, teacher: NetworkFile | None, *, export: Path | None = None
) -> tuple[WorldModelModule, Trainer]:
    """Trains `config.module` on the data, from the start or from its checkpoint.

    With `export` the best validated network is written there in bfloat16, with its card.
    """
    module = build_module(config, card, teacher)
    trainer = build_trainer(config)
    trainer.fit(module, datamodule=data, ckpt_path=resume_path(config), weights_only=True)
    if module.skipped:
        log.warning("%d updates were skipped because their gradient was not finite", int(module.skipped))
    if export is not None and trainer.is_global_zero:
        best = best_checkpoint(config)
        file = read_network(best, card)
        module.deployed.load_state_dict(dict(file.weights))
        save_network(export, module.deployed, file.card, torch.bfloat16)
    trainer.strategy.barrier()
    return module, trainer


def best_checkpoint(config: DictConfig) -> Path:
    """The checkpoint of the best validation, or the last one where nothing was validated."""
    folder = Path(config.run_dir) / "checkpoints"
    best = folder / "best.ckpt"
    return best if best.is_file() else folder / "last.ckpt"


