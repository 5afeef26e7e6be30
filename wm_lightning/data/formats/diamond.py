"""DIAMOND's low-resolution Counter-Strike episodes: `{train,test}/HHH/TT/U/{id}.pt`, 30 x 56 pixels, RGB."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from wm_lightning.data.formats.csgo import COLUMNS, Odd, note, one_hot_mouse
from wm_lightning.data.formats.source import (
    UNREADABLE,
    Outline,
    Stamp,
    StoredEpisode,
    checked_actions,
    names_faults,
    require_unique,
    stamp,
    stretch,
)
from wm_lightning.data.formats.video_files import BadFile
from wm_lightning.plain_files import read_plain


@names_faults
class DiamondSource:
    """The episodes of one split's folder."""

    columns = COLUMNS

    def __init__(self, folder: Path) -> None:
        self.paths = sorted((path for path in folder.rglob("*.pt") if path.stem.isdigit()), key=lambda p: int(p.stem))
        if not self.paths:
            raise ValueError(f"{folder} holds no episode HHH/TT/U/ID.pt")
        require_unique((path.stem, path) for path in self.paths)
        self.names: Sequence[str] = tuple(path.stem for path in self.paths)
        self.bad: Sequence[BadFile] = ()
        self.odd: dict[str, Odd] = {}  # by name: labels that were mended or are strange

    def stamps(self) -> Sequence[Stamp]:
        """Name, size and time of every file."""
        return [stamp(path) for path in self.paths]

    def actions(self, episode: int) -> Float32[np.ndarray, "f 51"]:
        """The stored actions, every mouse movement made a one-hot."""
        return self._actions(self.paths[episode], self._content(episode))

    def read(self, episode: int) -> StoredEpisode:
        """The whole episode."""
        path, content = self.paths[episode], self._content(episode)
        actions, video = self._actions(path, content), self._video(episode, content)
        if len(video) != len(actions):
            raise BadFile(path, f"has {len(video)} frames for {len(actions)} actions")
        return StoredEpisode(video, actions)

    def outline(self, episode: int) -> Outline:
        """Actions and the first frame; the whole file is read, for its checksums are of the whole."""
        found = self.read(episode)
        return Outline(found.video[0].copy(), found.actions)

    def frames(self, episode: int, start: int, stop: int) -> UInt8[np.ndarray, "f h w 3"]:
        """Some frames; the whole file is read, for its checksums are of the whole."""
        return stretch(self.paths[episode], self._video(episode, self._content(episode)), start, stop)

    def _video(self, episode: int, content: Mapping[str, Any]) -> UInt8[np.ndarray, "f h w 3"]:
        path, video = self.paths[episode], _array(self.paths[episode], content, "obs")
        if video.dtype != np.uint8 or video.ndim != 4 or video.shape[1] != 3 or not video.size:
            raise BadFile(path, "has no obs of uint8 [frames, 3, height, width]")
        return np.moveaxis(video, 1, -1)

    def _content(self, episode: int) -> Mapping[str, Any]:
        path = self.paths[episode]
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()  # torch does not look at checksums
            if damaged is not None:
                raise BadFile(path, f"is damaged: the checksum of {damaged} does not hold")
            return read_plain(path)
        except BadFile:
            raise
        except UNREADABLE as error:
            raise BadFile(path, str(error)) from error

    def _actions(self, path: Path, content: Mapping[str, Any]) -> Float32[np.ndarray, "f 51"]:
        checked = checked_actions(path, _array(path, content, "act"), len(COLUMNS))
        note(self.odd, path.stem, path, checked)
        return one_hot_mouse(checked)


def _array(path: Path, content: Mapping[str, Any], key: str) -> np.ndarray:
    """A tensor of a file. Raises BadFile where there is none, or one that NumPy cannot hold (sparse, bfloat16)."""
    found = content.get(key)
    if not isinstance(found, torch.Tensor):
        raise BadFile(path, f"has no {key}, a tensor of one row a frame is expected")
    try:
        return found.detach().numpy()
    except (TypeError, RuntimeError) as error:
        kind = f"a tensor of {found.dtype}, {found.layout}"
        raise BadFile(path, f"{key} is {kind}; a dense one of a type that NumPy knows is expected") from error
