"""The bounded cache of decoded frames: a split's store is built on first use, with a progress bar, and found later.

Data that are larger than the bound have an index instead, and their frames are read from the recordings.
"""

import logging
import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from wm_lightning.data.formats.direct import FrameIndex, Survey, survey
from wm_lightning.data.formats.frame_store import INDEX, BadBudget, FrameStore, Index, check_budget
from wm_lightning.data.formats.resize import Resize
from wm_lightning.data.formats.source import EpisodeSource
from wm_lightning.data.formats.store_reader import Plan, build_store, check_actions, split_key, tried
from wm_lightning.data.formats.video_files import BadFile

log = logging.getLogger(__name__)

# Keep decoded frames, read them from the recordings, or the latter where they are too many to be kept.
Way = Literal["auto", "keep", "direct"]
# Another run may be reading a store that was opened this recently, so it is not removed to make room.
IN_USE_SECONDS = 24 * 3600


def way_named(name: str) -> Way:
    """The way of that name. Raises ValueError where there is none."""
    for way in get_args(Way):
        if way == name:
            return way
    raise ValueError(f"data.store={name} is not one of {', '.join(get_args(Way))}")


@dataclass(frozen=True)
class Tolerance:
    """How many unusable episodes are left out before the data are refused: none (`raise`), or a share of a split.

    `quarantine` remembers what was left out; `skip` tries it again every time, for storage that fails now and then.
    """

    on_error: str
    max_bad_share: float

    def __post_init__(self) -> None:
        if self.on_error not in ("raise", "skip", "quarantine"):
            raise ValueError(f"data.on_error={self.on_error} is not one of raise, skip, quarantine")
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"data.max_bad_share={self.max_bad_share} is not a share in [0, 1]")

    def allowed(self, candidates: int) -> int:
        """Number of episodes out of `candidates` that may be bad."""
        return 0 if self.on_error == "raise" else int(self.max_bad_share * candidates + 1e-9)

    def check(self, split: str, bad: Sequence[BadFile], candidates: int) -> None:
        """Raises ValueError, naming the first files and what to do, where more than allowed of a split are bad."""
        with self.named(split, candidates):
            check_budget(bad, self.allowed(candidates))

    @contextmanager
    def named(self, split: str, candidates: int, advice: str = "") -> Iterator[None]:
        """Turns BadBudget into a ValueError that names the split and says what to do, `advice` first.

        The share that would do is that of the files found unusable so far among the split's `candidates`.
        """
        try:
            yield
        except BadBudget as error:
            share = math.ceil(100 * error.count / max(candidates, error.count)) / 100
            raise ValueError(
                f"{split}: {error}\n{advice}Repair or remove these files, or leave them out with "
                f"data.on_error=quarantine data.max_bad_share={share} (now {self.on_error} and {self.max_bad_share}); "
                "no file is ever changed."
            ) from error


