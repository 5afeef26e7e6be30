"""Checkpoint files that are either the old one or the new one, whole, whenever the machine stops."""

import contextlib
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from wm_lightning.plain_files import read_plain

_PARTIAL = ".partial"
# What damaged archives make their reader raise.
_TORN = (BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, ValueError, struct.error, zlib.error)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to the disk, then renames; loads tensors and plain containers only."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any | None = None
    ) -> None:
        """Replaces the file at `path`. Raises TypeError for storage options, which local files have none of.

        Raises ValueError where it cannot be written, as on a full disk; the file that was there is left as it was.
        """
        if storage_options is not None:
            raise TypeError(f"storage_options={storage_options} given, but checkpoints are local files")
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + _PARTIAL)
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:  # torch's writer ends with an error of its own
            partial.unlink(missing_ok=True)  # which takes room that is missing
            raise ValueError(
                f"{target} cannot be written ({_first(error)}); what was there before is whole. Make room on its disk "
                f"and go on from there, with the same run_dir and ckpt_path=last"
            ) from error
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


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint's bytes, None where each part is what was written. Reads the whole file."""
    try:
        with ZipFile(path) as parts:
            torn = parts.testzip()
    except _TORN as error:
        return str(error) or type(error).__name__
    return None if torn is None else f"its part {torn} is not what was written"


def fall_back(last: Path, previous: Path) -> str | None:
    """Gives the checkpoint `previous` the name of a damaged `last` too, and returns what was wrong with that one.

    The damaged file is kept beside it under another name, and at no moment is there none. Does nothing, and returns
    None, where `last` is sound or absent, or where `previous` is no better. Several ranks may do so at a time.
    """
    if not last.is_file() or (wrong := damage(last)) is None or not previous.is_file() or damage(previous) is not None:
        return None
    kept = last.with_name(f"{last.name}.damaged-{last.stat().st_mtime_ns}")
    with contextlib.suppress(FileExistsError):
        os.link(last, kept)
    partial = last.with_name(f"{last.name}.{os.getpid()}{_PARTIAL}")
    os.link(previous, partial)
    os.replace(partial, last)
    return f"{wrong}; it is now {kept.name}"


def remove_partials(folder: Path) -> list[Path]:
    """Deletes what interrupted writes left in `folder`; returns the deleted paths."""
    stale = sorted(folder.glob(f"*{_PARTIAL}"))
    for path in stale:
        path.unlink()
    return stale


def _first(error: BaseException) -> str:
    """What the system said, which torch's writer hides behind words about its archive."""
    before = error.__context__
    return str(before if isinstance(before, OSError) else error)


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself durable; Windows has no such call and needs none."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
