"""How far a training is: a bar for a terminal, and a line per validation for log files."""

import logging
import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme

log = logging.getLogger(__name__)


class TrainingBar(RichProgressBar):
    """Lightning's bar for a training of one epoch: named so, numbers to three digits, no version of the logger."""

    def __init__(self) -> None:
        super().__init__(leave=True, theme=RichProgressBarTheme(metrics_format=".3g"))

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The logged values that are worth a place."""
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}

    def _get_train_description(self, current_epoch: int) -> str:
        return "training"


class ProgressLog(Callback):
    """A line in the log after every validation: iteration, score (less is better), time left."""

    def __init__(self) -> None:
        self.started, self.first = 0.0, 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remembers when and where this training began or went on."""
        self.started, self.first = time.monotonic(), _count(pl_module, "iterations")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says where it is."""
        if trainer.sanity_checking or trainer.state.fn != "fit" or not trainer.is_global_zero:
            return
        done, total = _count(pl_module, "iterations"), _count(pl_module, "total_iterations")
        left = (time.monotonic() - self.started) / max(1, done - self.first) * (total - done)
        score = float(torch.as_tensor(trainer.callback_metrics.get("val/score", torch.nan)))
        log.info("Iteration %d of %d: val/score %.4g (less is better), about %.0f s left", done, total, score, left)


def _count(module: LightningModule, name: str) -> int:
    return int(getattr(module, name))