@dataclass(frozen=True)
class FrameCache:
    """Stores in `folder`, together at most `most_bytes` large, each called `frames-<label>-...`.

    What is read directly has an `index-<label>-...`, which counts as nothing.
    """

    folder: Path
    label: str
    most_bytes: float
    resize: Resize
    tolerance: Tolerance
    workers: int
    way: Way

    def store(self, source: EpisodeSource, split: str, settings: str) -> FrameStore:
        """The store of a split, or its index where frames are read directly, found or built.

        `settings` say how files are read. Raises ValueError where its data are refused.
        """
        key = split_key(source, f"{self.resize} {settings}")
        name = f"{self.label}-{split}-{self.resize.height}x{self.resize.width}-{key}"
        candidates = len(source.names) + len(source.bad)
        with self.tolerance.named(split, candidates):
            store = self._opened(source, name, self.tolerance.allowed(candidates))
        left_out = [BadFile(Path(path), why) for path, why in store.index.quarantine.items()]
        self.tolerance.check(split, left_out, candidates)
        if not store.index.names:
            first = "; ".join(f"{path}: {reason}" for path, reason in islice(store.index.quarantine.items(), 5))
            raise ValueError(f"{split}: all {candidates} episodes are unusable, none is left to read. {first}")
        with suppress(PermissionError):  # a cache shared read-only keeps no record of its use
            os.utime(store.folder / INDEX)
        return store

    def _opened(self, source: EpisodeSource, name: str, allowed: int) -> FrameStore:
        frames, index = self.folder / f"frames-{name}", self.folder / f"index-{name}"
        if self.way != "direct" and self._there(frames, source):
            return FrameStore(frames)
        if self.way == "keep":
            plan = check_actions(source)
            check_budget(plan.bad, allowed)
            self._build(frames, source, plan, allowed)
            return FrameStore(frames)
        if self._there(index, source) and not self._fits(sum(Index.read(index).lengths), name):
            return FrameIndex(index)
        found = self._surveyed(source)
        check_budget(found.bad, allowed)
        if self._fits(found.frames, name):
            self._build(frames, source, found.plan, allowed)
            return FrameStore(frames)
        self._make_folder()
        found.write(index)
        return FrameIndex(index)

    def _there(self, place: Path, source: EpisodeSource) -> bool:
        """Whether a store or index stands there; one that lacks what can be read again is removed where asked for."""
        found = (place / INDEX).is_file()
        if found and self.tolerance.on_error == "skip" and _readable_again(source, place):
            shutil.rmtree(place)
            return False
        return found

    def _fits(self, frames: int, name: str) -> bool:
        """Whether so many frames are to be kept; says so where they are too many."""
        refused = None if self.way == "direct" else self._room(self._bytes_of(frames)).refused
        if refused is not None:
            log.warning(
                "%s: %s. Frames are read from the recordings for every clip instead, as with data.store=direct; let "
                "data.num_workers processes read ahead", name, refused,
            )  # fmt: skip
        return self.way == "auto" and refused is None

    def _bytes_of(self, frames: int) -> int:
        return frames * 3 * self.resize.height * self.resize.width

    def _surveyed(self, source: EpisodeSource) -> Survey:
        with _bar() as progress:
            bar = progress.add_task(f"indexing {self.label}", total=len(source.names))
            return survey(source, self.resize, self.workers, lambda steps: progress.advance(bar, steps))

    def _build(self, place: Path, source: EpisodeSource, plan: Plan, allowed: int) -> None:
        self._make_folder()
        room = self._room(self._bytes_of(plan.frames))
        if room.refused is not None:
            raise ValueError(f"{room.refused}; data.store=direct reads frames from the recordings instead")
        for stale in room.stale:
            shutil.rmtree(stale)
        with _bar() as progress:
            bar = progress.add_task(f"decoding {self.label}", total=len(plan.episodes))
            report = lambda steps: progress.advance(bar, steps)  # noqa: E731
            build_store(place, source, plan, self.resize, allowed=allowed, workers=self.workers, report=report)

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{self.folder} cannot be made ({error}); name another with data.cache_dir=") from error

    def _room(self, needed: int) -> "Room":
        """The stores, unused for longest, that must go for so many bytes, or why there is no room for them."""
        stores = sorted(self.folder.glob(f"frames-*/{INDEX}"), key=lambda path: path.stat().st_mtime)
        sizes = {index: _bytes(index.parent) for index in stores}
        total, stale = sum(sizes.values()), []
        for index in stores:
            if total + needed > self.most_bytes and time.time() - index.stat().st_mtime > IN_USE_SECONDS:
                stale.append(index.parent)
                total -= sizes[index]
        if total + needed > self.most_bytes:
            return Room(
                refused=f"{self.folder}: decoded frames need {needed / 2**30:.2f} GiB beside {total / 2**30:.2f} GiB "
                f"in use, data.cache_gib={self.most_bytes / 2**30:g} are allowed; raise it, remove old frames-* "
                f"folders, or lower data.height and data.width"
            )
        there = next(path for path in (self.folder, *self.folder.absolute().parents) if path.is_dir())
        free = shutil.disk_usage(there).free + sum(sizes[path / INDEX] for path in stale)
        if free < 1.05 * needed:
            return Room(
                refused=f"{self.folder} has {free / 2**20:.0f} MiB free, decoded frames need {needed / 2**20:.0f} MiB; "
                f"make room or name another folder with data.cache_dir="
            )
        return Room(tuple(stale))


@dataclass(frozen=True)
class Room:
    """Stores that are to be removed to make room, or why there would be none all the same."""

    stale: tuple[Path, ...] = ()
    refused: str | None = None


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn())


def _readable_again(source: EpisodeSource, store: Path) -> bool:
    """Whether an episode can be read that the store lacks."""
    lacking = set(source.names) - set(Index.read(store).names)
    read = source.read if store.name.startswith("frames-") else source.outline
    places = [source.names.index(name) for name in sorted(lacking)]
    return any(not isinstance(tried(lambda place=place: read(place)), BadFile) for place in places)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
