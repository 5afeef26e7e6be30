"""The DataModule of recorded episodes: any on-disk format, checked, decoded once, and split."""

import hashlib
import json
import logging
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from wm_lightning.clip import ActionSpec, Encoded, Pixels
from wm_lightning.data.cache import MARKER
from wm_lightning.data.datamodule import SPLITS, ClipDataModule
from wm_lightning.data.forgiving import ForgivingWindows
from wm_lightning.data.formats.direct import DAMAGED, Damage, FrameIndex
from wm_lightning.data.formats.frame_store import FrameStore
from wm_lightning.data.formats.latent_reader import LatentReader
from wm_lightning.data.formats.resize import Resize
from wm_lightning.data.formats.source import EpisodeSource
from wm_lightning.data.formats.store_reader import DirectFrames, StoreReader
from wm_lightning.data.frame_cache import FrameCache, Tolerance, way_named
from wm_lightning.data.latent_cache import LatentCache, LatentKey, LatentStore
from wm_lightning.data.parts import names_to_part, parts_of
from wm_lightning.data.windows import Windows
from wm_lightning.networks.autoencoders import Autoencoder

log = logging.getLogger(__name__)


class SourceDataModule(ClipDataModule):
    """Episodes of `<root>/<subset>` (or of `root` itself) in one of a data set's formats, or a simulator's.

    Where `val` or `test` are not stored, `val_share` and `test_share` of the training episodes (at least one each)
    take their place and are not trained on. Names are ranked by their hash, those of unusable episodes too, so that an
    episode keeps its part whatever happens to the files of others. Frames are resized by `resize`
    and decoded once, by `decode_workers` threads, into a cache of at most `cache_gib` (`store=keep`), or read from the
    recordings for every clip (`direct`), or that where they are too many for the cache (`auto`). Unusable files are
    refused or left out by `on_error` and `max_bad_share`.

    With `latents`, the folder of a latent cache, training reads the latents that `autoencoder` made of these frames
    (task=encode); nothing is decoded ahead, and evaluation reads its clips' pixels from the recordings.
    """

    def __init__(
        self,
        *,
        subset: str,
        resize: str,
        val_share: float,
        test_share: float,
        on_error: str,
        max_bad_share: float,
        decode_workers: int,
        cache_gib: float,
        store: str,
        latents: str | None,
        autoencoder: Autoencoder | None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if min(val_share, test_share) <= 0 or val_share + test_share >= 1 or decode_workers < 1:
            raise ValueError(
                f"data.{val_share=} and data.{test_share=} must be positive and leave some to train on, and "
                f"data.{decode_workers=} be at least 1"
            )
        self.label, self.shares = subset, {"val": val_share, "test": test_share}
        _, height, width = self.frame_shape
        self.frame_cache = FrameCache(
            folder=Path(self.cache_dir), label=f"{'simulated' if self.simulated else 'real'}-{subset}",
            most_bytes=cache_gib * 2**30, resize=Resize(resize, height, width),
            tolerance=Tolerance(on_error, max_bad_share), workers=decode_workers, way=way_named(store),
        )  # fmt: skip
        self._stores: dict[str, FrameStore] = {}
        self._sources: dict[str, EpisodeSource] = {}
        self.latents, self.autoencoder = latents, autoencoder
        if latents is not None:
            self.frame_shape = self._checked_autoencoder().frame_shape(height, width)

    @property
    @abstractmethod
    def home(self) -> Path:
        """The folder of the episodes. Raises ValueError where there is none."""

    @property
    def simulated(self) -> bool:
        """Whether a simulator made the data: the marker may stand beside the episodes, below the root."""
        return self.root is None or self._marker is not None

    def made_by(self, world: str) -> bool:
        """Whether that simulator made the data and its hidden state lies beside them, as its judge asks."""
        return self.root is None or (
            self._marker is not None and json.loads(self._marker.read_text()).get("world") == world
        )

    @property
    def _marker(self) -> Path | None:
        places = (self.folder / MARKER, self.folder / self.label / MARKER)
        return next((place for place in places if place.is_file()), None)

    @property
    @abstractmethod
    def format(self) -> str:
        """The form in which they are stored."""

    @abstractmethod
    def stored_splits(self) -> Sequence[str]:
        """The splits that are stored as such; `train` is always among them."""

    @abstractmethod
    def open_source(self, split: str) -> EpisodeSource:
        """The episodes of a stored split."""

    @abstractmethod
    def declared_spec(self) -> ActionSpec:
        """The action columns as they are given to networks."""

    def proposed(self, columns: Sequence[str], actions: Float32[np.ndarray, "f a"]) -> Mapping[str, Any]:
        """Settings that this set needs and that were not given, by key, read off its stored actions."""
        return {}

    def reading(self) -> str:
        """What else decides how files become frames: part of the cache's key."""
        return self.format

    @cached_property
    def spec(self) -> ActionSpec:
        return self.declared_spec()

    def open_split(self, folder: Path, split: str) -> StoreReader:
        """A reader of one split; what is not stored as a split comes out of training."""
        stored = split if split in self.stored_splits() else "train"
        if stored not in self._stores:
            self._sources[stored] = self.open_source(stored)
            self._stores[stored] = self._store(self._sources[stored], stored)
        store, source = self._stores[stored], self._sources[stored]
        chosen: Sequence[int] = range(len(store.index.names))
        if stored == "train":
            part = set(self.share(source, split))
            chosen = [place for place, name in enumerate(store.index.names) if name in part]
        if not chosen:
            raise ValueError(f"{self.home}: no episode of {split} is usable; repair them, or raise data.{split}_share")
        reader = self._reader(store, source, chosen)
        if reader.clipped:
            log.warning(
                "%s %s: %d action values lie outside their bounds and are clipped", self.name, split, reader.clipped
            )
        return reader

    def _store(self, source: EpisodeSource, stored: str) -> FrameStore:
        if self.latents is None:
            return self.frame_cache.store(source, stored, self.reading())
        candidates = len(source.names) + len(source.bad)
        cache, tolerance = LatentCache(Path(self.latents), self.latent_key), self.frame_cache.tolerance
        again = f"Damaged latents are made again by the task=encode that made {self.latents}. "
        with tolerance.named(stored, candidates, again):
            return cache.store(stored, tolerance.allowed(candidates))

    def _reader(self, store: FrameStore, source: EpisodeSource, chosen: Sequence[int]) -> StoreReader:
        settings: dict[str, Any] = {"columns": source.columns, "spec": self.spec, "action_shift": self.action_shift}
        direct = DirectFrames(source, self.frame_cache.resize)
        if not isinstance(store, LatentStore):
            return StoreReader(
                store, episodes=chosen, direct=direct if isinstance(store, FrameIndex) else None, **settings
            )
        usable = [episode for episode in chosen if episode not in store.unusable]
        return LatentReader(store, episodes=usable, recordings=direct, pixels=False, **settings)

    def windows(self, split: str, *, truth: bool, learned: bool = False) -> Windows:
        """A split seen through windows; where networks see latents, pixels are there with `truth` only.

        Clips that are `learned` from and cannot be read are replaced: see `ForgivingWindows`.
        """
        reader, tolerance = self._opened(split), self.frame_cache.tolerance
        seen: dict[str, Any] = {"truth": truth, "first_action": self.first_action}
        if learned and reader.direct is not None and tolerance.on_error != "raise":
            source = reader.direct.source
            allowed = tolerance.allowed(len(source.names) + len(source.bad)) - len(reader.store.index.quarantine)
            damage = Damage(reader.store.folder / DAMAGED, allowed)
            return ForgivingWindows(reader, seed=self.seed, damage=damage, **seen)
        return Windows(reader.with_pixels() if truth and isinstance(reader, LatentReader) else reader, **seen)

    @cached_property
    def latent_key(self) -> LatentKey:
        """What the latents of these data hang on."""
        autoencoder, resize = self._checked_autoencoder(), self.frame_cache.resize
        stamps = {split: self.open_source(split).stamps() for split in self.stored_splits()}
        files = hashlib.sha256(json.dumps([self.reading(), stamps]).encode()).hexdigest()
        scaling = autoencoder.scaling
        identity = {name: value for name, value in autoencoder.identity.items() if name not in scaling}
        return LatentKey(identity, scaling, asdict(resize), files)

    @property
    def autoencoder_identity(self) -> Mapping[str, Any]:
        return {} if self.latents is None else self._checked_autoencoder().identity

    @property
    def picture_size(self) -> Resize:
        return self.frame_cache.resize

    def encode(self, video: Pixels) -> Encoded:
        return super().encode(video) if self.latents is None else self._checked_autoencoder().encode(video)

    def decode(self, x0: Encoded) -> Pixels:
        return super().decode(x0) if self.latents is None else self._checked_autoencoder().decode(x0)

    def _checked_autoencoder(self) -> Autoencoder:
        """Raises ValueError where there is none, or where pixels are to be changed that latents do not have."""
        if self.autoencoder is None:
            raise ValueError(
                f"data.latents={self.latents} needs the autoencoder that made it: autoencoder=pixel|patch|sd|sd3"
            )
        if self.augment is not None:
            raise ValueError(
                "data.augment changes pixels, and a latent cache holds what was made of them before: give "
                "data.augment=null, or train on pixels with data.latents=null"
            )
        return self.autoencoder

    def prepare_data(self) -> None:
        """Simulates or checks, decodes everything once, and makes sure that no episode serves two splits."""
        super().prepare_data()
        for path, reason in self.quarantined.items():
            log.warning("%s: left out %s: %s", self.name, path, reason)
        for reason in self.damaged.values():
            log.warning("%s: found damaged by an earlier training: %s", self.name, reason)
        owner: dict[str, tuple[str, str]] = {}
        # Digests of stores and of indices are of other frames.
        mixed = len({self._opened(split).direct is None for split in SPLITS}) > 1
        for split in SPLITS:
            reader = self._opened(split)
            for episode in range(len(reader)):
                here = (split, reader.name(episode))
                there = owner.setdefault(reader.mark(episode) if mixed else reader.digest(episode), here)
                if there[0] != split:
                    raise ValueError(
                        f"{self.home}: episode {here[1]} ({split}) is the same as {there[1]} ({there[0]}); splits must "
                        f"share none, remove one of the two"
                    )

    @property
    def quarantined(self) -> Mapping[str, str]:
        """Files left out, each with its reason."""
        return {path: reason for store in self._stores.values() for path, reason in store.index.quarantine.items()}

    def content_hash(self) -> str:
        """SHA-256 over the frames as resized and the actions as stored, of all splits.

        Where frames are read directly, of every episode's first frame and of all actions.
        """
        digests = {split: [self._opened(split).digest(e) for e in range(len(self.reader(split)))] for split in SPLITS}
        return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What is read: see `ClipDataModule`; with subset, format, and the number of clipped action values."""
        clipped = {split: self._opened(split).clipped for split in SPLITS}
        own = {"subset": self.label, "format": self.format, "reading": self.reading(), "clipped_values": clipped}
        own |= {} if self.latents is None else {"latents": self.latent_key.sha256}
        own |= {} if not self.damaged else {"damaged": dict(self.damaged)}
        return super().manifest | own | {"decoders": self.decoders}

    @property
    def damaged(self) -> Mapping[str, str]:
        """Episodes of which earlier trainings found some frames damaged, each with file and reason."""
        stores = [store for store in self._stores.values() if isinstance(store, FrameIndex)]
        return {name: reason for store in stores for name, reason in store.damaged.items()}

    @property
    def decoders(self) -> Mapping[str, int]:
        """How many episodes each decoder gave; stores that were made before this was noted say nothing."""
        counts: Counter[str] = Counter()
        for store in self._stores.values():
            counts.update(store.index.decoders)
        return dict(counts)

    def _opened(self, split: str) -> StoreReader:
        reader = self.reader(split)
        assert isinstance(reader, StoreReader)
        return reader

    def share(self, source: EpisodeSource, split: str) -> list[str]:
        """The names of a split's episodes among those of training: usable ones and others.

        Parts are drawn from all names that belong to the set, so that what is unusable makes a part smaller, and never
        other. Raises ValueError where it cannot be told which names are lost, for then parts would shift.
        """
        wanted = {name: share for name, share in self.shares.items() if name not in self.stored_splits()}
        return parts_of(names_to_part(source, wanted, self.home), wanted)[split]
