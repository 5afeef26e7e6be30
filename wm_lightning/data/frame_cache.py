"""The bounded cache of decoded frames: a split's store is built on first use, with a progress bar, and found later."""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from wm_lightning.data.formats.frame_store import INDEX, BadBudget, FrameStore, Index, check_budget
from wm_lightning.data.formats.resize import Resize
from wm_lightning.data.formats.source import EpisodeSource
from wm_lightning.data.formats.store_reader import attempt, build_store, check_actions, split_key
from wm_lightning.data.formats.video_files import BadFile

# Another run may be reading a store that was opened this recently, so it is not removed to make room.
IN_USE_SECONDS = 24 * 3600


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
        with self.named(split):
            check_budget(bad, self.allowed(candidates))

    @contextmanager
    def named(self, split: str, advice: str = "") -> Iterator[None]:
        """Turns BadBudget into a ValueError that names the split and says what to do, `advice` first."""
        try:
            yield
        except BadBudget as error:
            raise ValueError(
                f"{split}: {error}\n{advice}Repair or remove these files, or leave them out with "
                f"data.on_error=quarantine data.max_bad_share=0.2 (now {self.on_error} and {self.max_bad_share}); "
                "no file is ever changed."
            ) from error


@dataclass(frozen=True)
class FrameCache:
    """Stores in `folder`, together at most `most_bytes` large, each called `frames-<label>-...`."""

    folder: Path
    label: str
    most_bytes: float
    resize: Resize
    tolerance: Tolerance
    workers: int

    def store(self, source: EpisodeSource, split: str, settings: str) -> FrameStore:
        """The store of a split, found or built; `settings` say how files are read.

        Raises ValueError where its data are refused.
        """
        key = split_key(source, f"{self.resize} {settings}")
        place = self.folder / f"frames-{self.label}-{split}-{self.resize.height}x{self.resize.width}-{key}"
        candidates = len(source.names) + len(source.bad)
        if self.tolerance.on_error == "skip" and (place / INDEX).is_file() and _readable_again(source, place):
            shutil.rmtree(place)
        if not (place / INDEX).is_file():
            with self.tolerance.named(split):
                self._build(place, source, self.tolerance.allowed(candidates))
        store = FrameStore(place)
        left_out = [BadFile(Path(path), why) for path, why in store.index.quarantine.items()]
        self.tolerance.check(split, left_out, candidates)
        if not store.index.names:
            first = "; ".join(f"{path}: {reason}" for path, reason in islice(store.index.quarantine.items(), 5))
            raise ValueError(f"{split}: all {candidates} episodes are unusable, none is left to read. {first}")
        with suppress(PermissionError):  # a cache shared read-only keeps no record of its use
            os.utime(place / INDEX)
        return store

    def _build(self, place: Path, source: EpisodeSource, allowed: int) -> None:
        plan = check_actions(source)
        check_budget(plan.bad, allowed)
        self._make_room(plan.frames * 3 * self.resize.height * self.resize.width)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as progress:
            bar = progress.add_task(f"decoding {self.label}", total=len(plan.episodes))
            report = lambda steps: progress.advance(bar, steps)  # noqa: E731
            build_store(place, source, plan, self.resize, allowed=allowed, workers=self.workers, report=report)

    def _make_room(self, needed: int) -> None:
        """Removes the stores unused for longest. Raises ValueError where the bound or the disk is too small."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{self.folder} cannot be made ({error}); name another with data.cache_dir=") from error
        stores = sorted(self.folder.glob(f"frames-*/{INDEX}"), key=lambda path: path.stat().st_mtime)
        sizes = {index: _bytes(index.parent) for index in stores}
        total = sum(sizes.values())
        for index in stores:
            if total + needed > self.most_bytes and time.time() - index.stat().st_mtime > IN_USE_SECONDS:
                shutil.rmtree(index.parent)
                total -= sizes[index]
        if total + needed > self.most_bytes:
            raise ValueError(
                f"{self.folder}: decoded frames need {needed / 2**30:.2f} GiB beside {total / 2**30:.2f} GiB in use, "
                f"data.cache_gib={self.most_bytes / 2**30:g} are allowed; raise it, remove old frames-* folders, or "
                f"lower data.height and data.width"
            )
        free = shutil.disk_usage(self.folder).free
        if free < 1.05 * needed:
            raise ValueError(
                f"{self.folder} has {free / 2**20:.0f} MiB free, decoded frames need {needed / 2**20:.0f} MiB; make "
                f"room or name another folder with data.cache_dir="
            )


def _readable_again(source: EpisodeSource, store: Path) -> bool:
    """Whether an episode can be read that the store lacks."""
    lacking = set(source.names) - set(Index.read(store).names)
    return any(not isinstance(attempt(source, source.names.index(name)), BadFile) for name in sorted(lacking))


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
