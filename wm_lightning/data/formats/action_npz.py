"""Vid2World's form of RT-1: one npz per episode with `image` uint8 [frames, h, w, 3] and `action` [frames, 13].

A file's name begins with its split (`test_eps_00000000.npz`; any other name is of train). `val_file_list.json`, a list
of file names, makes these files val, whatever they begin with: so Vid2World holds its validation episodes out.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from wm_lightning.data.formats.atomic import atomic_file
from wm_lightning.data.formats.robot_actions import columns
from wm_lightning.data.formats.source import (
    Outline,
    Stamp,
    StoredEpisode,
    checked_actions,
    load_arrays,
    names_faults,
    stamp,
    stretch,
    trimmed,
)
from wm_lightning.data.formats.video_files import BadFile

ORDER = "vid2world13"
SPLITS = ("train", "val", "test")
VAL_LIST = "val_file_list.json"


@names_faults
class ActionNpzSource:
    """The npz files of one split in a folder, in the order of their names."""

    columns = columns(ORDER)

    def __init__(self, folder: Path, split: str = "train") -> None:
        paths, listed = sorted(folder.glob("*.npz")), _val_names(folder)
        if not paths:
            raise ValueError(f"{folder} holds no npz file; expected one per episode, with image and action")
        self.paths = [path for path in paths if _split_of(path.stem, listed) == split]
        if not self.paths:
            raise ValueError(f"{folder} holds no npz file of {split}; {split}_eps_NNNNNNNN.npz is expected")
        self.names: Sequence[str] = tuple(path.stem for path in self.paths)
        absent = sorted(listed - {path.stem for path in paths}) if split == "val" else []
        self.bad: Sequence[BadFile] = [
            BadFile(folder / f"{name}.npz", f"is in {VAL_LIST} and not there") for name in absent
        ]

    def stamps(self) -> Sequence[Stamp]:
        """Name, size and time of every file."""
        return [stamp(path) for path in self.paths]

    def actions(self, episode: int) -> Float32[np.ndarray, "f a"]:
        """The stored actions; the images stay compressed."""
        return self._actions(self.paths[episode], load_arrays(self.paths[episode], only=("action",)))

    def read(self, episode: int) -> StoredEpisode:
        """The whole episode."""
        path = self.paths[episode]
        arrays = load_arrays(path)
        actions, video = self._actions(path, arrays), arrays.get("image")
        if video is None or video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3 or not video.size:
            raise BadFile(path, "has no array image of uint8 [frames, height, width, 3]")
        trimmed(path, len(video), len(actions), trim_tail=None)
        return StoredEpisode(video, actions)

    def outline(self, episode: int) -> Outline:
        """Actions and the first frame; the whole file is read, for its checksums are of the whole."""
        found = self.read(episode)
        return Outline(found.video[0].copy(), found.actions)

    def frames(self, episode: int, start: int, stop: int) -> UInt8[np.ndarray, "f h w 3"]:
        """Some frames; the whole file is read, for its checksums are of the whole."""
        return stretch(self.paths[episode], self.read(episode).video, start, stop)

    def _actions(self, path: Path, arrays: Mapping[str, np.ndarray]) -> Float32[np.ndarray, "f a"]:
        if "action" not in arrays:
            raise BadFile(path, f"has no array action, only {sorted(arrays)}")
        return checked_actions(path, arrays["action"], len(self.columns))


def stored_splits(folder: Path) -> tuple[str, ...]:
    """The splits that the names of the files tell, and train."""
    listed = _val_names(folder)
    there = {_split_of(path.stem, listed) for path in folder.glob("*.npz")}
    return tuple(split for split in SPLITS if split in there | {"train"})


def write_action_npz(path: Path, video: UInt8[np.ndarray, "f h w 3"], actions: Float32[np.ndarray, "f 13"]) -> None:
    """Writes one episode, whole or not at all. Raises ValueError where the lengths differ."""
    if len(video) != len(actions):
        raise ValueError(f"{path}: {len(video)} frames for {len(actions)} actions")
    with atomic_file(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, image=video, action=actions.astype(np.float32))


def _split_of(name: str, listed: frozenset[str]) -> str:
    first = name.partition("_")[0]
    return "val" if name in listed else first if first in SPLITS else "train"


def _val_names(folder: Path) -> frozenset[str]:
    """The names in the list of validation files, without folder and suffix; none where there is no list."""
    path = folder / VAL_LIST
    if not path.is_file():
        return frozenset()
    try:
        names = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}); a list of file names is expected") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f'{path} holds no list of file names, such as ["train_eps_00000003.npz"]')
    return frozenset(Path(name).stem for name in names)
