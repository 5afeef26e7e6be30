"""Readers over decoded episodes: a split is checked and decoded once into a frame store, then read by windows."""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Float32, UInt8

from wm_lightning.clip import ActionSpec
from wm_lightning.data.formats.episode import Episode, produced_actions
from wm_lightning.data.formats.frame_store import (
    Content,
    FrameStore,
    Named,
    SmallEpisode,
    check_budget,
    episode_digest,
    write_store,
)
from wm_lightning.data.formats.resize import Resize
from wm_lightning.data.formats.robot_actions import convert
from wm_lightning.data.formats.source import EpisodeSource, StoredEpisode
from wm_lightning.data.formats.video_files import BadFile

Read = TypeVar("Read")

VERSION = 2  # part of a store's key: raise it when the same files would give other stores


@dataclass(frozen=True)
class Plan:
    """What a split's store will hold: episodes whose actions are sound, files that are bad, frames in total."""

    episodes: tuple[int, ...]
    bad: tuple[BadFile, ...]
    frames: int


def split_key(source: EpisodeSource, settings: str) -> str:
    """12 hexadecimal digits that change with any file's name, size or time, with what is lost, and with `settings`."""
    lost = [(error.path.name, error.episode) for error in source.bad]
    text = json.dumps([VERSION, type(source).__name__, settings, source.stamps(), lost])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def check_actions(source: EpisodeSource) -> Plan:
    """Reads the actions of all episodes; no picture is decoded yet."""
    good, bad, frames = [], list(source.bad), 0
    for episode in range(len(source.names)):
        try:
            frames += len(source.actions(episode))
            good.append(episode)
        except BadFile as error:
            bad.append(error)
    return Plan(tuple(good), tuple(bad), frames)


def build_store(
    place: Path, source: EpisodeSource, plan: Plan, resize: Resize, *, allowed: int, workers: int,
    report: Callable[[int], None],
) -> None:  # fmt: skip
    """Decodes every episode of a plan into a store at `place`, on `workers` threads, calling `report(1)` for each.

    Raises BadBudget where more than `allowed` episodes are bad, before any decoding if that is known.
    """
    check_budget(plan.bad, allowed)
    bad = (Named[SmallEpisode](error.path.stem, error) for error in plan.bad)

    def small(episode: StoredEpisode) -> SmallEpisode:
        return SmallEpisode.of(episode, resize)

    def episodes() -> Iterator[Named[SmallEpisode]]:
        yield from bad
        for episode in read_each(source, plan.episodes, workers, source.read, small):
            yield episode
            report(1)

    write_store(place, episodes(), most_frames=plan.frames, resize=resize, allowed=allowed)


def read_all(source: EpisodeSource, episodes: Sequence[int], workers: int) -> Iterator[Named[StoredEpisode]]:
    """Some episodes in their order as they are stored, or why they cannot be read: see `read_each`."""
    return read_each(source, episodes, workers, source.read, lambda episode: episode)


