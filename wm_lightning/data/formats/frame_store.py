"""Decoded, resized frames on disk, so that training never decodes H.264: one uint8 memory map per split.

A store is a folder of `frames.npy` [total, 3, h, w], `actions.npy` [total, a], `truth-<key>.npy` [total, ...]
and `index.json`. It is written beside its place, then renamed.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from wm_lightning.data.formats.atomic import atomic_folder
from wm_lightning.data.formats.resize import Resize
from wm_lightning.data.formats.source import StoredEpisode
from wm_lightning.data.formats.video_files import BadFile

INDEX = "index.json"


@dataclass(frozen=True)
class SmallEpisode:
    """An episode whose frames have the size of the store; see `StoredEpisode`."""

    frames: UInt8[np.ndarray, "f 3 h w"]
    actions: Float32[np.ndarray, "f a"]
    truth: Mapping[str, Shaped[np.ndarray, "f ..."]]
    decoder: str | None

    @classmethod
    def of(cls, episode: StoredEpisode, resize: Resize) -> "SmallEpisode":
        """The resized episode."""
        return cls(resize(episode.video), episode.actions, episode.truth, episode.decoder)


Content = TypeVar("Content")


@dataclass(frozen=True)
class Named(Generic[Content]):
    """An episode that could be read, under its name, or the file that forbade it."""

    name: str
    content: Content | BadFile


@dataclass(frozen=True)
class Index:
    """What a store holds: episodes by name with length and content hash, and files left out with reasons.

    `decoders` counts episodes by who decoded their video.
    """

    names: tuple[str, ...]
    lengths: tuple[int, ...]
    digests: tuple[str, ...]
    quarantine: Mapping[str, str]
    decoders: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "Index":
        """Inverse of what `write_store` puts into `index.json`."""
        values = json.loads((folder / INDEX).read_text())
        lists = {key: tuple(values[key]) for key in ("names", "lengths", "digests")}
        return cls(**lists, quarantine=values["quarantine"], decoders=values.get("decoders", {}))


class FrameStore:
    """A store opened for reading. The maps are opened in each process and never travel between processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = Index.read(folder)
        self.starts = np.concatenate([[0], np.cumsum(self.index.lengths, dtype=np.int64)])

    @cached_property
    def frames(self) -> UInt8[np.ndarray, "total 3 h w"]:
        """All frames; longer than the sum of the lengths where episodes were left out."""
        return np.load(self.folder / "frames.npy", mmap_mode="r", allow_pickle=False)

    @cached_property
    def actions(self) -> Float32[np.ndarray, "total a"]:
        """All actions as stored on disk: unclipped, unshifted."""
        return np.load(self.folder / "actions.npy", mmap_mode="r", allow_pickle=False)

    @cached_property
    def truth(self) -> Mapping[str, Shaped[np.ndarray, "total ..."]]:
        """Hidden state of simulated data, by key."""
        files = {path.stem.removeprefix("truth-"): path for path in sorted(self.folder.glob("truth-*.npy"))}
        return {key: np.load(path, mmap_mode="r", allow_pickle=False) for key, path in files.items()}

    def __getstate__(self) -> dict[str, Any]:
        # A pickled memory map would carry its whole content to every worker.
        return {key: value for key, value in self.__dict__.items() if key not in ("frames", "actions", "truth")}


def write_store(
    folder: Path, episodes: Iterable[Named[SmallEpisode]], *, most_frames: int, resize: Resize, allowed: int
) -> None:
    """Writes the store of `episodes`, of at most `most_frames` frames in total, made by `resize`.

    Episodes that could not be read are left out and reported in the index. Raises BadBudget as soon as
    there are more than `allowed` of them; then nothing is left behind.
    """
    with atomic_folder(folder) as partial:
        shape = (max(most_frames, 1), 3, resize.height, resize.width)
        frames = np.lib.format.open_memmap(partial / "frames.npy", mode="w+", dtype=np.uint8, shape=shape)
        kept: list[Kept] = []
        bad: list[BadFile] = []
        place = 0
        for episode in episodes:
            content = of_one_kind(episode, kept)
            if isinstance(content, BadFile):
                bad.append(content)
                check_budget(bad, allowed)
                continue
            frames[place : place + len(content.frames)] = content.frames
            place += len(content.frames)
            digest = episode_digest(content.frames, content.actions)
            kept.append(Kept(episode.name, content.actions, content.truth, digest, content.decoder))
        frames.flush()
        save_index(partial, kept, bad)


def save_index(folder: Path, kept: Sequence["Kept"], bad: Sequence[BadFile]) -> None:
    """Writes all of a store but its frames: `actions.npy`, `truth-<key>.npy` and `index.json`."""
    _save_columns(folder, kept)
    index = Index(
        names=tuple(episode.name for episode in kept),
        lengths=tuple(len(episode.actions) for episode in kept),
        digests=tuple(episode.digest for episode in kept),
        quarantine=listed(bad),
        decoders=dict(Counter(episode.decoder for episode in kept if episode.decoder is not None)),
    )
    (folder / INDEX).write_text(json.dumps(asdict(index), indent=1))


class BadBudget(ValueError):
    """More files are unusable than allowed: `count` were found until it was known."""

    def __init__(self, message: str, count: int) -> None:
        super().__init__(message)
        self.count = count


def check_budget(bad: Iterable[BadFile], allowed: int) -> None:
    """Raises BadBudget, naming the first files, where more than `allowed` are bad."""
    listed = list(bad)
    if len(listed) > allowed:
        lines = [f"  {error}" for error in listed[:5]]
        more = [f"  ... {len(listed) - 5} more"] if len(listed) > 5 else []
        raise BadBudget("\n".join([f"{len(listed)} unusable, {allowed} allowed:", *lines, *more]), len(listed))


@dataclass(frozen=True)
class Kept:
    """What the index holds of an episode."""

    name: str
    actions: Float32[np.ndarray, "f a"]
    truth: Mapping[str, np.ndarray]
    digest: str
    decoder: str | None


Small = TypeVar("Small", SmallEpisode, Kept)


def of_one_kind(episode: Named[Small], kept: Sequence[Kept]) -> Small | BadFile:
    """The episode, or BadFile where its hidden state has other arrays than the first one that is kept."""
    if isinstance(episode.content, BadFile) or not kept:
        return episode.content
    found, expected = ({k: v.shape[1:] for k, v in truth.items()} for truth in (episode.content.truth, kept[0].truth))
    if found == expected:
        return episode.content
    return BadFile(Path(f"{episode.name}.state.npz"), f"holds arrays {found}, the first episode's {expected}")


def _save_columns(folder: Path, episodes: Sequence[Kept]) -> None:
    if not episodes:
        return
    np.save(folder / "actions.npy", np.concatenate([e.actions for e in episodes]))
    for key in episodes[0].truth:
        np.save(folder / f"truth-{key}.npy", np.concatenate([e.truth[key] for e in episodes]))


def listed(bad: Sequence[BadFile]) -> dict[str, str]:
    """Reasons by file; a file that lost several episodes is listed once for each."""
    reasons: dict[str, str] = {}
    for error in bad:
        key, count = str(error.path), 1
        while key in reasons:
            count += 1
            key = f"{error.path} ({count})"
        reasons[key] = error.reason
    return reasons


def episode_digest(frames: UInt8[np.ndarray, "seen c h w"], actions: Float32[np.ndarray, "f a"]) -> str:
    """SHA-256 of resized frames, all of an episode or the first alone, and stored actions."""
    return hashlib.sha256(frames.tobytes() + actions.tobytes()).hexdigest()
