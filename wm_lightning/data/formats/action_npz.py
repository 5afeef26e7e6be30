"""Vid2World's form of RT-1: one npz per episode with `image` uint8 [frames, h, w, 3] and `action` [frames, 13]."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from wm_lightning.data.formats.atomic import atomic_file
from wm_lightning.data.formats.robot_actions import columns
from wm_lightning.data.formats.source import Stamp, StoredEpisode, checked_actions, load_arrays, stamp, trimmed
from wm_lightning.data.formats.video_files import BadFile

ORDER = "vid2world13"


class ActionNpzSource:
    """The npz files of a folder, in the order of their names."""

    columns = columns(ORDER)

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob("*.npz"))
        if not self.paths:
            raise ValueError(f"{folder} holds no npz file; expected one per episode, with image and action")
        self.names: Sequence[str] = tuple(path.stem for path in self.paths)
        self.bad: Sequence[BadFile] = ()

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
        if video is None or video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3:
            raise BadFile(path, "has no array image of uint8 [frames, height, width, 3]")
        trimmed(path, len(video), len(actions), trim_tail=None)
        return StoredEpisode(video, actions)

    def _actions(self, path: Path, arrays: Mapping[str, np.ndarray]) -> Float32[np.ndarray, "f a"]:
        if "action" not in arrays:
            raise BadFile(path, f"has no array action, only {sorted(arrays)}")
        return checked_actions(path, arrays["action"], len(self.columns))


def write_action_npz(path: Path, video: UInt8[np.ndarray, "f h w 3"], actions: Float32[np.ndarray, "f 13"]) -> None:
    """Writes one episode, whole or not at all. Raises ValueError where the lengths differ."""
    if len(video) != len(actions):
        raise ValueError(f"{path}: {len(video)} frames for {len(actions)} actions")
    with atomic_file(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, image=video, action=actions.astype(np.float32))
