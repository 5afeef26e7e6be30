"""Checkpoint files that are either the old one or the new one, whole, whenever the machine stops."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from wm_lightning.plain_files import read_plain

_PARTIAL = ".partial"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to the disk, then renames; loads tensors and plain containers only."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any | None = None
    ) -> None:
        """Replaces the file at `path`. Raises TypeError for storage options, which local files have none of."""
        if storage_options is not None:
            raise TypeError(f"storage_options={storage_options} given, but checkpoints are local files")
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + _PARTIAL)
        with partial.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
        _sync_folder(target.parent)

    def load_checkpoint(
        self,
        path: str | os.PathLike,
        map_location: Callable | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """The content of a local file, on the CPU unless told otherwise.

        Raises ValueError where the file is missing or cannot be read as a safe checkpoint, and for
        `weights_only=False`, which would run code that the file brings along.
        """
        if weights_only is False:
            raise ValueError(f"{path} was to be loaded with weights_only=False; checkpoints hold no code here")
        if not Path(path).is_file():
            raise ValueError(f"{path}: there is no such checkpoint; give ckpt_path=FILE")
        return read_plain(Path(path), map_location)

    def remove_checkpoint(self, path: str | os.PathLike) -> None:
        """Deletes the file if it is there."""
        Path(path).unlink(missing_ok=True)


def keep_previous(path: Path, previous: Path) -> None:
    """Gives the file at `path`, if any, the second name `previous`; at no moment is either name missing."""
    if not path.is_file():
        return
    partial = previous.with_name(previous.name + _PARTIAL)
    partial.unlink(missing_ok=True)
    os.link(path, partial)
    os.replace(partial, previous)


def remove_partials(folder: Path) -> list[Path]:
    """Deletes what interrupted writes left in `folder`; returns the deleted paths."""
    stale = sorted(folder.glob(f"*{_PARTIAL}"))
    for path in stale:
        path.unlink()
    return stale


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself durable; Windows has no such call and needs none."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
