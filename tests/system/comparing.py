"""Checkpoints held against each other, to the last bit."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wm_lightning.checkpoint_io import AtomicCheckpointIO


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint."""
    return AtomicCheckpointIO().load_checkpoint(path)


def differences(one: Any, other: Any, place: str = "") -> Iterator[str]:
    """Places where two checkpoints differ in a bit, a type or a key."""
    if type(one) is not type(other):
        yield f"{place}: {type(one).__name__} against {type(other).__name__}"
    elif isinstance(one, Mapping):
        for key in one.keys() | other.keys():
            if (key in one) != (key in other):
                yield f"{place}.{key}: in one only"
            else:
                yield from differences(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, list | tuple):
        if len(one) != len(other):
            yield f"{place}: {len(one)} against {len(other)}"
        for number, (a, b) in enumerate(zip(one, other, strict=False)):
            yield from differences(a, b, f"{place}[{number}]")
    elif isinstance(one, Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
        if not same:
            yield place
    elif one != other and not (one != one and other != other):  # NaN equals NaN here
        yield f"{place}: {one!r} against {other!r}"


def state_of(path: Path) -> dict[str, Any]:
    """All of a checkpoint but the record of folder and command line, and the command on the card."""
    content = read(path)
    content["provenance"] = content["provenance"]["config_hash"]
    content["card"] = {key: value for key, value in content["card"].items() if key not in ("command", "revision")}
    return content


def walk(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf with the key it stands under."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from walk(item, str(name))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from walk(item, key)
    else:
        yield key, value
