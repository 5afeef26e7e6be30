"""Where an episode stands in an on-disk form, and what a form lets be altered."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

Rows = Float[np.ndarray, "f a"]
Change = Callable[[Rows], Rows]


@dataclass(frozen=True)
class Stand:
    """Files of one episode's pictures and actions (which may be one); its bytes in the former; who else is there.

    `start` and `size` name the stretch of the file that is the episode's, `data` that of it which holds pictures.
    """

    folder: Path
    pictures: Path
    table: Path
    sharing: tuple[int, ...]
    start: int
    size: int
    data: tuple[int, int]
    key: Any = None  # what finds the episode within its files


Special = Callable[[Stand, np.random.Generator], None]


@dataclass(frozen=True)
class Form:
    """How a form is damaged: `stand(folder, episode)`, `rewrite(stand, change)` of the table, and what it alone has."""

    stand: Callable[[Path, int], Stand]
    rewrite: Callable[[Stand, Change], None] | None = None
    special: Mapping[str, Special] = field(default_factory=dict)


def whole(folder: Path, pictures: Path, table: Path, sharing: tuple[int, ...], key: Any = None) -> Stand:
    size = pictures.stat().st_size
    data = media(pictures) if pictures.suffix == ".mp4" else (0, size)
    return Stand(folder, pictures, table, sharing, 0, size, data, key)


def media(path: Path) -> tuple[int, int]:
    """Start and size of an mp4's coded pictures: its box `mdat` (ISO/IEC 14496-12)."""
    content, place = path.read_bytes(), 0
    while place + 8 <= len(content):
        size, name = int.from_bytes(content[place : place + 4], "big"), content[place + 4 : place + 8]
        if name == b"mdat":
            return place + 8, size - 8
        place += size
    raise ValueError(f"{path} has no box mdat")
