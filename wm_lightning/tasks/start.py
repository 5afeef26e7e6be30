"""What every task begins with: the config checked and recorded, seeds and compute settings applied."""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from wm_lightning.config_check import check
from wm_lightning.config_overrides import refuse_unread
from wm_lightning.config_record import save_record
from wm_lightning.tasks.quiet import quiet

TRAIN = "wm_lightning.tasks.train.train"
# Reads and writes files only: of its config its own part is checked, and torch, which takes seconds, is not imported.
REPORT = "wm_lightning.tasks.report.Report"


def start(config: DictConfig, overrides: Sequence[str]) -> dict[str, float] | None:
    """Runs `config.task` in the folder `config.run_dir`; returns what the task measured, if anything.

    The whole config is checked before anything is built, a training's parts before the run folder is
    touched. Raises ValueError (ConfigError for the config's form) for what cannot be used.
    """
    quiet()
    folder, trains, computes = Path(config.run_dir), config.task["_target_"] == TRAIN, config.task["_target_"] != REPORT
    with _removed_where_refused(folder):
        check(config if computes else OmegaConf.create({"task": config.task, "metrics": _targets(config)}))
        if trains or not str(config.ckpt_path).endswith(".ckpt"):  # which brings words of its own along
            refuse_unread(config, overrides)
        if computes:
            # Before a training's time is estimated, which depends on threads and precision.
            _prepare(config)
        if trains:
            from wm_lightning.tasks.preflight import check_training  # noqa: PLC0415  loads torch

            check_training(config)
    # Another task in a training's folder leaves its record, by which it is found and continued.
    if _first_rank() and (trains or not (folder / "config.yaml").is_file()):
        save_record(config, overrides, folder)
    if computes:
        _seed(config)
    try:
        return instantiate(config.task)(config)
    except (KeyboardInterrupt, SystemExit) as stop:
        # Lightning ends a training that was interrupted with exit code 1, after its checkpoints.
        if isinstance(stop, SystemExit) and stop.code != 1:
            raise
        last = folder / "checkpoints" / "last.ckpt"
        how = f"; the same command with run_dir={folder} ckpt_path=last goes on from there" if last.is_file() else ""
        print(f"\nInterrupted{how}.", file=sys.stderr)
        raise SystemExit(130) from None


def _prepare(config: DictConfig) -> None:
    """How torch computes."""
    if config.compute is not None:
        instantiate(config.compute)()


def _seed(config: DictConfig) -> None:
    from lightning.pytorch import seed_everything  # noqa: PLC0415  loads torch

    seed_everything(config.seed, workers=True, verbose=False)


def _targets(config: DictConfig) -> dict[str, Any]:
    return {"targets": config.metrics.get("targets")}


@contextmanager
def _removed_where_refused(folder: Path) -> Iterator[None]:
    """A refused start leaves no folder: Hydra has made it, with a log, before anything could be checked."""
    try:
        yield
    except (ValueError, HydraException):
        if folder.is_dir() and {path.name for path in folder.iterdir()} <= {"run.log"}:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _first_rank() -> bool:
    return int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_PROCID", "0"))) == 0
