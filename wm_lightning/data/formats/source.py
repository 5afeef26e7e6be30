"""What a format gives before frames are decoded: the episodes of one split, and each as it stands on disk."""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from wm_lightning.data.formats.video_files import BadFile

Stamp = tuple[str, int, int]


@dataclass(frozen=True)
class StoredEpisode:
    """An episode as it stands on disk: all arrays have the same number of frames.

    `actions[k]` is stored at the observation k; `truth` is a simulator's hidden state, for evaluation only.
    """

    video: UInt8[np.ndarray, "f h w 3"]
    actions: Float32[np.ndarray, "f a"]
    truth: Mapping[str, Shaped[np.ndarray, "f ..."]] = field(default_factory=dict)


@runtime_checkable
class EpisodeSource(Protocol):
    """The episodes of one split in one format. Cheap to copy into a worker process; holds no open file."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the stored actions' columns."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """The episodes' names, unique within the split."""
        ...

    @property
    def bad(self) -> Sequence[BadFile]:
        """What was found unusable without decoding."""
        ...

    def stamps(self) -> Sequence[Stamp]:
        """Name, size and time of every file of the split: what changes when the data do."""
        ...

    def actions(self, episode: int) -> Float32[np.ndarray, "f a"]:
        """The stored actions, unclipped and unshifted. Raises BadFile where they are no finite numbers."""
        ...

    def read(self, episode: int) -> StoredEpisode:
        """The whole episode. Raises BadFile where a file is damaged or lengths differ."""
        ...


def load_arrays(path: Path, only: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """All arrays of an npz file (or those of `only`), none unpickled. Raises BadFile where it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files if only is None or key in only}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        # AttributeError: numpy returns a bare array where the file is an npy under another name.
        raise BadFile(path, f"cannot be read as npz ({error})") from error


def stamp(path: Path) -> Stamp:
    """Name, size and time of a file."""
    status = path.stat()
    return path.name, status.st_size, status.st_mtime_ns


def checked_actions(path: Path, actions: np.ndarray, width: int) -> Float32[np.ndarray, "f a"]:
    """The actions as float32. Raises BadFile where they are not finite numbers of shape [frames, width]."""
    if actions.ndim != 2 or actions.shape[1] != width or not len(actions):
        raise BadFile(path, f"actions have shape {list(actions.shape)}, [frames, {width}] is expected")
    if actions.dtype.kind not in "fiub" or not np.isfinite(actions).all():
        raise BadFile(path, "actions are not all finite numbers (NaN or infinite)")
    return actions.astype(np.float32)


def trimmed(path: Path, video: int, actions: int, *, trim_tail: bool) -> int:
    """The common length of video and actions. Raises BadFile where they differ, by more than one with `trim_tail`."""
    if abs(video - actions) > int(trim_tail):
        hint = "" if trim_tail else "; data.trim_tail=true allows a difference of one"
        raise BadFile(path, f"has {video} frames for {actions} actions{hint}")
    return min(video, actions)
