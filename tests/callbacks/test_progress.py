"""The bar's and the log's words about a training."""

import wm_lightning  # noqa: F401, I001  (before lightning: it makes a CPU torch and torchvision agree)

import logging
import re
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader

from wm_lightning.callbacks import progress
from wm_lightning.callbacks.progress import ProgressLog, TrainingBar

BATCHES = 6


class Counting(LightningModule):
    """Counts its iterations and scores them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.iterations, self.total_iterations = nn.Linear(1, 1), 0, BATCHES

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.iterations += 1
        self.log("train/critic", torch.tensor(7.6e-6), prog_bar=True)
        return self.layer(batch).square().mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val/score", 1.0 / self.iterations, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer_with(folder: Path, *callbacks: Any, **settings: Any) -> Trainer:
    bar = any(isinstance(callback, TrainingBar) for callback in callbacks)
    return Trainer(
        accelerator="cpu", max_epochs=1, check_val_every_n_epoch=None, val_check_interval=2, num_sanity_val_steps=0,
        logger=False, enable_progress_bar=bar, enable_model_summary=False, enable_checkpointing=False,
        default_root_dir=folder, callbacks=list(callbacks), **settings,
    )  # fmt: skip


def clips() -> DataLoader:
    return DataLoader(torch.ones(BATCHES, 1))


def test_every_validation_is_a_line_with_score_and_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = count(0, 30)  # two iterations take half a minute
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    trainer = trainer_with(tmp_path, ProgressLog())
    with caplog.at_level(logging.INFO, logger="wm_lightning"):
        trainer.fit(Counting(), clips(), DataLoader(torch.ones(2, 1)))
    lines = [line for line in caplog.messages if line.startswith("Iteration")]
    expected = {2: ("0.5", 60), 4: ("0.25", 30), 6: ("0.1667", 0)}
    assert lines == [
        f"Iteration {iteration} of 6: val/score {score} (less is better), about {left} s left"
        for iteration, (score, left) in expected.items()
    ]


class Distilling(Counting):
    """Shows as many values as a distillation, with the longest names and numbers."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.log("train/student", torch.tensor(7.68e-6), prog_bar=True)
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("width", [80, 160])
def test_the_bar_fits_its_terminal(
    width: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(width=width, force_terminal=True, color_system=None)
    for module in ("wm_lightning.callbacks.progress", "lightning.pytorch.callbacks.progress.rich_progress"):
        monkeypatch.setattr(f"{module}.get_console", lambda: console)
    # Lightning gives the console new settings with every bar, which would undo the width.
    monkeypatch.setattr("lightning.pytorch.callbacks.progress.rich_progress.reconfigure", lambda **settings: None)
    trainer_with(tmp_path, TrainingBar()).fit(Distilling(), clips(), DataLoader(torch.ones(2, 1)))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().out)
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.startswith("training")]
    assert lines and max(map(len, lines)) <= width
    last = lines[-1]
    assert re.search(r"training .*100% .*\d:\d\d:\d\d took", last), last
    assert "student: 7.68e-06 critic: 7.6e-06 score: 0.167" in last
    assert ("it/s" in last) == (width == 160), "the rest gives way where there is no room"


def test_the_bar_names_a_training_and_keeps_small_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer_with(tmp_path, TrainingBar()).fit(Counting(), clips(), DataLoader(torch.ones(2, 1)))
    said = capsys.readouterr().out
    assert "training" in said and "7.6e-06" in said
    assert "v_num" not in said and "Epoch" not in said
