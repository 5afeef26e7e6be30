"""The clips of an evaluation protocol, as a list that can be committed: episode, start, length, seed.

Chosen by SHA-256 of names and numbers, so that neither a library's random generator nor a process changes them.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from wm_lightning.data.formats import nwm
from wm_lightning.data.formats.atomic import atomic_file
from wm_lightning.data.formats.episode import Reader
from wm_lightning.data.formats.video_files import BadFile
from wm_lightning.data.windows import Window

Item = TypeVar("Item", str, int)


@runtime_checkable
class Names(Protocol):
    """A reader whose episodes have names; others are called by their number."""

    def name(self, episode: int) -> str: ...


@dataclass(frozen=True)
class Entry:
    """One clip: `length` frames of `episode` from frame `start`; `seed` is that of the list."""

    episode: str
    start: int
    length: int
    seed: int


def episode_names(reader: Reader) -> list[str]:
    """The names of all episodes, in the reader's order."""
    return [reader.name(episode) if isinstance(reader, Names) else str(episode) for episode in range(len(reader))]


def make_index(reader: Reader, *, clips: int, frames: int, seed: int) -> list[Entry]:
    """At most `clips` distinct windows of `frames` frames; no episode is used twice before all are once.

    Episodes are visited in the order of SHA-256(seed:name), their starts in that of SHA-256(seed:name:start). Raises
    ValueError where no episode is long enough.
    """
    names = episode_names(reader)
    starts = {name: reader.length(episode) - frames + 1 for episode, name in enumerate(names)}
    starts = {name: count for name, count in starts.items() if count > 0}
    if not starts:
        longest = max((reader.length(episode) for episode in range(len(reader))), default=0)
        raise ValueError(f"the protocol needs {frames} frames, the longest of {len(names)} episodes has {longest}")
    orders = {name: _by_hash(range(count), f"{seed}:{name}") for name, count in starts.items()}
    entries: list[Entry] = []
    for turn in range(max(starts.values())):
        for name in _by_hash(starts, str(seed)):
            if turn < starts[name] and len(entries) < clips:
                entries.append(Entry(name, orders[name][turn], frames, seed))
    return entries


def write_index(path: Path, entries: Sequence[Entry]) -> None:
    """Writes the list, an entry a line."""
    lines = ",\n".join(json.dumps(asdict(entry)) for entry in entries)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial:
        partial.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def read_index(path: Path, reader: Reader, *, context: int, frames: int, seed: int) -> list[Entry]:
    """The list of a file: one of `write_index`, or NWM's `.pkl` of (trajectory, current time, ...).

    NWM's current time is the last of `context` given frames; its clips get `frames` frames and `seed`. Raises
    ValueError where the file is no list, or names what the data do not hold.
    """
    try:
        if path.suffix == ".pkl":
            entries = [Entry(row.trajectory, row.start(context), frames, seed) for row in nwm.read_index(path)]
        else:
            entries = [Entry(**values) for values in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, BadFile) as error:
        raise ValueError(f"{path} is no list of episode, start, length and seed ({error})") from error
    lengths = {name: reader.length(episode) for episode, name in enumerate(episode_names(reader))}
    for entry in entries:
        if not 0 <= entry.start <= lengths.get(entry.episode, 0) - entry.length:
            there = f"{lengths[entry.episode]} frames" if entry.episode in lengths else "no such episode"
            raise ValueError(
                f"{path}: {entry.episode} from frame {entry.start} for {entry.length} frames, but the data have {there}"
            )
    if not entries or len({entry.length for entry in entries}) > 1:
        raise ValueError(f"{path} must hold clips, all of one length")
    return entries


def windows_of(reader: Reader, entries: Sequence[Entry]) -> list[Window]:
    """The entries as windows; a clip's place in the list is its index, which seeds its noise."""
    places = {name: episode for episode, name in enumerate(episode_names(reader))}
    return [Window(places[e.episode], e.start, e.length, index) for index, e in enumerate(entries)]


def index_hash(entries: Sequence[Entry]) -> str:
    """SHA-256 of the list: equal hashes score equal clips."""
    return hashlib.sha256(json.dumps([asdict(entry) for entry in entries]).encode()).hexdigest()


def _by_hash(items: Iterable[Item], prefix: str) -> list[Item]:
    return sorted(items, key=lambda item: hashlib.sha256(f"{prefix}:{item}".encode()).digest())
