"""Pickles that hold NumPy arrays and plain containers, read without running what else they may bring."""

import io
import pickle
from pathlib import Path
from typing import Any

from wm_lightning.data.formats.video_files import BadFile

# How NumPy arrays, their types and numbers are rebuilt, under the names of NumPy 1 and 2.
ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *(
        (module, name)
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name in ("_reconstruct", "scalar")
    ),
    *((module, "_frombuffer") for module in ("numpy.core.numeric", "numpy._core.numeric")),
    ("_codecs", "encode"),
}

# What an unpickler raises for damaged bytes.
DAMAGED = (
    *(pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, KeyError, TypeError, OSError),
    *(ValueError, OverflowError, MemoryError),
)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is neither an array nor a plain value")
        return super().find_class(module, name)


def read_arrays(path: Path) -> Any:
    """The content of a pickle. Raises BadFile where it is damaged or names anything but arrays and plain values."""
    try:
        return _Unpickler(io.BytesIO(path.read_bytes())).load()
    except DAMAGED as error:
        raise BadFile(path, f"cannot be read as a pickle of arrays ({error})") from error
