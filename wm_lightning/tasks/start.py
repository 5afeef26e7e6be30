"""What every task begins with: the config checked and recorded, seeds and compute settings applied."""

import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from wm_lightning.config_check import check
from wm_lightning.config_errors import refusal
from wm_lightning.config_overrides import refuse_unread
from wm_lightning.config_record import RECORD, save_record
from wm_lightning.launchers.stopping import INTERRUPTED
from wm_lightning.tasks.quiet import quiet

TRAIN = "wm_lightning.tasks.train.train"
# Reads and writes files only: of its config its own part is checked, and torch, which takes seconds, is not imported.
REPORT = "wm_lightning.tasks.report.Report"
LOG = "run.log"  # which Hydra makes


def start(config: DictConfig, overrides: Sequence[str]) -> dict[str, float] | None:
    """Runs `config.task` in the folder `config.run_dir`; returns what the task measured, if anything.

    The whole config is checked before anything is built, a training's parts before the run folder is
    touched. Raises ValueError (ConfigError for the config's form) for what cannot be used.
    """
    quiet()
    with _removed_where_refused(Path(config.run_dir)):
        _check(config, overrides)
        return _perform(config, overrides)


def _check(config: DictConfig, overrides: Sequence[str]) -> None:
    trains, computes = config.task["_target_"] == TRAIN, config.task["_target_"] != REPORT
    check(config if computes else OmegaConf.create({"task": config.task, "metrics": _targets(config)}))
    if trains or not str(config.ckpt_path).endswith(".ckpt"):  # which brings words of its own along
        refuse_unread(config, overrides)
    if computes:
        # Before a training's time is estimated, which depends on threads and precision.
        _prepare(config)
    if trains:
        from wm_lightning.tasks.preflight import check_training  # noqa: PLC0415  loads torch

        check_training(config)


def _perform(config: DictConfig, overrides: Sequence[str]) -> dict[str, float] | None:
    folder, target = Path(config.run_dir), config.task["_target_"]
    # Another task in a training's folder leaves its record, by which it is found and continued.
    if _first_rank() and (target == TRAIN or not (folder / "config.yaml").is_file()):
        save_record(config, overrides, folder)
    if target != REPORT:
        _seed(config)
    with _noted_interrupts() as interrupts:
        try:
            return instantiate(config.task)(config)
        except BaseException as stop:
            if not interrupts and not isinstance(stop, KeyboardInterrupt):
                raise
        last = folder / "checkpoints" / "last.ckpt"
        how = f"; the same command with run_dir={folder} ckpt_path=last goes on from there" if last.is_file() else ""
        print(f"\nInterrupted{how}.", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


@contextmanager
def _noted_interrupts() -> Iterator[list[int]]:
    """The interrupts that come (SIGINT), for what they raise does not always say so.

    Lightning ends an interrupted training with SystemExit, after its checkpoints, and a reader of files in
    another language raises its own error around KeyboardInterrupt, like that of a damaged file.
    """
    interrupts: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    # Where Ctrl-C is ignored, or somebody else's, it stays so; and threads cannot set it.
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not heeded or threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
    """A refused command leaves no folder: Hydra has made it, with a log, before anything could be checked.

    One that held more before, or by now holds what the task made, stays; so does the record of an error that is a bug.
    """
    holds = lambda: {path.name for path in folder.iterdir()} if folder.is_dir() else set()  # noqa: E731
    fresh = holds() <= {LOG}
    try:
        yield
    except (ValueError, HydraException) as error:
        left = holds()
        if fresh and (left <= {LOG} or (left <= {LOG, *RECORD} and refusal(error) is not None)):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _first_rank() -> bool:
    return int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_PROCID", "0"))) == 0
