"""One mp4 and one npz per episode, as world-model-eval stores Open X-Embodiment data.

Layout `<subset>/{train,val,test}/NNNNNNNNN.mp4` beside `NNNNNNNNN.npz`, whose positional array `arr_0` is
float32 [frames, 10]. `arr_0[k]` is stored at the observation k and acts to produce frame k+1. Simulated
episodes have a `NNNNNNNNN.state.npz` too: hidden state, every array by frame, for evaluation only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from wm_lightning.data.formats.robot_actions import columns
from wm_lightning.data.formats.source import (
    Outline,
    Stamp,
    StoredEpisode,
    checked_actions,
    hidden_state,
    load_arrays,
    names_faults,
    save_arrays,
    stamp,
    trimmed,
)
from wm_lightning.data.formats.video_files import BadFile, Decoder, Encoding, decoded, encode
from wm_lightning.data.formats.video_parts import decode_part, first_picture

ORDER = "oxe10"
COLUMNS = len(columns(ORDER))
STATE = ".state.npz"


@dataclass(frozen=True)
class EpisodeFiles:
    """Where one episode stands."""

    video: Path
    actions: Path
    state: Path

    @classmethod
    def of(cls, folder: Path, name: str) -> "EpisodeFiles":
        """The three paths of the episode `name` (without suffix)."""
        return cls(folder / f"{name}.mp4", folder / f"{name}.npz", folder / f"{name}{STATE}")

    @property
    def name(self) -> str:
        """The episode's number as written."""
        return self.video.stem


@dataclass(frozen=True)
class Found:
    """The episodes of a folder in the order of their names, and files that have no partner."""

    episodes: tuple[EpisodeFiles, ...]
    bad: tuple[BadFile, ...]


def find_episodes(folder: Path) -> Found:
    """The pairs of a split's folder. Raises ValueError where it is missing or holds neither mp4 nor npz."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not there; expected a folder of NNNNNNNNN.mp4 beside NNNNNNNNN.npz")
    videos = {path.stem for path in folder.glob("*.mp4")}
    states = {path.name.removesuffix(STATE) for path in folder.glob(f"*{STATE}")}
    actions = {path.stem for path in folder.glob("*.npz") if not path.name.endswith(STATE)}
    if not videos | actions:
        raise ValueError(f"{folder} holds no episode; expected NNNNNNNNN.mp4 beside NNNNNNNNN.npz")
    bad = [BadFile(folder / f"{name}.mp4", f"has no {name}.npz beside it", name) for name in videos - actions]
    bad += [BadFile(folder / f"{name}.npz", f"has no {name}.mp4 beside it", name) for name in actions - videos]
    pairs = sorted(videos & actions)
    if states:  # a judge that knows the truth of some episodes only would compare unlike things
        alone = set(pairs) - states
        bad += [BadFile(folder / f"{name}.mp4", f"has no {name}{STATE}, others do", name) for name in alone]
        pairs = [name for name in pairs if name in states]
    return Found(tuple(EpisodeFiles.of(folder, name) for name in pairs), tuple(sorted(bad, key=lambda b: b.path)))


@names_faults
class Mp4NpzSource:
    """The episodes of one split's folder. `trim_tail` lets video and actions differ by one frame."""

    columns = columns(ORDER)

    def __init__(self, folder: Path, *, decoder: Decoder, trim_tail: bool) -> None:
        self.found, self.trim_tail = find_episodes(folder), trim_tail
        self.decoder: Decoder = decoder
        self.names: Sequence[str] = tuple(files.name for files in self.found.episodes)
        self.bad: Sequence[BadFile] = self.found.bad

    def stamps(self) -> Sequence[Stamp]:
        """Name, size and time of every file of the split."""
        paths = [path for files in self.found.episodes for path in (files.video, files.actions, files.state)]
        return [stamp(path) for path in [*paths, *(error.path for error in self.bad)] if path.exists()]

    def actions(self, episode: int) -> Float32[np.ndarray, "f a"]:
        """The stored actions."""
        return read_actions(self.found.episodes[episode])

    def read(self, episode: int) -> StoredEpisode:
        """The whole episode."""
        return read_episode(self.found.episodes[episode], decoder=self.decoder, trim_tail=self.trim_tail)

    def outline(self, episode: int) -> Outline:
        """Actions, hidden state and the first frame."""
        files = self.found.episodes[episode]
        actions = read_actions(files)
        found = first_picture(files.video, self.decoder, len(actions))
        frames = trimmed(files.video, found.frames, len(actions), trim_tail=self.trim_tail)
        return Outline(found.picture, actions[:frames], hidden_state(files.state, frames), found.decoder)

    def frames(self, episode: int, start: int, stop: int) -> UInt8[np.ndarray, "f h w 3"]:
        """Some frames, decoded from the key frame before them."""
        return decode_part(self.found.episodes[episode].video, self.decoder, start, stop)


def read_actions(files: EpisodeFiles) -> Float32[np.ndarray, "f a"]:
    """The stored actions, unclipped and unshifted. Raises BadFile where they are no finite [frames, 10] floats."""
    arrays = load_arrays(files.actions)
    if "arr_0" not in arrays:
        raise BadFile(files.actions, f"has no array arr_0, only {sorted(arrays)}")
    return checked_actions(files.actions, arrays["arr_0"], COLUMNS)


def read_episode(files: EpisodeFiles, *, decoder: Decoder, trim_tail: bool) -> StoredEpisode:
    """The whole episode. Raises BadFile where a file is damaged or the lengths differ.

    `trim_tail` lets video and actions differ by one frame: the longer one loses its last.
    """
    actions, found = read_actions(files), decoded(files.video, decoder)
    frames = trimmed(files.video, len(found.video), len(actions), trim_tail=trim_tail)
    truth = hidden_state(files.state, frames)
    return StoredEpisode(found.video[:frames], actions[:frames], truth, found.decoder)


def write_episode(
    files: EpisodeFiles,
    video: UInt8[np.ndarray, "f h w 3"],
    actions: Float32[np.ndarray, "f a"],
    state: Mapping[str, Shaped[np.ndarray, "..."]],
    encoding: Encoding,
) -> None:
    """Writes the files of one episode, each whole or not at all. Raises ValueError where the lengths differ."""
    lengths = {"video": len(video), "actions": len(actions)} | {key: len(values) for key, values in state.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{files.video}: lengths differ: {lengths}; every array has one row per frame")
    save_arrays(files.actions, {"arr_0": actions.astype(np.float32)})
    if state:
        save_arrays(files.state, state)
    encode(files.video, video, encoding)
