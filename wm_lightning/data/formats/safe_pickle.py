"""Pickles that hold NumPy arrays and plain containers, read without running what else they may bring.

No function or class of another package is handed to a pickle: what it may call are stand-ins made here, which note what
an array is to be and refuse to be altered. Arrays are made of these notes afterwards.
"""

import io
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wm_lightning.data.formats.video_files import BadFile

# Numbers and texts, as NumPy writes them: objects, structures and dates are none.
TYPE = re.compile(r"[biufcSU]\d+")
PLAIN = (bool, int, float, complex, str, bytes, type(None), np.ndarray)

# What an unpickler raises for damaged bytes.
DAMAGED = (
    *(pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, KeyError, TypeError, OSError),
    *(ValueError, OverflowError, MemoryError, RecursionError),
)


def read_arrays(path: Path) -> Any:
    """The content of a pickle. Raises BadFile where it is damaged or names anything but arrays and plain values."""
    try:
        return _finished(_Unpickler(io.BytesIO(path.read_bytes())).load(), {})
    except DAMAGED as error:
        raise BadFile(path, f"cannot be read as a pickle of arrays ({error})") from error


class _Call:
    """Something that a pickle may call. Nothing can be set on it: an unpickler sets what a pickle says on anything."""

    __slots__ = ("_run",)
    _run: Callable[..., Any]

    def __init__(self, run: Callable[..., Any]) -> None:
        object.__setattr__(self, "_run", run)

    def __call__(self, *arguments: Any) -> Any:
        return self._run(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError("it alters what it calls")


class _Type:
    """An element type to be, of which `__setstate__` is told the byte order."""

    __slots__ = ("found",)

    def __init__(self, text: str, align: object = False, copy: object = False) -> None:
        if not isinstance(text, str) or not TYPE.fullmatch(text):
            raise pickle.UnpicklingError(f"it has arrays of {text!r}, numbers or texts are expected")
        self.found = np.dtype(text)

    def __setstate__(self, state: tuple) -> None:
        _, order, *parts = state
        if order not in ("<", ">", "|", "=") or any(part is not None for part in parts[:3]):
            raise pickle.UnpicklingError("it has arrays of structures, numbers or texts are expected")
        self.found = self.found.newbyteorder(order)


class _Array:
    """An array to be, of which `__setstate__` is told the content."""

    __slots__ = ("found",)

    def __init__(self) -> None:
        self.found: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, fortran, data = state
        self.found = _array(data, kind, shape, "F" if fortran else "C")


def _array(data: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(kind, _Type) or not isinstance(data, bytes | bytearray) or order not in ("C", "F"):
        raise pickle.UnpicklingError("it has an array that is not made of bytes")
    made = np.ndarray(shape, kind.found, buffer=data, order=order)
    if made.nbytes != len(data):
        raise pickle.UnpicklingError(f"it has {len(data)} bytes for an array of {made.nbytes}")
    return made.copy()


def _scalar(kind: Any, data: Any) -> Any:
    return _array(data, kind, (), "C")[()]


def _encoded(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes as {encoding!r}, which no array needs")
    return text.encode("latin1")


_CALLS: Mapping[tuple[str, str], _Call] = {
    ("numpy", "ndarray"): _Call(lambda *_: None),
    ("numpy", "dtype"): _Call(_Type),
    ("_codecs", "encode"): _Call(_encoded),
    ("__builtin__", "bytes"): _Call(lambda: b""),  # of an empty array, in old protocols
    # Under the names of NumPy 1 and 2.
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Call(lambda *_: _Array()) for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Call(_scalar) for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _Call(_array) for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _CALLS:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is neither an array nor a plain value")
        return _CALLS[module, name]


def _finished(value: Any, done: dict[int, tuple[Any, Any]]) -> Any:
    """The same value with arrays in the place of notes. Raises UnpicklingError where anything else is in it.

    `done` holds what is finished by identity (and what it was, so that no other takes its identity).
    """
    if type(value) in PLAIN or isinstance(value, np.generic):
        return value
    if id(value) in done:
        return done[id(value)][1]
    if isinstance(value, _Array) and value.found is not None:
        made: Any = value.found
    elif type(value) is dict:
        made = {_finished(key, done): _finished(entry, done) for key, entry in value.items()}
    elif isinstance(value, list | tuple | set | frozenset):
        made = type(value)(_finished(entry, done) for entry in value)
    else:
        raise pickle.UnpicklingError(f"it holds a {type(value).__name__}, which is neither an array nor a plain value")
    done[id(value)] = (value, made)
    return made