def read_each(
    source: EpisodeSource, episodes: Sequence[int], workers: int, reading: Callable[[int], Read],
    change: Callable[[Read], Content],
) -> Iterator[Named[Content]]:  # fmt: skip
    """What `change` makes of what `reading` gives of some episodes, in their order, or why they cannot be read.

    So many `workers`, threads, read ahead, but twice as many episodes as threads at most: these wait in memory until
    they are taken, and so they are changed (made smaller, as a rule) by the thread that read them.
    """

    def read(episode: int) -> Named[Content]:
        found = tried(lambda: reading(episode))
        return Named(source.names[episode], found if isinstance(found, BadFile) else change(found))

    waiting: deque[Future[Named[Content]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for episode in episodes:
                waiting.append(pool.submit(read, episode))
                if len(waiting) == 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # where the taker gives up, nobody needs the rest
            for future in waiting:
                future.cancel()


def attempt(source: EpisodeSource, episode: int) -> StoredEpisode | BadFile:
    """The whole episode, or what is wrong with it: see `tried`."""
    return tried(lambda: source.read(episode))


def tried(reading: Callable[[], Read]) -> Read | BadFile:
    """What is read, tried once more where it cannot be: shared storage fails now and then. Else what is wrong."""
    try:
        return reading()
    except BadFile:
        try:
            return reading()
        except BadFile as error:
            return error


@dataclass(frozen=True)
class DirectFrames:
    """Frames out of the recordings themselves, resized as those of a store are."""

    source: EpisodeSource
    resize: Resize

    @cached_property
    def places(self) -> Mapping[str, int]:
        """The episodes' numbers in the source, by name."""
        return {name: place for place, name in enumerate(self.source.names)}

    def read(self, name: str, start: int, stop: int) -> UInt8[np.ndarray, "f 3 h w"]:
        """Frames start..stop-1 of an episode. Raises BadFile, after a second try, where they cannot be read."""
        found = tried(lambda: self.source.frames(self.places[name], start, stop))
        if isinstance(found, BadFile):
            reason = (
                f"{found.reason}; frames {start}..{stop - 1} of {name} were to be read. Repair or remove the file; "
                f"'task=doctor task.decoded=null' finds all that are damaged"
            )
            raise BadFile(found.path, reason, name) from found
        return self.resize(found)


class StoreReader:
    """Some or all episodes of a frame store, whose action columns are `columns`.

    With `direct` frames come from there and of the store the rest alone. Actions are given in the order of `spec` and
    clipped to it; `clipped` counts the values that changed.
    """

    def __init__(
        self, store: FrameStore, *, columns: Sequence[str], spec: ActionSpec, action_shift: int,
        episodes: Sequence[int] | None = None, direct: DirectFrames | None = None,
    ) -> None:  # fmt: skip
        self.store, self.columns, self.spec, self.action_shift = store, tuple(columns), spec, action_shift
        self.direct = direct
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
        """SHA-256 of an episode's resized frames (read directly: of the first of them) and stored actions."""
        return self.store.index.digests[self.episodes[episode]]

    def mark(self, episode: int) -> str:
        """SHA-256 of an episode's first resized frame and stored actions, however frames are read."""
        if self.direct is not None:
            return self.digest(episode)
        place = self._place(episode)
        return episode_digest(np.array(self.store.frames[place][:1]), np.array(self.store.actions[place]))

    def read(self, episode: int, start: int, stop: int) -> Episode:
        """Frames start..stop-1 with the actions that produced them.

        Raises ValueError where there are fewer, and BadFile where frames are read directly from a damaged file.
        """
        if not 0 <= start < stop <= self.length(episode):
            raise ValueError(f"{self.name(episode)}: frames {start}..{stop - 1} of {self.length(episode)} asked for")
        stored = np.clip(self._actions(self._place(episode)), self.low, self.high)
        produced = produced_actions(stored, start, stop, self.action_shift)
        video, truth = self._frames(episode, start, stop)
        return Episode(video, produced.actions, produced.state, truth)

    def _frames(
        self, episode: int, start: int, stop: int
    ) -> tuple[UInt8[np.ndarray, "f 3 h w"], Mapping[str, np.ndarray]]:
        """Pixels and hidden state of a stretch."""
        place = self._place(episode)
        part = slice(place.start + start, place.start + stop)
        truth = {key: np.array(values[part]) for key, values in self.store.truth.items()}
        if self.direct is not None:
            return self.direct.read(self.name(episode), start, stop), truth
        return np.array(self.store.frames[part]), truth

    def _place(self, episode: int) -> slice:
        first = int(self.store.starts[self.episodes[episode]])
        return slice(first, first + self.length(episode))

    def _actions(self, place: slice) -> Float32[np.ndarray, "f a"]:
        return convert(self.store.actions[place], self.columns, self.spec.names)

    def _outside(self, episode: int) -> int:
        stored = self._actions(self._place(episode))
        # A little slack: float32 on disk may exceed a float64 bound by rounding.
        slack = 1e-6 * (self.high - self.low)
        return int(((stored < self.low - slack) | (stored > self.high + slack)).sum())
