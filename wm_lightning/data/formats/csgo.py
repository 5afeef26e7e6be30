"""The Counter-Strike deathmatch set: HDF5 files of 1,000 frames, single, in folders or straight from their tars.

`frame_{i}_x` uint8 [150, 280, 3] in BGR order, `frame_{i}_y` float64 [51]. Action i drives frame i to i + 1:
11 keys and 2 clicks as a multi-hot, then one-hots of 23 horizontal and 15 vertical mouse movements.
"""

import io
import logging
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import h5py
import numpy as np
from jaxtyping import Float32, UInt8

from wm_lightning.clip import ActionSpec
from wm_lightning.data.formats.source import (
    UNREADABLE_HDF5,
    Outline,
    Stamp,
    StoredEpisode,
    checked_actions,
    hidden_state,
    names_faults,
    require_unique,
    stamp,
    state_beside,
)
from wm_lightning.data.formats.video_files import BadFile

log = logging.getLogger(__name__)

TAR = re.compile(r"(.+)_(\d+)_to_(\d+)\.tar")
Colours = Literal["bgr", "rgb"]
# What tarfile raises for damaged heads: of its own, and for sizes beyond what a file can have.
TORN = (tarfile.TarError, OSError, ValueError, LookupError, ArithmeticError, MemoryError, RecursionError)
KEYS = ("w", "a", "s", "d", "space", "ctrl", "shift", "1", "2", "3", "r")
CLICKS = ("left_click", "right_click")
REST = {"mouse_x_0": 1, "mouse_y_0": 1}  # a mouse that rests is a choice of its own
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

    @property
    def state(self) -> Path:
        """Where a simulator's hidden state would be: beside the file (or the tar), by the episode's name."""
        return state_beside(self.path.with_name(self.name))

    @contextmanager
    def open(self) -> Iterator[h5py.File]:
        """The HDF5 file. Raises BadFile where it is damaged."""
        # HDF5 is told the length that the tar declares, and would take what is missing for zeros.
        if self.offset + self.size > self.path.stat().st_size:
            raise BadFile(self.path, f"ends within {self.name}, it may be truncated")
        with ExitStack() as stack:
            try:
                if self.path.suffix == ".hdf5":  # which HDF5 reads by itself, several times as fast
                    yield stack.enter_context(h5py.File(self.path, "r"))
                else:
                    file = stack.enter_context(self.path.open("rb"))
                    yield stack.enter_context(h5py.File(Stretch(file, self.offset, self.size), "r"))
            except BadFile:
                raise
            except UNREADABLE_HDF5 as error:
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


@names_faults
class CSGOSource:
    """All HDF5 files under a folder, in tars too: those named in `names`, or (`inside=False`) all but those.

    Raises ValueError where a name occurs twice, as where a tar was unpacked beside itself.
    `colours` is the order of the channels on disk: BGR in the published files.
    """

    columns = COLUMNS

    def __init__(
        self, folder: Path, *, colours: Colours, names: frozenset[str] | None = None, inside: bool = True
    ) -> None:
        self.bad: list[BadFile] = []
        self.colours: Colours = colours
        self.odd: dict[str, Odd] = {}  # by name: labels that were mended or are strange
        places = [*_files(folder), *self._tars(folder)]
        if not places:
            raise ValueError(f"{folder} holds neither hdf5 files nor tars of them")
        require_unique((place.name, place.path) for place in places)
        asked = lambda name: names is None or name is None or (name in names) == inside  # noqa: E731
        self.places = sorted((place for place in places if asked(place.name)), key=lambda place: place.name)
        self.names: Sequence[str] = tuple(place.name for place in self.places)
        known = {*self.names, *(error.episode for error in self.bad)}
        self.bad = [error for error in self.bad if asked(error.episode)]
        # Few have all of the published files, so a name that is not there is no fault; a misspelt one would be.
        if inside and (absent := sorted((names or frozenset()) - known)):
            log.warning(
                "%s: %d of %d files of the test list are not there, e.g. %s; if that is a slip of the pen, the file "
                "meant is trained on: correct the list", folder, len(absent), len(names or ()), absent[0],
            )  # fmt: skip

    def _tars(self, folder: Path) -> Iterator[Place]:
        for path in sorted(folder.rglob("*.tar")):
            members: list[tarfile.TarInfo] = []
            try:
                with tarfile.open(path, "r:") as tar:
                    for member in tar:  # one after the other: what stands before a tear is kept
                        if member.size < 0:  # which would lead back to it
                            raise tarfile.ReadError(f"{member.name} has {member.size} bytes")
                        members += [member] if member.isfile() and member.name.endswith(".hdf5") else []
                    _require_end(path, tar.offset)
            except TORN as error:
                self.bad += _lost(path, [Path(member.name).name for member in members], error)
            for member in members:
                yield Place(path, Path(member.name).name, member.offset_data, member.size)

    def stamps(self) -> Sequence[Stamp]:
        """Name, size and time of every file, and which parts of it are read."""
        states = {place.state for place in self.places if place.state.is_file()}
        return [stamp(path) for path in sorted({place.path for place in self.places} | states)] + [
            (place.name, place.size, place.offset) for place in self.places
        ]

    def actions(self, episode: int) -> Float32[np.ndarray, "f 51"]:
        """The stored actions, every mouse movement made a one-hot."""
        place = self.places[episode]
        with place.open() as file:
            return self._actions(place, file)

    def read(self, episode: int) -> StoredEpisode:
        """The whole episode, in RGB."""
        place = self.places[episode]
        with place.open() as file:
            actions = self._actions(place, file)
            video = self._frames(place, file, 0, len(actions))
        return StoredEpisode(video, actions, hidden_state(place.state, len(actions)))

    def outline(self, episode: int) -> Outline:
        """Actions, hidden state and the first frame."""
        place = self.places[episode]
        with place.open() as file:
            actions, first = self._actions(place, file), self._frames(place, file, 0, 1)[0]
        return Outline(first, actions, hidden_state(place.state, len(actions)))

    def frames(self, episode: int, start: int, stop: int) -> UInt8[np.ndarray, "f h w 3"]:
        """Some frames; no other is read."""
        place = self.places[episode]
        with place.open() as file:
            return self._frames(place, file, start, stop)

    def _actions(self, place: Place, file: h5py.File) -> Float32[np.ndarray, "f 51"]:
        rows = _stacked(file, "y", range(_length(place, file)))
        actions = checked_actions(place.path, rows, len(COLUMNS))
        note(self.odd, place.name, place.path, actions)
        return one_hot_mouse(actions)

    def _frames(self, place: Place, file: h5py.File, start: int, stop: int) -> UInt8[np.ndarray, "f h w 3"]:
        video = _stacked(file, "x", range(start, stop))
        if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3 or not video.size:
            raise BadFile(place.path, f"{place.name}: frames have shape {list(video.shape[1:])} and type {video.dtype}")
        return np.ascontiguousarray(video[..., ::-1]) if self.colours == "bgr" else video


