"""Videos of which nothing is known but their pictures, and the clips that they are cut into, one after the other."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from wm_lightning.clip import ActionSpec, ActionState, Texts
from wm_lightning.data.formats.episode import Episode
from wm_lightning.data.formats.source import Outline, Stamp, StoredEpisode, names_faults, stamp
from wm_lightning.data.formats.store_reader import StoreReader
from wm_lightning.data.formats.video_files import BadFile, Decoder, decoded
from wm_lightning.data.formats.video_parts import decode_part, first_picture

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
UNKNOWN = -1  # the number of a video's frames, which nothing beside it tells: all are decoded and counted


@names_faults
class FilmSource:
    """The videos below a folder in the order of their names, each seen every `stride` frames, without any action.

    A video shorter than `frames` of these is unusable. Names are paths relative to the folder.
    """

    columns: tuple[str, ...] = ()

    def __init__(self, folder: Path, *, frames: int, stride: int, decoder: Decoder) -> None:
        if not folder.is_dir():
            raise ValueError(f"data.films={folder} is not a folder; name one with videos ({', '.join(SUFFIXES)})")
        self.paths = sorted(path for path in folder.rglob("*") if _is_film(path))
        if not self.paths:
            raise ValueError(f"data.films={folder} holds no video; expected files that end in {', '.join(SUFFIXES)}")
        self.frames_wanted, self.stride = frames, stride
        self.decoder: Decoder = decoder
        self.names: Sequence[str] = tuple(path.relative_to(folder).as_posix() for path in self.paths)
        self.bad: Sequence[BadFile] = ()

    def stamps(self) -> Sequence[Stamp]:
        """Name, size and time of every video."""
        stamps = map(stamp, self.paths)
        return [(name, size, time) for name, (_, size, time) in zip(self.names, stamps, strict=True)]

    def actions(self, episode: int) -> Float32[np.ndarray, "f 0"]:
        """None of every frame that is seen. Raises BadFile where the video is damaged or too short."""
        return self.outline(episode).actions

    def outline(self, episode: int) -> Outline:
        """Its first picture and its length. All of it is decoded, so that damage shows before anything is cut."""
        path = self.paths[episode]
        found = first_picture(path, self.decoder, UNKNOWN)
        return Outline(found.picture, self._nothing(path, found.frames), decoder=found.decoder)

    def read(self, episode: int) -> StoredEpisode:
        """All frames that are seen."""
        path = self.paths[episode]
        found = decoded(path, self.decoder)
        actions = self._nothing(path, len(found.video))
        return StoredEpisode(found.video[:: self.stride], actions, decoder=found.decoder)

    def frames(self, episode: int, start: int, stop: int) -> UInt8[np.ndarray, "f h w 3"]:
        """The start-th to the (stop-1)-th of the frames that are seen, decoded from the key frame before them."""
        first, last = start * self.stride, (stop - 1) * self.stride
        return decode_part(self.paths[episode], self.decoder, first, last + 1, self.stride)

    def _nothing(self, path: Path, frames: int) -> Float32[np.ndarray, "f 0"]:
        seen = -(-frames // self.stride)
        if seen < self.frames_wanted:
            every = f"{self.frames_wanted} frames" + (f" every {self.stride}" if self.stride > 1 else "")
            raise BadFile(path, f"has {frames} frames, a clip takes {every}: it is too short")
        return np.zeros((seen, 0), np.float32)


class ClipReader:
    """Consecutive clips of `frames` frames that share none, of another reader's episodes; what is left is not used.

    Clips are counted through: those of the first episode in their order, then those of the next. A clip's id is
    `NAME@K`, K its number within the video; it has no other text.
    """

    spec = ActionSpec((), (), ())
    action_shift = 0

    def __init__(self, videos: StoreReader, frames: int) -> None:
        self.videos, self.frames = videos, frames
        counts = [videos.length(video) // frames for video in range(len(videos))]
        self.ends = np.cumsum(counts)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def length(self, episode: int) -> int:
        """That of every clip."""
        return self.frames

    def video(self, clip: int) -> int:
        """The number of the video that a clip is of."""
        return int(np.searchsorted(self.ends, clip, side="right"))

    def name(self, clip: int) -> str:
        """The name of the video that a clip is of."""
        return self.videos.name(self.video(clip))

    def read(self, episode: int, start: int, stop: int) -> Episode:
        """Frames start..stop-1 of a clip. Raises ValueError where there are fewer, BadFile where they are damaged."""
        if not 0 <= start < stop <= self.frames:
            raise ValueError(f"{self.name(episode)}: frames {start}..{stop - 1} of a clip of {self.frames} asked for")
        video = self.video(episode)
        number = episode - (int(self.ends[video - 1]) if video else 0)
        found = self.videos.read(video, number * self.frames + start, number * self.frames + stop)
        name = f"{self.videos.name(video)}@{number}"
        state = np.full(stop - start, ActionState.NONE, np.int64)
        return Episode(found.video, found.actions, state, texts=Texts((name,), ("",), ("",)))


def _is_film(path: Path) -> bool:
    # Some systems leave a file of their own beside every file, under its name behind a dot.
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.is_dir()
