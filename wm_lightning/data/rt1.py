"""The DataModule of robot clips stored as mp4 + npz: real ones, or those of the simulated pusher."""

import hashlib
import json
import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from wm_lightning.clip import ActionSpec
from wm_lightning.data import cache
from wm_lightning.data.datamodule import SPLITS, ClipDataModule
from wm_lightning.data.formats.frame_store import FrameStore
from wm_lightning.data.formats.mp4_npz import action_spec
from wm_lightning.data.formats.mp4_npz_reader import Mp4NpzReader, Reading
from wm_lightning.data.formats.video_files import decoder_named
from wm_lightning.data.frame_cache import FrameCache, Tolerance
from wm_lightning.worlds.pusher import PusherWorld

log = logging.getLogger(__name__)


class RT1DataModule(ClipDataModule):
    """Clips of `<root>/<subset>/{train,val,test}`, or of the simulated `world` where there is no root.

    Where a folder has no `val`, `val_share` of the training episodes (at least one) validate and are not
    trained on. `bounds` gives each subset's action bounds by field: actions are clipped to them, and the
    manifest counts how many values that changed. Frames are decoded once, by `decode_workers` threads, into
    a cache of at most `cache_gib`.
    """

    def __init__(
        self,
        *,
        world: PusherWorld,
        subset: str,
        bounds: Mapping[str, Mapping[str, float]],
        val_share: float,
        decoder: str,
        trim_tail: bool,
        on_error: str,
        max_bad_share: float,
        decode_workers: int,
        cache_gib: float,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if not 0 < val_share < 1 or decode_workers < 1:
            raise ValueError(f"data.{val_share=} must lie between 0 and 1, and data.{decode_workers=} be at least 1")
        if self.root is None and subset != world.name:
            raise ValueError(
                f"data.subset={subset} without data.root: the simulated subset is {world.name}; name the folder of "
                f"real data with data.root=PATH"
            )
        self.label, self.val_share = subset, val_share
        self._simulator = world
        self.world: PusherWorld | None = world if self._of_this_world() else None
        self.spec = world.spec if self.world else _spec(bounds, subset)
        self.reading = Reading(*self.frame_shape[1:], decoder_named(decoder), trim_tail)
        self.frame_cache = FrameCache(
            folder=Path(self.cache_dir),
            label=f"{'simulated' if self.simulated else 'real'}-{subset}",
            most_bytes=cache_gib * 2**30,
            reading=self.reading,
            tolerance=Tolerance(on_error, max_bad_share),
            workers=decode_workers,
        )
        self._stores: dict[str, FrameStore] = {}

    def recipe(self) -> cache.Recipe:
        """The pusher's own simulation."""
        world = self._simulator
        return cache.Recipe(world.name, world.settings, world.size, sum(world.episodes.values()), world.write)

    def open_split(self, folder: Path, split: str) -> Mp4NpzReader:
        """A reader of one split; validation comes out of training where the data have none of their own."""
        own_val = (folder / self.label / "val").is_dir()
        store = self._store(folder, split if split != "val" or own_val else "train")
        names = store.index.names
        chosen = range(len(names)) if own_val or split == "test" else self._share(folder, names, split)
        reader = Mp4NpzReader(store, spec=self.spec, action_shift=self.action_shift, episodes=chosen)
        if reader.clipped:
            log.warning(
                "%s %s: %d action values lie outside data.bounds and are clipped", self.name, split, reader.clipped
            )
        return reader

    def prepare_data(self) -> None:
        """Simulates or checks, decodes everything once, and makes sure that no episode serves two splits."""
        super().prepare_data()
        for path, reason in self.quarantined.items():
            log.warning("%s: left out %s: %s", self.name, path, reason)
        owner: dict[str, tuple[str, str]] = {}
        for split in SPLITS:
            reader = self._opened(split)
            for episode in range(len(reader)):
                here = (split, reader.name(episode))
                there = owner.setdefault(reader.digest(episode), here)
                if there[0] != split:
                    raise ValueError(
                        f"{self.folder / self.label}: episode {here[1]} ({split}) is the same as {there[1]} "
                        f"({there[0]}); splits must share none, remove one of the two"
                    )

    @property
    def quarantined(self) -> Mapping[str, str]:
        """Files left out, each with its reason."""
        return {path: reason for store in self._stores.values() for path, reason in store.index.quarantine.items()}

    def content_hash(self) -> str:
        """SHA-256 over the frames as resized and the actions as stored, of all splits."""
        digests = {split: [self._opened(split).digest(e) for e in range(len(self.reader(split)))] for split in SPLITS}
        return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What is read: see `ClipDataModule`; with subset, decoder, and the number of clipped action values."""
        clipped = {split: self._opened(split).clipped for split in SPLITS}
        return super().manifest | {"subset": self.label, "decoder": self.reading.decoder, "clipped_values": clipped}

    def _of_this_world(self) -> bool:
        if self.root is None:
            return True
        marker = Path(self.root) / cache.MARKER
        return marker.is_file() and json.loads(marker.read_text())["world"] == self._simulator.name

    def _opened(self, split: str) -> Mp4NpzReader:
        reader = self.reader(split)
        assert isinstance(reader, Mp4NpzReader)
        return reader

    def _store(self, folder: Path, split: str) -> FrameStore:
        subset = folder / self.label
        if not subset.is_dir():
            there = sorted(path.name for path in folder.iterdir() if path.is_dir())
            raise ValueError(
                f"{subset} is not there; {folder} has {there or 'no folder'}: set data.subset to one of them"
            )
        if split not in self._stores:
            self._stores[split] = self.frame_cache.store(subset / split)
        return self._stores[split]

    def _share(self, folder: Path, names: tuple[str, ...], split: str) -> list[int]:
        """The episodes of the training folder that train or validate; an episode's part hangs on its name alone."""
        if len(names) < 2:
            raise ValueError(
                f"{folder / self.label / 'train'} has {len(names)} usable episode, training and validation need one "
                f"each; add episodes, or a folder val beside it"
            )
        ranks = sorted(range(len(names)), key=lambda place: hashlib.sha256(names[place].encode()).digest())
        count = min(max(1, round(self.val_share * len(names))), len(names) - 1)
        return sorted(ranks[:count] if split == "val" else ranks[count:])


def _spec(bounds: Mapping[str, Mapping[str, float]], subset: str) -> ActionSpec:
    if subset not in bounds:
        raise ValueError(
            f"data.bounds has no action bounds for data.subset={subset}, only for {sorted(bounds)}; add "
            f"data.bounds.{subset} to conf/data/rt1.yaml with a bound for every action field"
        )
    return action_spec(bounds[subset])
