"""Stores in every checkpoint, and in the run folder, what the run was made from."""

import json
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import OmegaConf

from wm_lightning.config_record import config_hash
from wm_lightning.environment import environment, revision


class Provenance(Callback):
    """Puts config, overrides, config hash, revision and environment under `provenance` in checkpoints.

    Config and overrides are the record in `run_dir` (resolved, plain, without keys). They are a
    record only: nothing is ever built from the config inside a checkpoint.
    """

    def __init__(self, *, run_dir: str) -> None:
        self.folder = Path(run_dir)
        self.content: dict[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Reads the record once and writes `environment.json`. Raises ValueError where there is no record."""
        config = _read(self.folder / "config.yaml")
        self.content = {
            "config": config,
            "overrides": _read(self.folder / "overrides.yaml"),
            "config_hash": config_hash(config),
            "revision": revision(),
            "environment": environment(),
        }
        if trainer.is_global_zero:
            written = {key: self.content[key] for key in ("config_hash", "revision", "environment")}
            (self.folder / "environment.json").write_text(json.dumps(written, indent=2) + "\n")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds the record to what is saved."""
        checkpoint["provenance"] = self.content


def _read(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"{path} is not there, so checkpoints could not say what they are; start through run.py")
    return OmegaConf.to_container(OmegaConf.load(path), resolve=True)
