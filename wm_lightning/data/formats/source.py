"""What a format gives before frames are decoded: the episodes of one split, and each as it stands on disk."""

import lzma
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from wm_lightning.data.formats.atomic import atomic_file
from wm_lightning.data.formats.video_files import BadFile

Stamp = tuple[str, int, int]
# What numpy, torch and zipfile raise for damaged zips of arrays. AttributeError: numpy gives a bare array for an npy
# under another name; RuntimeError: a bit says that a member is encrypted; tokenize.TokenError, TypeError: what numpy
# takes for a header is no Python literal, or has keys of several kinds; MemoryError, ArithmeticError: absurd sizes.
UNREADABLE = (
    *(OSError, ValueError, EOFError, AttributeError, LookupError, RuntimeError, MemoryError, ArithmeticError),
    *(TypeError, SyntaxError, tokenize.TokenError, struct.error, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)
# What h5py raises for damaged files, by where the damage lies.
UNREADABLE_HDF5 = (
    *(OSError, ValueError, LookupError, RuntimeError, MemoryError, ArithmeticError, TypeError, AttributeError),
)


@dataclass(frozen=True)
class StoredEpisode:
    """An episode as it stands on disk: all arrays have the same number of frames.

    `actions[k]` is stored at the observation k; `truth` is a simulator's hidden state, for evaluation only; `decoder`
    is who decoded a video, nobody where pictures are not stored as one.
    """

    video: UInt8[np.ndarray, "f h w 3"]
    actions: Float32[np.ndarray, "f a"]
    truth: Mapping[str, Shaped[np.ndarray, "f ..."]] = field(default_factory=dict)
    decoder: str | None = None


@dataclass(frozen=True)
class Outline:
    """What is known of an episode before its frames are decoded: the first of them, and all that is small.

    `actions` and `truth` have the episode's length, held against the number of frames as far as that is written down;
    see `StoredEpisode`.
    """

    first: UInt8[np.ndarray, "h w 3"]
    actions: Float32[np.ndarray, "f a"]
    truth: Mapping[str, Shaped[np.ndarray, "f ..."]] = field(default_factory=dict)
    decoder: str | None = None


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
        """What was found unusable without decoding, one for each episode that is lost, under its name if it is known.

        Parts of a split are drawn from these names too, so that a bad file moves no other episode into another part.
        """
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

    def outline(self, episode: int) -> Outline:
        """The episode without its frames, out of files opened once. Raises BadFile as far as damage shows by then."""
        ...

    def frames(self, episode: int, start: int, stop: int) -> UInt8[np.ndarray, "f h w 3"]:
        """Frames start..stop-1 as `read` gives them, and no more decoded than the form asks for.

        Raises BadFile where one of them is damaged or not there.
        """
        ...


def load_arrays(path: Path, only: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """All arrays of an npz file (or those of `only`), none unpickled. Raises BadFile where it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {key: arrays[key] for key in arrays.files if only is None or key in only}
    except UNREADABLE as error:
        raise BadFile(path, f"cannot be read as npz ({error})") from error
    for key, values in found.items():
        if not isinstance(values, np.ndarray):  # numpy gives the bytes of a member that is no npy
            raise BadFile(path, f"cannot be read as npz ({key} is no array)")
    return found


def hidden_state(path: Path, frames: int) -> dict[str, np.ndarray]:
    """What a simulator left beside an episode, every array cut to its frames; nothing where there is no file.

    Raises BadFile where it cannot be read or has fewer frames.
    """
    truth = load_arrays(path) if path.is_file() else {}
    for key, values in truth.items():
        if values.ndim == 0 or len(values) < frames:
            raise BadFile(path, f"{key} has shape {list(values.shape)} for {frames} frames")
    return {key: values[:frames] for key, values in truth.items()}


def state_beside(path: Path) -> Path:
    """Where the hidden state of an episode stands: NAME.state.npz beside NAME.*."""
    return path.with_suffix(".state.npz")


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an npz file, whole or not at all."""
    # An open file, because numpy would add .npz to the partial name.
    with atomic_file(path) as partial, partial.open("wb") as file:
        np.savez(file, **dict(arrays))  # pyright: ignore[reportArgumentType] (keys are never allow_pickle)


def stamp(path: Path) -> Stamp:
    """Name, size and time of a file; -1 and 0 where it cannot be looked at, as where a link leads nowhere."""
    try:
        status = path.stat()
    except OSError:
        return path.name, -1, 0
    return path.name, status.st_size, status.st_mtime_ns


def names_listed(path: Path) -> list[str]:
    """The names in a list of files, apart by white space. Raises ValueError where it cannot be read as text."""
    try:
        return path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); a list of names, one a line, is expected") from error


def require_unique(places: Iterable[tuple[str, Path]]) -> None:
    """Raises ValueError where a name is that of two episodes: one would be trained on twice, or be in two parts."""
    seen: dict[str, Path] = {}
    for name, path in places:
        if name in seen:
            raise ValueError(f"{path}: {name} is there twice, in {seen[name]} too; remove one of the two")
        seen[name] = path


S = TypeVar("S", bound=type)


def names_faults(source: S) -> S:
    """The class of a source, whose methods that read raise BadFile where the storage fails (OSError) too.

    So a file that cannot be opened is tried again, left out and listed like one that is damaged.
    """
    for name in ("actions", "read", "outline", "frames"):
        setattr(source, name, _named(getattr(source, name)))
    return source


def _named(reading: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(reading)
    def read(self: Any, episode: int, *stretch: int) -> Any:
        try:
            return reading(self, episode, *stretch)
        except OSError as error:
            named = error.filename if isinstance(error.filename, str) else self.names[episode]
            raise BadFile(Path(named), f"cannot be read ({error})") from error

    return read


def checked_actions(path: Path, actions: np.ndarray, width: int) -> Float32[np.ndarray, "f a"]:
    """The actions as float32. Raises BadFile where they are not finite numbers of shape [frames, width]."""
    if actions.ndim != 2 or actions.shape[1] != width or not len(actions):
        raise BadFile(path, f"actions have shape {list(actions.shape)}, [frames, {width}] is expected")
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite there, and refused as that
        found = actions.astype(np.float32) if actions.dtype.kind in "fiub" else None
    if found is None or not np.isfinite(found).all():
        raise BadFile(path, "actions are not all finite numbers (NaN or infinite)")
    return found


def of_one_size(path: Path, pictures: Sequence[UInt8[np.ndarray, "h w 3"]]) -> UInt8[np.ndarray, "f h w 3"]:
    """The pictures as one array. Raises BadFile where they differ in size."""
    if len({picture.shape for picture in pictures}) > 1:
        raise BadFile(path, "changes its picture size on the way")
    return np.stack(pictures)


def stretch(path: Path, video: UInt8[np.ndarray, "n h w 3"], start: int, stop: int) -> UInt8[np.ndarray, "f h w 3"]:
    """Frames start..stop-1, without the memory of the others. Raises BadFile where there are fewer."""
    if not 0 <= start < stop <= len(video):
        raise BadFile(path, f"has {len(video)} frames, {start}..{stop - 1} are asked for")
    return video[start:stop].copy()


def trimmed(path: Path, video: int, actions: int, *, trim_tail: bool | None) -> int:
    """The common length of video and actions. Raises BadFile where they differ, by more than one with `trim_tail`.

    None stands for a form whose lengths never differ, so that there is nothing to allow.
    """
    if abs(video - actions) > int(trim_tail or False):
        hint = "; data.trim_tail=true allows a difference of one" if trim_tail is False else ""
        raise BadFile(path, f"has {video} frames for {actions} actions{hint}")
    return min(video, actions)
