"""The Counter-Strike deathmatch set: HDF5 files of 1,000 frames, single, in folders or straight from their tars.

`frame_{i}_x` uint8 [150, 280, 3] in BGR order, `frame_{i}_y` float64 [51]. Action i drives frame i to i + 1:
11 keys and 2 clicks as a multi-hot, then one-hots of 23 horizontal and 15 vertical mouse movements.
"""

import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from jaxtyping import Float32, UInt8

from wm_lightning.clip import ActionSpec
from wm_lightning.data.formats.atomic import atomic_file
from wm_lightning.data.formats.source import Stamp, StoredEpisode, checked_actions, stamp
from wm_lightning.data.formats.video_files import BadFile

KEYS = ("w", "a", "s", "d", "space", "ctrl", "shift", "1", "2", "3", "r")
CLICKS = ("left_click", "right_click")
MOUSE_X = (-1000, -500, -300, -200, -100, -60, -30, -20, -10, -4, -2, 0, 2, 4, 10, 20, 30, 60, 100, 200, 300, 500, 1000)
MOUSE_Y = (-200, -100, -50, -20, -10, -4, -2, 0, 2, 4, 10, 20, 50, 100, 200)
COLUMNS = (*KEYS, *CLICKS, *(f"mouse_x_{v}" for v in MOUSE_X), *(f"mouse_y_{v}" for v in MOUSE_Y))
SPEC = ActionSpec(COLUMNS, (0.0,) * len(COLUMNS), (1.0,) * len(COLUMNS), "discrete")
# Where the one-hots of the mouse stand, and their middles: no movement.
MOUSE = {"x": slice(13, 36), "y": slice(36, 51)}


@dataclass(frozen=True)
class Place:
    """A file, or a stretch of a tar."""

    path: Path
    name: str
    offset: int
    size: int

    @contextmanager
    def open(self) -> Iterator[h5py.File]:
        """The HDF5 file. Raises BadFile where it is damaged."""
        with self.path.open("rb") as file:
            try:
                with h5py.File(Stretch(file, self.offset, self.size), "r") as content:
                    yield content
            except (OSError, KeyError, RuntimeError) as error:
                raise BadFile(self.path, f"{self.name} cannot be read as HDF5 ({error})") from error


class Stretch(io.RawIOBase):
    """A part of an open file as a file of its own."""

    def __init__(self, file: BinaryIO, offset: int, size: int) -> None:
        self.file, self.offset, self.size, self.place = file, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}[whence]
        return self.place

    def tell(self) -> int:
        return self.place

    def readinto(self, buffer: Any) -> int:
        self.file.seek(self.offset + self.place)
        wanted = max(0, min(len(buffer), self.size - self.place))
        data = self.file.read(wanted)
        buffer[: len(data)] = data
        self.place += len(data)
        return len(data)


class CSGOSource:
    """All HDF5 files under a folder, in tars too: those named in `names`, or (`inside=False`) all but those."""

    columns = COLUMNS

    def __init__(self, folder: Path, *, names: frozenset[str] | None = None, inside: bool = True) -> None:
        self.bad: list[BadFile] = []
        places = [*_files(folder), *self._tars(folder)]
        if not places:
            raise ValueError(f"{folder} holds neither hdf5 files nor tars of them")
        kept = [place for place in places if names is None or (place.name in names) == inside]
        self.places = sorted(kept, key=lambda place: place.name)
        self.names: Sequence[str] = tuple(place.name for place in self.places)

    def _tars(self, folder: Path) -> Iterator[Place]:
        for path in sorted(folder.rglob("*.tar")):
            try:
                with tarfile.open(path, "r:") as tar:
                    members = [member for member in tar if member.isfile() and member.name.endswith(".hdf5")]
            except (tarfile.TarError, OSError) as error:
                self.bad.append(BadFile(path, f"cannot be read as tar ({error})"))
                continue
            for member in members:
                yield Place(path, Path(member.name).name, member.offset_data, member.size)

    def stamps(self) -> Sequence[Stamp]:
        """Name, size and time of every file, and which parts of it are read."""
        return [stamp(path) for path in sorted({place.path for place in self.places})] + [
            (place.name, place.size, place.offset) for place in self.places
        ]

    def actions(self, episode: int) -> Float32[np.ndarray, "f 51"]:
        """The stored actions, every mouse movement made a one-hot."""
        place = self.places[episode]
        with place.open() as file:
            rows = _stacked(file, "y", _length(place, file))
        return one_hot_mouse(checked_actions(place.path, rows, len(COLUMNS)))

    def read(self, episode: int) -> StoredEpisode:
        """The whole episode, in RGB."""
        place = self.places[episode]
        actions = self.actions(episode)
        with place.open() as file:
            video = _stacked(file, "x", len(actions))
        if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3:
            raise BadFile(place.path, f"{place.name}: frames have shape {list(video.shape[1:])} and type {video.dtype}")
        return StoredEpisode(np.ascontiguousarray(video[..., ::-1]), actions)


def one_hot_mouse(actions: Float32[np.ndarray, "f 51"]) -> Float32[np.ndarray, "f 51"]:
    """The same actions with one movement per axis: the largest entry, none where all are 0."""
    fixed = actions.copy()
    for axis, part in MOUSE.items():
        values = (MOUSE_X, MOUSE_Y)[axis == "y"]
        chosen = np.where(actions[:, part].any(axis=1), actions[:, part].argmax(axis=1), values.index(0))
        fixed[:, part] = np.eye(len(values), dtype=np.float32)[chosen]
    return fixed


def write_csgo(path: Path, video: UInt8[np.ndarray, "f h w 3"], actions: Float32[np.ndarray, "f 51"]) -> None:
    """Writes one episode (RGB in, BGR on disk), whole or not at all. Raises ValueError where the lengths differ."""
    if len(video) != len(actions):
        raise ValueError(f"{path}: {len(video)} frames for {len(actions)} actions")
    with atomic_file(path) as partial, h5py.File(partial, "w") as file:
        for number, (picture, action) in enumerate(zip(video, actions, strict=True)):
            content: Mapping[str, Any] = {
                "x": picture[..., ::-1], "xaux": np.zeros(54), "y": action.astype(np.float64), "helperarr": np.zeros(2),
            }  # fmt: skip
            for key, value in content.items():
                file[f"frame_{number}_{key}"] = value


def _files(folder: Path) -> list[Place]:
    return [Place(path, path.name, 0, path.stat().st_size) for path in sorted(folder.rglob("*.hdf5"))]


def _stacked(file: h5py.File, key: str, frames: int) -> np.ndarray:
    return np.stack([np.asarray(file[f"frame_{number}_{key}"]) for number in range(frames)])


def _length(place: Place, file: h5py.File) -> int:
    """Frames from 0 on without a gap. Raises BadFile where there is none."""
    count = sum(1 for key in file.keys() if str(key).endswith("_y"))
    while count and not (f"frame_{count - 1}_x" in file and f"frame_{count - 1}_y" in file):
        count -= 1
    if not count or any(f"frame_{i}_{key}" not in file for i in range(count) for key in "xy"):
        raise BadFile(place.path, f"{place.name} has no frames, or a gap between them")
    return count
