"""Counter-Strike's HDF5 files, written: bytes laid out once a shape, then filled."""

from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float32, UInt8

from wm_lightning.data.formats.atomic import atomic_file
from wm_lightning.data.formats.csgo import COLUMNS


def write_csgo(path: Path, video: UInt8[np.ndarray, "f h w 3"], actions: Float32[np.ndarray, "f 51"]) -> None:
    """Writes one episode (RGB in, BGR on disk), whole or not at all. Raises ValueError where the lengths differ."""
    if len(video) != len(actions):
        raise ValueError(f"{path}: {len(video)} frames for {len(actions)} actions")
    content, places = _empty(*video.shape[:3])
    content = content.copy()
    rows = {"x": video[..., ::-1].reshape(len(video), -1), "y": actions.astype("<f8").view(np.uint8)}
    for key, values in rows.items():
        for place, row in zip(places[key], values, strict=True):
            content[place : place + len(row)] = row
    with atomic_file(path) as partial:
        partial.write_bytes(content.data)


@lru_cache(maxsize=1)
def _empty(frames: int, height: int, width: int) -> tuple[UInt8[np.ndarray, "bytes"], dict[str, list[int]]]:
    """The bytes of a file all of whose values are 0, and where those of every frame's `x` and `y` begin.

    Files of equal shape differ in these alone, and HDF5 takes a third of a millisecond to lay out a frame's datasets.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "empty.hdf5"
        with h5py.File(path, "w") as file:
            for number in range(frames):
                file[f"frame_{number}_x"] = np.zeros((height, width, 3), np.uint8)
                file[f"frame_{number}_xaux"] = np.zeros(54)
                file[f"frame_{number}_y"] = np.zeros(len(COLUMNS))
                file[f"frame_{number}_helperarr"] = np.zeros(2)
            places = {key: [_offset(file[f"frame_{number}_{key}"]) for number in range(frames)] for key in "xy"}
        return np.fromfile(path, np.uint8), places


def _offset(dataset: Any) -> int:
    return int(dataset.id.get_offset())
