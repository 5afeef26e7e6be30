"""How far a training is: a bar for a terminal, and a line per validation for log files."""

import logging
import time
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme
from rich import get_console
from rich.progress import ProgressColumn, Task, TextColumn
from rich.text import Text

log = logging.getLogger(__name__)


# From this width on there is room for a bar, steps and speed beside what one waits for.
WIDE = 110


class TrainingBar(RichProgressBar):
    """Lightning's bar for a training of one epoch, readable from 80 columns on.

    Share done, time left and numbers to three digits come first; in a narrow terminal all else gives way to them.
    """

    def __init__(self) -> None:
        super().__init__(leave=True, theme=RichProgressBarTheme(metrics_format=".3g"))

    def configure_columns(self, trainer: Trainer) -> list[ProgressColumn]:
        """What stands in a line; Lightning adds the logged values."""
        share, left = TextColumn("{task.percentage:>3.0f}%"), TimeLeftColumn()
        if get_console().width < WIDE:
            return [TextColumn("{task.description}"), share, left]
        description, bar, steps, _, speed = super().configure_columns(trainer)
        return [description, bar, share, steps, left, speed]

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The logged values that are worth a place, by their own names: `critic`, not `train/critic`."""
        found = super().get_metrics(trainer, pl_module)
        return {name.rsplit("/", 1)[-1]: value for name, value in found.items() if name != "v_num"}

    def _get_train_description(self, current_epoch: int) -> str:
        return "training"


class TimeLeftColumn(ProgressColumn):
    """Hours, minutes and seconds to go; what the whole took where it is done."""

    max_refresh = 0.5  # seconds: faster it jitters

    def render(self, task: Task) -> Text:
        """One word at least as long as `-:--:-- left`."""
        if task.finished:
            return Text(f"{_clock(task.finished_time)} took")
        return Text(f"{_clock(task.time_remaining)} left")


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


def _clock(seconds: float | int | None) -> str:
    return "-:--:--" if seconds is None else str(timedelta(seconds=int(seconds)))


def _count(module: LightningModule, name: str) -> int:
    return int(getattr(module, name))
