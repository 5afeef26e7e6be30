"""What every task begins with: the config checked and recorded, seeds and compute settings applied."""

import os
from collections.abc import Sequence
from pathlib import Path

from hydra.utils import instantiate
from lightning.pytorch import seed_everything
from omegaconf import DictConfig

from wm_lightning.config_check import check
from wm_lightning.config_record import save_record
from wm_lightning.tasks.preflight import check_training
from wm_lightning.tasks.quiet import quiet

TRAIN = "wm_lightning.tasks.train.train"


def start(config: DictConfig, overrides: Sequence[str]) -> dict[str, float] | None:
    """Runs `config.task` in the folder `config.run_dir`; returns what the task measured, if anything.

    The whole config is checked before anything is built, a training's parts before the run folder is
    touched. Raises ValueError (ConfigError for the config's form) for what cannot be used.
    """
    quiet()
    check(config)
    folder, trains = Path(config.run_dir), config.task["_target_"] == TRAIN
    if trains:
        check_training(config)
    # Another task in a training's folder leaves its record, by which it is found and continued.
    if _first_rank() and (trains or not (folder / "config.yaml").is_file()):
        save_record(config, overrides, folder)
    seed_everything(config.seed, workers=True, verbose=False)
    if config.compute is not None:
        instantiate(config.compute)()
    return instantiate(config.task)(config)


def _first_rank() -> bool:
    return int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_PROCID", "0"))) == 0
