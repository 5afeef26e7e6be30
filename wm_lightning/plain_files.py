"""Files of tensors and plain containers, read without running anything that they bring along."""

import re
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError  # the name of an error; nothing is unpickled
from typing import Any
from zipfile import is_zipfile

import torch

OWN = "try previous.ckpt or best.ckpt beside it"


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
        content = torch.load(path, map_location=map_location or "cpu", weights_only=True, mmap=mmap)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is not {expected} ({why(error)})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not {expected} (it holds a {type(content).__name__})")
    return content


def why(error: BaseException) -> str:
    """What is wrong with a file that cannot be read, in one sentence.

    torch's own words recommend running what the file brings along, which nobody should read as advice.
    """
    text = str(error)
    if forbidden := re.search(r"(?:GLOBAL|function|class) ([\w.]+\.[\w.]+)", text):
        return f"it brings {forbidden.group(1)} along, which is code and never run"
    sentence = re.split(r"\.\s", text, maxsplit=1)[0]
    return f"{type(error).__name__}: {sentence}" if isinstance(error, KeyError) else sentence
