"""Files of tensors and plain containers, read without running anything that they bring along."""

import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError  # the name of an error; nothing is unpickled
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor

OWN = "try previous.ckpt or best.ckpt beside it"


# What unpickling raises where bytes are damaged: it does what they say until that makes no sense to Python itself.
DAMAGED = (
    UnpicklingError, RuntimeError, OSError, EOFError, ValueError, TypeError, AttributeError, LookupError,
    ArithmeticError, AssertionError, struct.error,
)  # fmt: skip
# Those of them whose words need the name of the error to be understood.
_BARE = (TypeError, AttributeError, LookupError, ArithmeticError, AssertionError, struct.error)


def unpickled(path: Path, map_location: Callable | str = "cpu", *, mmap: bool = False) -> Any:
    """What torch saved in a file, of tensors and plain containers. Raises ValueError that says why where it cannot."""
    try:
        return torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except _BARE as error:
        raise ValueError(f"its bytes make no sense, {why(error)}; copy or fetch it again") from error
    except DAMAGED as error:
        raise ValueError(why(error)) from error


def read_plain(
    path: Path, map_location: Callable | None = None, *, mmap: bool = False, advice: str = OWN
) -> dict[str, Any]:
    """The content of a checkpoint. Raises ValueError unless it is a whole file with a dict of plain values and tensors.

    With `mmap` tensors are read from the disk when they are used. `advice` is what to do about a file that is refused.
    """
    expected = f"a whole checkpoint of plain containers and tensors; {advice}"
    if not is_zipfile(path):
        raise ValueError(f"{path} is not {expected}")
    try:
        content = unpickled(path, map_location or "cpu", mmap=mmap)
    except ValueError as error:
        raise ValueError(f"{path} is not {expected} ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not {expected} (it holds a {type(content).__name__})")
    return content


def tensors(state: Any, place: str, before: str = "") -> dict[str, Tensor]:
    """The entries of a state dict whose names begin with `before`, without that; `place` says where it was found.

    Raises ValueError that names an entry which is no tensor, and where there is no state dict at all.
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"{place} is a {type(state).__name__}, where tensors by name are expected; take another file")
    chosen = {name: value for name, value in state.items() if str(name).startswith(before)}
    odd = [name for name, value in chosen.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if odd:
        more = f" (and {len(odd) - 1} more)" if len(odd) > 1 else ""
        what = type(chosen[odd[0]]).__name__
        raise ValueError(
            f"the entry {odd[0]!r} of {place} is a {what}{more}, where a tensor with a name is expected; save the file "
            f"anew with tensors alone, or copy it again if it was damaged"
        )
    return {name.removeprefix(before): value for name, value in chosen.items()}


def sizes(weights: Mapping[str, Tensor], name: str, count: int) -> tuple[int, ...]:
    """The shape of a tensor that tells the sizes of a network. Raises ValueError unless it is there and has `count`."""
    if name not in weights:
        raise ValueError(f"it has no {name}, which tells sizes of the network; name a file that is whole")
    found = tuple(weights[name].shape)
    if len(found) != count or not all(found):
        raise ValueError(
            f"its {name} has the shape {found}, where {count} sizes above 0 are expected; name another file"
        )
    return found


def why(error: BaseException) -> str:
    """What is wrong with a file that cannot be read, in one sentence.

    torch's own words recommend running what the file brings along, which nobody should read as advice.
    """
    text = str(error)
    if forbidden := re.search(r"(?:GLOBAL|function|class) ([\w.]+\.[\w.]+)", text):
        return f"it brings {forbidden.group(1)} along, which is code and never run"
    sentence = re.split(r"\.\s", text, maxsplit=1)[0]
    return f"{type(error).__name__}: {sentence}" if isinstance(error, _BARE) else sentence
