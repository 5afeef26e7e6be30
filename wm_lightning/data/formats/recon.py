"""RECON: the original HDF5 files with JPEG bytes, and processed folders of k.jpg beside `traj_data.pkl` (or .npz).

Actions are planar: the pose at frame k + 1 seen from that at frame k, (dx, dy) divided by the spacing of waypoints and
scaled to [-1, 1] as NoMaD and NWM do, and the turn in radians.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from jaxtyping import Float, Float32, UInt8

from wm_lightning.clip import ActionSpec
from wm_lightning.data.formats.atomic import atomic_file
from wm_lightning.data.formats.picture_files import from_bytes, to_jpeg
from wm_lightning.data.formats.safe_pickle import read_arrays
from wm_lightning.data.formats.source import (
    UNREADABLE_HDF5,
    Outline,
    Stamp,
    StoredEpisode,
    checked_actions,
    hidden_state,
    load_arrays,
    names_faults,
    of_one_size,
    require_unique,
    stamp,
    state_beside,
)
from wm_lightning.data.formats.video_files import BadFile

COLUMNS = ("dx", "dy", "dyaw")
SPEC = ActionSpec(COLUMNS, (-1.0, -1.0, -np.pi), (1.0, 1.0, np.pi))
SPACING = 0.25  # metres
LOW, HIGH = np.array([-2.5, -4.0]), np.array([5.0, 4.0])  # in waypoint spacings
REST = {"dx": -0.3333333}  # standing still is not 0, as the range of dx is not symmetric


class Poses(Protocol):
    """Where the robot was: position [frames, 2] in metres, yaw [frames] in radians."""

    position: Float[np.ndarray, "f 2"]
    yaw: Float[np.ndarray, "f"]


def spec_of(stride: int) -> ActionSpec:
    """The columns of motions over `stride` frames: the same unit, and bounds that are as many times as far apart."""
    low, high = normalised(stride * LOW * SPACING), normalised(stride * HIGH * SPACING)
    return ActionSpec(COLUMNS, (*low.tolist(), -np.pi), (*high.tolist(), np.pi))


def planar_actions(position: Float[np.ndarray, "f 2"], yaw: Float[np.ndarray, "f"]) -> Float32[np.ndarray, "f 3"]:
    """The motion from every frame to the next, in its own frame and normalised; standing still at the end."""
    turned, yaw = np.zeros((len(yaw), 2)), np.unwrap(yaw)
    step = np.diff(position, axis=0)
    cos, sin = np.cos(yaw[:-1]), np.sin(yaw[:-1])
    turned[:-1] = np.stack([cos * step[:, 0] + sin * step[:, 1], -sin * step[:, 0] + cos * step[:, 1]], axis=1)
    turn = np.append(np.diff(yaw), 0.0)
    return np.column_stack([normalised(turned), wrapped(turn)]).astype(np.float32)


def normalised(metres: Float[np.ndarray, "... 2"]) -> Float[np.ndarray, "... 2"]:
    """Metres to waypoint spacings to [-1, 1]. Standing still is not 0: the range is not symmetric."""
    return 2 * (metres / SPACING - LOW) / (HIGH - LOW) - 1


def metres_of(actions: Float[np.ndarray, "... 2"]) -> Float[np.ndarray, "... 2"]:
    """Inverse of `normalised`."""
    return ((actions + 1) / 2 * (HIGH - LOW) + LOW) * SPACING


def wrapped(angle: Float[np.ndarray, "f"]) -> Float[np.ndarray, "f"]:
    """The same angles in [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


@names_faults
class RECONSource:
    """The HDF5 files, or trajectory folders, of a folder; `names` keeps those of a split's list."""

    columns = COLUMNS

    def __init__(self, folder: Path, *, names: frozenset[str] | None) -> None:
        files = [path for path in sorted(folder.rglob("*.hdf5")) if names is None or path.stem in names]
        found = dict.fromkeys(sorted(path.parent for path in folder.glob("*/traj_data.*")))
        self.paths = files or [path for path in found if names is None or path.name in names]
        if not self.paths:
            raise ValueError(
                f"{folder} holds neither hdf5 files nor folders with traj_data.pkl, of the names asked for"
            )
        self.names: Sequence[str] = tuple(path.stem if path.suffix == ".hdf5" else path.name for path in self.paths)
        require_unique(zip(self.names, self.paths, strict=True))
        without = set() if files else _pictured(folder, names) - found.keys()
        self.bad = [
            BadFile(path, "has pictures and neither traj_data.npz nor traj_data.pkl", path.name)
            for path in sorted(without)
        ]
        known = {*self.names, *(path.name for path in without)}
        self.bad += [
            BadFile(folder / name, "is in the split's list and not there", name)
            for name in sorted((names or known) - known)
        ]

    def stamps(self) -> Sequence[Stamp]:
        """Name, size and time of every file: of the pictures too, which may be repaired while poses stay."""
        folders = [path for path in self.paths if path.is_dir()]
        pictures = [(f"{path.name}/{name}", size, time) for path in folders for name, size, time in _listed(path)]
        states = [stamp(state_beside(path)) for path in self.paths if state_beside(path).is_file()]
        return [stamp(path if path.is_file() else _poses_file(path)) for path in self.paths] + pictures + states

    def poses(self, episode: int) -> tuple[Float[np.ndarray, "f 2"], Float[np.ndarray, "f"]]:
        """The stored poses, unchecked but for their shapes."""
        path = self.paths[episode]
        return _poses_of_file(path) if path.suffix == ".hdf5" else _poses_of_folder(path)

    def jpegs(self, episode: int) -> list[bytes]:
        """The pictures as they are stored."""
        path = self.paths[episode]
        frames = None if path.suffix == ".hdf5" else len(self.actions(episode))
        return self._jpegs(path, slice(frames))

    def actions(self, episode: int) -> Float32[np.ndarray, "f 3"]:
        """The actions derived from the poses."""
        path, (position, yaw) = self.paths[episode], self.poses(episode)
        if len(position) != len(yaw) or len(yaw) < 2:
            raise BadFile(path, f"has {len(position)} positions and {len(yaw)} yaws; two or more of each are expected")
        if not (np.isfinite(position).all() and np.isfinite(yaw).all()):
            raise BadFile(path, "poses are not all finite numbers (NaN or infinite)")
        if path.is_dir():
            _jpegs_there(path, len(yaw))
        with np.errstate(over="ignore", invalid="ignore"):  # absurd poses give no finite motion, which is refused
            motion = planar_actions(position, yaw)
        return checked_actions(path, motion, len(COLUMNS))

    def read(self, episode: int) -> StoredEpisode:
        """The whole episode."""
        path, actions = self.paths[episode], self.actions(episode)
        pictures = self.jpegs(episode)
        _require_as_many(path, len(pictures), len(actions))
        video = of_one_size(path, [from_bytes(path, data) for data in pictures])
        return StoredEpisode(video, actions, hidden_state(state_beside(path), len(actions)))

    def outline(self, episode: int) -> Outline:
        """Actions, hidden state and the first frame."""
        path, actions = self.paths[episode], self.actions(episode)
        if path.suffix == ".hdf5":
            _require_as_many(path, _number_of_jpegs(path), len(actions))
        first = self.frames(episode, 0, 1)[0]
        return Outline(first, actions, hidden_state(state_beside(path), len(actions)))

    def frames(self, episode: int, start: int, stop: int) -> UInt8[np.ndarray, "f h w 3"]:
        """Some frames; no other JPEG is read."""
        path = self.paths[episode]
        found = self._jpegs(path, slice(start, stop))
        if len(found) < stop - start:
            raise BadFile(path, f"has no pictures {start + len(found)}..{stop - 1}")
        if path.suffix == ".hdf5":
            return of_one_size(path, [from_bytes(path, data) for data in found])
        pictures = [from_bytes(path / f"{number}.jpg", data) for number, data in enumerate(found, start)]
        return of_one_size(path, pictures)

    def _jpegs(self, path: Path, part: slice) -> list[bytes]:
        return _jpegs_of_file(path, part) if path.suffix == ".hdf5" else _jpegs_of_folder(path, part)


def write_recon_file(
    path: Path, video: UInt8[np.ndarray, "f h w 3"], position: Float[np.ndarray, "f axes"], yaw: Float[np.ndarray, "f"]
) -> None:
    """Writes one episode in the original form: JPEG bytes and poses; a position without a height lies at 0."""
    write_jpegs_file(path, [to_jpeg(picture) for picture in video], position, yaw)


def write_jpegs_file(
    path: Path, jpegs: Sequence[bytes], position: Float[np.ndarray, "f axes"], yaw: Float[np.ndarray, "f"]
) -> None:
    """The same of pictures that are JPEG already, which are kept as they are."""
    with atomic_file(path) as partial, h5py.File(partial, "w") as file:
        file["images/rgb_left"] = np.array(jpegs)
        file["jackal/position"] = np.column_stack([position, np.zeros(len(position))])[:, :3]
        file["jackal/yaw"] = yaw


def write_recon_folder(
    folder: Path, video: UInt8[np.ndarray, "f h w 3"], position: Float[np.ndarray, "f 2"], yaw: Float[np.ndarray, "f"]
) -> None:
    """Writes one episode in the processed form, poses as npz."""
    write_jpegs_folder(folder, [to_jpeg(picture) for picture in video], position, yaw)


def write_jpegs_folder(
    folder: Path, jpegs: Sequence[bytes], position: Float[np.ndarray, "f 2"], yaw: Float[np.ndarray, "f"]
) -> None:
    """The same of pictures that are JPEG already, which are kept as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(jpegs):
        (folder / f"{number}.jpg").write_bytes(picture)
    with atomic_file(folder / "traj_data.npz") as partial, partial.open("wb") as file:
        np.savez(file, position=position, yaw=yaw)


def _poses_file(folder: Path) -> Path:
    safe = folder / "traj_data.npz"
    return safe if safe.is_file() else folder / "traj_data.pkl"


def _poses_of_folder(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    path = _poses_file(folder)
    content: Mapping[str, Any] = load_arrays(path) if path.suffix == ".npz" else read_arrays(path)
    return _planar(path, content)


def _poses_of_file(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with h5py.File(path, "r") as file:
            content = {"position": file["jackal/position"][()], "yaw": file["jackal/yaw"][()]}  # type: ignore[index]
    except UNREADABLE_HDF5 as error:
        raise BadFile(path, f"cannot be read as RECON's HDF5 ({error})") from error
    return _planar(path, content)


def _planar(path: Path, content: Any) -> tuple[np.ndarray, np.ndarray]:
    try:
        position, yaw = np.asarray(content["position"], float), np.asarray(content["yaw"], float)
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise BadFile(path, f"has no usable position and yaw ({error!r})") from error
    if position.ndim != 2 or position.shape[1] < 2:
        raise BadFile(path, f"position has shape {list(position.shape)}, [frames, 2] is expected")
    if yaw.ndim == 0 or yaw.size != len(yaw):
        raise BadFile(path, f"yaw has shape {list(yaw.shape)}, [frames] or [frames, 1] is expected")
    return position[:, :2], yaw.reshape(-1)


def _jpegs_of_file(path: Path, part: slice) -> list[bytes]:
    try:
        with h5py.File(path, "r") as file:
            # Fixed-width strings lose trailing zeros; a JPEG survives, because it ends with FFD9.
            return [bytes(data) for data in file["images/rgb_left"][part]]  # type: ignore[index]
    except UNREADABLE_HDF5 as error:
        raise BadFile(path, f"cannot be read as RECON's HDF5 ({error})") from error


def _require_as_many(path: Path, pictures: int, poses: int) -> None:
    if pictures != poses:
        raise BadFile(path, f"has {pictures} pictures for {poses} poses")


def _number_of_jpegs(path: Path) -> int:
    try:
        with h5py.File(path, "r") as file:
            return len(file["images/rgb_left"])  # type: ignore[arg-type]
    except UNREADABLE_HDF5 as error:
        raise BadFile(path, f"cannot be read as RECON's HDF5 ({error})") from error


def _pictured(folder: Path, names: frozenset[str] | None) -> set[Path]:
    """Folders (of the names asked for) that hold pictures, whatever poses they hold."""
    chosen = (path for path in folder.iterdir() if path.is_dir() and (names is None or path.name in names))
    return {path for path in chosen if next(path.glob("*.jpg"), None) is not None}


def _listed(folder: Path) -> list[Stamp]:
    with os.scandir(folder) as entries:
        return sorted(stamp(Path(entry)) for entry in entries if entry.name.endswith(".jpg"))


def _jpegs_there(folder: Path, frames: int) -> None:
    """Raises BadFile unless there is one picture per pose."""
    there = {name for name, _, _ in _listed(folder)}
    absent = next((number for number in range(frames) if f"{number}.jpg" not in there), None)
    if absent is not None:
        raise BadFile(folder / f"{absent}.jpg", f"is not there; the folder has {frames} poses")
    if len(there) != frames:
        raise BadFile(folder, f"has {len(there)} pictures for {frames} poses")


def _jpegs_of_folder(folder: Path, part: slice) -> list[bytes]:
    return [(folder / f"{number}.jpg").read_bytes() for number in range(part.start or 0, part.stop)]
