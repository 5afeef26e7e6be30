"""Files and folders that are there whole or not at all: written beside their place, then renamed."""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A partial path to write to; it takes the place of `path` on success and is removed on failure."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A partial folder to write into; it becomes `folder` on success, unless another process was faster."""
    _remove_stale(folder)
    partial = folder.with_name(f"{_prefix(folder)}{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _prefix(folder: Path) -> str:
    return f"{folder.name}.partial-{socket.gethostname()}-"


def _remove_stale(folder: Path) -> None:
    # Only partials of this machine whose process is gone: another node may be writing into a shared cache.
    for partial in folder.parent.glob(f"{_prefix(folder)}*"):
        process = partial.name.removeprefix(_prefix(folder))
        if process.isdigit() and not _alive(int(process)):
            shutil.rmtree(partial, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
