"""When checkpoints are written: `last.ckpt` by the module's own iterations, `best.ckpt` by a validated metric."""

import logging
import math
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from wm_lightning.checkpoint_io import keep_previous, remove_partials
from wm_lightning.launchers.stopping import STOPPED, Notice, tell_stopped

log = logging.getLogger(__name__)

_MODES = ("min", "max")
# Ranks end together, and agree on it at every such iteration: seldom enough to cost nothing.
_AGREED_EVERY = 10


class IterationCheckpoint(Checkpoint):
    """Keeps `last.ckpt` (and the one before it as `previous.ckpt`) and `best.ckpt` in `<run_dir>/checkpoints`.

    The module counts: `module.iterations` is an int that training steps raise. Where a validation
    follows an iteration that is due, the file is written after it, because a run that continues
    from before would skip that validation.

    A training that is told to stop (SIGUSR1 or SIGTERM) ends with a file of the iteration it is in, after the
    validation that follows it if one does, and the exit code STOPPED.
    """

    def __init__(self, *, run_dir: str, every: int, monitor: str | None, mode: str, save_best: bool) -> None:
        if every < 1:
            raise ValueError(f"callbacks.checkpoint.every is {every}; it counts iterations, give 1 or more")
        if mode not in _MODES:
            raise ValueError(f"callbacks.checkpoint.mode is {mode}; give one of {', '.join(_MODES)}")
        self.folder = Path(run_dir) / "checkpoints"
        self.every = every
        self.monitor = monitor if save_best else None
        self.mode = mode
        self.best: float | None = None
        self.best_iteration: int | None = None
        self.saved_iteration: int | None = None
        self.notice = Notice()

    @property
    def last_path(self) -> Path:
        """The newest checkpoint."""
        return self.folder / "last.ckpt"

    @property
    def best_path(self) -> Path:
        """The checkpoint of the best validation so far."""
        return self.folder / "best.ckpt"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Makes the folder and clears what an interrupted write left."""
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_partials(self.folder)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens from here on, in place of Lightning's handlers, which would queue a Slurm job again by themselves."""
        self.notice.listen()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves every `every` iterations, unless a validation comes first."""
        if _validation_follows(trainer, batch_idx):
            return
        if self._due(pl_module):
            self._save_last(trainer, pl_module)
        if trainer.world_size == 1 or _iterations(pl_module) % _AGREED_EVERY == 0:
            self._stop_if_told(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the best, then the last if it is due. Raises ValueError where the metric was never logged."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self.monitor is not None and self._improves(trainer, self.monitor):
            self.best_iteration = _iterations(pl_module)
            trainer.save_checkpoint(self.best_path)
        if self._due(pl_module):
            self._save_last(trainer, pl_module)
        self._stop_if_told(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the end of the training, and hands the signals back."""
        self.notice.close()
        if self.saved_iteration != _iterations(pl_module):
            self._save_last(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Best score so far and where it was reached, so that a continued run compares with it."""
        return {"best": self.best, "best_iteration": self.best_iteration, "saved_iteration": self.saved_iteration}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of `state_dict`; a best score whose file is elsewhere counts no more."""
        there = self.best_path.is_file()
        self.best = state_dict["best"] if there else None
        self.best_iteration = state_dict["best_iteration"] if there else None
        if not there and state_dict["best"] is not None:
            log.warning("%s is not there: the best checkpoint is looked for among what follows", self.best_path)
        self.saved_iteration = state_dict["saved_iteration"]

    def _due(self, module: LightningModule) -> bool:
        iterations = _iterations(module)
        return iterations != self.saved_iteration and iterations > 0 and iterations % self.every == 0

    def _save_last(self, trainer: Trainer, module: LightningModule) -> None:
        self.saved_iteration = _iterations(module)
        if trainer.is_global_zero:
            keep_previous(self.last_path, self.folder / "previous.ckpt")
        trainer.save_checkpoint(self.last_path)

    def _stop_if_told(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.strategy.reduce_boolean_decision(self.notice.number is not None, all=False):
            return
        if self.saved_iteration != _iterations(module):
            self._save_last(trainer, module)
        if trainer.is_global_zero:
            log.warning(
                "Told to stop: saved at iteration %d; the same command with run_dir=%s ckpt_path=last goes on",
                _iterations(module),
                self.folder.parent,
            )
            tell_stopped()
        raise SystemExit(STOPPED)

    def _improves(self, trainer: Trainer, monitor: str) -> bool:
        logged = trainer.callback_metrics
        if monitor not in logged:
            known = ", ".join(sorted(logged)) or "nothing"
            raise ValueError(f"callbacks.checkpoint.monitor={monitor} was not logged in validation; logged: {known}")
        # Saving is a step of all ranks together, so one of them decides.
        score = float(trainer.strategy.broadcast(float(torch.as_tensor(logged[monitor]))))
        sign = 1.0 if self.mode == "min" else -1.0
        if math.isnan(score) or (self.best is not None and sign * score >= sign * self.best):
            return False
        self.best = score
        return True


def _iterations(module: LightningModule) -> int:
    return int(module.iterations)  # pyright: ignore[reportArgumentType]  a module's attributes are untyped


def _validation_follows(trainer: Trainer, batch_idx: int) -> bool:
    """Whether the Trainer validates after this batch (an epoch is the whole training here)."""
    if not trainer.enable_validation:
        return False
    interval = trainer.val_check_batch
    return interval is not None and math.isfinite(interval) and (batch_idx + 1) % int(interval) == 0
