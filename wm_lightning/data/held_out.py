"""Held-out tasks' pictures and sources, by which films that show them are told and kept out of training."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import UInt8

from wm_lightning.data.formats.episode import Episode
from wm_lightning.data.formats.films import ClipReader
from wm_lightning.data.formats.resize import scaled
from wm_lightning.data.from_images.filters import THUMBNAIL, differences


class HeldOut:
    """The `pictures` of tasks that are measured, resized as films are, and the `sources`, clips, that they are from.

    A frame shows a picture where their thumbnails of 8 x 8 differ by at most `alike`, in grey levels (0 to 255, root
    mean square): compression moves them a little.
    """

    def __init__(
        self, pictures: Iterable[UInt8[np.ndarray, "1 3 h w"]], sources: Iterable[str], alike: float
    ) -> None:  # fmt: skip
        self.thumbnails, self.sources = np.concatenate([*map(thumbnails, pictures)]), frozenset(sources)
        self.alike = alike

    def key(self) -> str:
        """SHA-256 of all that decides which films are left out."""
        found = hashlib.sha256(self.thumbnails.tobytes())
        found.update(json.dumps([sorted(self.sources), self.alike]).encode())
        return found.hexdigest()

    def names(self, film: str) -> bool:
        """Whether a film is called as a source is: by its path, or by its name, without what tells its form."""
        path = PurePosixPath(film).with_suffix("")
        return bool({path.as_posix(), path.name} & self.sources)

    def shown(self, video: UInt8[np.ndarray, "f 3 h w"]) -> bool:
        """Whether a frame looks like one of the pictures."""
        return bool((differences(thumbnails(video), self.thumbnails) <= self.alike).any())


class WatchedClips:
    """Clips that are looked at as they are read: `seen` has the names of videos in which something held out was."""

    def __init__(self, clips: ClipReader, held_out: HeldOut) -> None:
        self.clips, self.held_out, self.seen = clips, held_out, set[str]()
        self.spec, self.action_shift = clips.spec, clips.action_shift

    def __len__(self) -> int:
        return len(self.clips)

    def length(self, episode: int) -> int:
        """That of every clip."""
        return self.clips.length(episode)

    def read(self, episode: int, start: int, stop: int) -> Episode:
        """Frames start..stop-1 of a clip; see `ClipReader`."""
        found = self.clips.read(episode, start, stop)
        if self.held_out.shown(found.video):
            self.seen.add(self.clips.name(episode))
        return found


def thumbnails(video: UInt8[np.ndarray, "f 3 h w"]) -> np.ndarray:
    """Every frame as the numbers of a picture of 8 x 8, about 0."""
    small = scaled(np.moveaxis(video, 1, -1), THUMBNAIL, THUMBNAIL)
    return small.reshape(len(video), -1).astype(np.float32) - 128