@dataclass(frozen=True)
class Odd:
    """Frames of an episode whose mouse labels are no one-hot, and those in which opposite keys are held."""

    mouse: int
    keys: int


def odd_labels(actions: Float32[np.ndarray, "f 51"]) -> Odd:
    """Counts what is strange in labels; opposite keys cancel one another and are kept as they are."""
    mouse = np.zeros(len(actions), bool)
    for part in MOUSE.values():
        mouse |= (actions[:, part] == 1).sum(1) + (actions[:, part] == 0).sum(1) != part.stop - part.start
        mouse |= actions[:, part].sum(1) != 1
    held = {name: actions[:, KEYS.index(name)] > 0.5 for name in "wasd"}
    return Odd(int(mouse.sum()), int(((held["w"] & held["s"]) | (held["a"] & held["d"])).sum()))


def note(odd: dict[str, Odd], name: str, path: Path, actions: Float32[np.ndarray, "f 51"]) -> None:
    """Counts strange labels of an episode in `odd` and warns the first time."""
    found = odd_labels(actions)
    if name in odd or found == Odd(0, 0):
        return
    odd[name] = found
    log.warning(
        "%s (%s): mouse labels of %d of %d frames are no one-hot (the largest is taken), opposite keys are held in %d",
        path, name, found.mouse, len(actions), found.keys,
    )  # fmt: skip


def one_hot_mouse(actions: Float32[np.ndarray, "f 51"]) -> Float32[np.ndarray, "f 51"]:
    """The same actions with one movement per axis: the largest entry, none where all are 0."""
    fixed = actions.copy()
    for axis, part in MOUSE.items():
        values = (MOUSE_X, MOUSE_Y)[axis == "y"]
        chosen = np.where(actions[:, part].any(axis=1), actions[:, part].argmax(axis=1), values.index(0))
        fixed[:, part] = np.eye(len(values), dtype=np.float32)[chosen]
    return fixed


def _files(folder: Path) -> list[Place]:
    return [Place(path, path.name, 0, stamp(path)[1]) for path in sorted(folder.rglob("*.hdf5"))]


def _require_end(path: Path, offset: int) -> None:
    """Raises ReadError unless a tar's end is there: where a later head is damaged, tarfile ends without a word."""
    with path.open("rb") as file:
        file.seek(offset)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError(f"the head at byte {offset} is damaged")


def _lost(path: Path, found: Sequence[str], error: Exception) -> list[BadFile]:
    """One fault for each file that a torn tar's own name (STEM_A_to_B.tar) promises; an unnamed one under another."""
    reason = f"cannot be read as tar after {len(found)} files ({error})"
    promised = TAR.fullmatch(path.name)
    if promised is None:
        return [BadFile(path, reason)]
    stem, first, last = promised[1], int(promised[2]), int(promised[3])
    lost = sorted({f"{stem}_{number}.hdf5" for number in range(first, last + 1)} - set(found))
    return [BadFile(path, reason, name) for name in lost]


def _stacked(file: h5py.File, key: str, frames: range) -> np.ndarray:
    return np.stack([np.asarray(file[f"frame_{number}_{key}"]) for number in frames])


def _length(place: Place, file: h5py.File) -> int:
    """Frames from 0 on without a gap. Raises BadFile where there is none."""
    count = sum(1 for key in file.keys() if str(key).endswith("_y"))
    while count and not (f"frame_{count - 1}_x" in file and f"frame_{count - 1}_y" in file):
        count -= 1
    if not count or any(f"frame_{i}_{key}" not in file for i in range(count) for key in "xy"):
        raise BadFile(place.path, f"{place.name} has no frames, or a gap between them")
    return count
