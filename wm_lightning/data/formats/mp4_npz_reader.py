"""The reader of mp4 + npz folders: checks and decodes a split once into a frame store, then reads windows of it."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from wm_lightning.clip import ActionSpec
from wm_lightning.data.formats.episode import Episode, produced_actions
from wm_lightning.data.formats.frame_store import FrameStore, Named, check_budget, write_store
from wm_lightning.data.formats.mp4_npz import EpisodeFiles, Found, read_actions, read_episode
from wm_lightning.data.formats.video_files import BadFile, Decoder

VERSION = 1  # part of a store's key: raise it when the same files would give other stores
TOGETHER = 32


@dataclass(frozen=True)
class Reading:
    """How files become frames: size in pixels, who decodes, whether lengths may differ by one."""

    height: int
    width: int
    decoder: Decoder
    trim_tail: bool


@dataclass(frozen=True)
class Plan:
    """What a split's store will hold: files whose actions are sound, files that are bad, frames in total."""

    episodes: tuple[EpisodeFiles, ...]
    bad: tuple[BadFile, ...]
    frames: int


def split_key(found: Found, reading: Reading) -> str:
    """12 hexadecimal digits that change with any file's name, size or time, and with `reading`."""
    paths = [path for files in found.episodes for path in (files.video, files.actions, files.state)]
    paths += [error.path for error in found.bad]
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths if path.exists()]
    text = json.dumps([VERSION, asdict(reading), stats])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def check_actions(found: Found) -> Plan:
    """Reads the actions of all episodes; no video is opened yet."""
    good, bad, frames = [], list(found.bad), 0
    for files in found.episodes:
        try:
            frames += len(read_actions(files))
            good.append(files)
        except BadFile as error:
            bad.append(error)
    return Plan(tuple(good), tuple(bad), frames)


def build_store(
    place: Path, plan: Plan, reading: Reading, *, allowed: int, workers: int, report: Callable[[int], None]
) -> None:
    """Decodes every episode of a plan into a store at `place`, on `workers` threads, calling `report(1)` for each.

    Raises BadBudget where more than `allowed` episodes are bad, before any decoding if that is known.
    """
    check_budget(plan.bad, allowed)
    bad = (Named(error.path.stem, error) for error in plan.bad)

    def episodes() -> Iterator[Named]:
        yield from bad
        for episode in _read_all(plan.episodes, reading, workers):
            yield episode
            report(1)

    size = {"height": reading.height, "width": reading.width}
    write_store(place, episodes(), most_frames=plan.frames, allowed=allowed, **size)


def _read_all(files: Sequence[EpisodeFiles], reading: Reading, workers: int) -> Iterator[Named]:
    def read(one: EpisodeFiles) -> Named:
        try:
            return Named(one.name, read_episode(one, decoder=reading.decoder, trim_tail=reading.trim_tail))
        except BadFile as error:
            return Named(one.name, error)

    queue = iter(files)
    with ThreadPoolExecutor(workers) as pool:
        # In portions: decoded frames wait in memory until they are taken.
        while portion := list(islice(queue, TOGETHER)):
            yield from pool.map(read, portion)


class Mp4NpzReader:
    """Some or all episodes of a frame store. Actions are clipped to `spec`; `clipped` counts the values it changed."""

    def __init__(
        self, store: FrameStore, *, spec: ActionSpec, action_shift: int, episodes: Sequence[int] | None = None
    ) -> None:
        self.store, self.spec, self.action_shift = store, spec, action_shift
        self.episodes = tuple(range(len(store.index.names)) if episodes is None else episodes)
        self.low, self.high = np.array(spec.low, np.float32), np.array(spec.high, np.float32)
        self.clipped = sum(self._outside(episode) for episode in range(len(self)))

    def __len__(self) -> int:
        return len(self.episodes)

    def length(self, episode: int) -> int:
        """Number of frames of an episode."""
        return self.store.index.lengths[self.episodes[episode]]

    def name(self, episode: int) -> str:
        """The name of an episode's files, without suffix."""
        return self.store.index.names[self.episodes[episode]]

    def digest(self, episode: int) -> str:
        """SHA-256 of an episode's resized frames and stored actions."""
        return self.store.index.digests[self.episodes[episode]]

    def read(self, episode: int, start: int, stop: int) -> Episode:
        """Frames start..stop-1 with the actions that produced them. Raises ValueError where there are fewer."""
        if not 0 <= start < stop <= self.length(episode):
            raise ValueError(f"{self.name(episode)}: frames {start}..{stop - 1} of {self.length(episode)} asked for")
        place = self._place(episode)
        part = slice(place.start + start, place.start + stop)
        stored = np.clip(self.store.actions[place], self.low, self.high)
        produced = produced_actions(stored, start, stop, self.action_shift)
        truth = {key: np.array(values[part]) for key, values in self.store.truth.items()}
        return Episode(np.array(self.store.frames[part]), produced.actions, produced.state, truth)

    def _place(self, episode: int) -> slice:
        first = int(self.store.starts[self.episodes[episode]])
        return slice(first, first + self.length(episode))

    def _outside(self, episode: int) -> int:
        stored = self.store.actions[self._place(episode)]
        # A little slack: float32 on disk may exceed a float64 bound by rounding.
        slack = 1e-6 * (self.high - self.low)
        return int(((stored < self.low - slack) | (stored > self.high + slack)).sum())
