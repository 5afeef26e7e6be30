"""The DataModule of anybody's videos, labelled automatically: what an executor is fine-tuned on."""

import hashlib
import json
import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from wm_lightning.data.forgiving import ForgivingPrompts
from wm_lightning.data.formats.direct import DAMAGED, Damage, FrameIndex
from wm_lightning.data.formats.films import ClipReader, FilmSource
from wm_lightning.data.formats.store_reader import DirectFrames, StoreReader
from wm_lightning.data.formats.video_files import Decoder, decoder_named
from wm_lightning.data.frame_cache import FrameCache
from wm_lightning.data.held_out import HeldOut, WatchedClips
from wm_lightning.data.labels import LabelKey, LabelledDataModule, Labelling
from wm_lightning.data.windows import Windows
from wm_lightning.rewards.labeller import Labeller
from wm_lightning.worlds.grid_labeller import GridLabeller

log = logging.getLogger(__name__)


class LabelledVideosDataModule(LabelledDataModule):
    """For training clips of the videos below the folder `films`, with labels; else the pictures of tasks.

    Tasks are those of WorldTasks or simulated. A clip has `frames` frames, every `stride`-th of a video; a video's
    clips follow one another and share none. They are read from the videos by `decoder` whenever they are asked for.
    Unusable videos, too short ones among them, are refused or left out by `on_error` and `max_bad_share`. A video that
    is named like a source of val or test, or shows a picture of their tasks (`alike`: see `HeldOut`), is left out.
    """

    def __init__(self, *, films: str | None, stride: int, decoder: str, alike: float, **shared: Any) -> None:
        super().__init__(**shared)
        if films is None:
            raise ValueError(
                "data.films=null: name the folder of your videos with data.films=PATH, or take the simulated films of "
                "data=labelled_films"
            )
        if stride < 1 or self.frames < 2 or self.val_frames != 1:
            raise ValueError(
                f"data.{stride=} of 1 or more, data.frames={self.frames} of 2 or more and data.val_frames="
                f"{self.val_frames} of 1 are expected: clips are videos, and validation is on pictures of tasks"
            )
        if not 0 <= alike < 255:
            raise ValueError(f"data.{alike=} is a number of grey levels, from 0 to below 255")
        self.alike = alike
        self.films_folder, self.stride = Path(films), stride
        self.decoder: Decoder = decoder_named(decoder)

    @cached_property
    def source(self) -> FilmSource:
        """All videos of the folder."""
        return FilmSource(self.films_folder, frames=self.frames, stride=self.stride, decoder=self.decoder)

    @cached_property
    def index(self) -> FrameIndex:
        """Names and lengths of the usable videos, each decoded once to find out; kept in the cache."""
        cache = FrameCache(
            folder=Path(self.cache_dir), label="films", most_bytes=0.0, resize=self.resize, tolerance=self.tolerance,
            workers=self.decode_workers, way="direct",
        )  # fmt: skip
        found = cache.store(self.source, "train", f"films {self.decoder} {self.frames} frames every {self.stride}")
        assert isinstance(found, FrameIndex)
        return found

    @cached_property
    def films(self) -> ClipReader:
        direct = DirectFrames(self.source, self.resize)
        videos = StoreReader(self.index, columns=(), spec=ClipReader.spec, action_shift=0, direct=direct)
        return ClipReader(videos, self.frames)

    @cached_property
    def held_out(self) -> HeldOut:
        """What no film may show."""
        rows = {row.image: row for split in ("val", "test") for row in self.parts[split]}
        pictures = (self.resize(self.tasks.picture(row)[None].copy()) for row in rows.values())
        return HeldOut(pictures, {row.source for row in rows.values()}, self.alike)

    def label_key(self, labeller: str) -> LabelKey:
        cut = {"frames": self.frames, "stride": self.stride, "labeller": labeller, "films": len(self.films)}
        seen = {"resize": str(self.resize), "decoder": self.decoder, "held_out": self.held_out.key()}
        return LabelKey(cut, seen | {"videos": self._videos})

    def labelled(self, labeller: Labeller) -> Mapping[int, str]:
        if isinstance(labeller, GridLabeller):
            raise ValueError(
                f"data.labeller is {labeller.name}, which knows the scenes of its own films alone; name a model's, "
                f"wm_lightning.rewards.labeller.endpoint_labeller"
            )
        watched = WatchedClips(self.films, self.held_out)
        named = {name for name in self.index.index.names if self.held_out.names(name)}
        places = [place for place in range(len(watched)) if self.films.name(place) not in named]
        found = Labelling(watched, places, labeller, self.max_failed)()
        if out := sorted(named | watched.seen):
            first = ", ".join(out[:5])
            log.warning("%s: left out %d videos of val's or test's tasks: %s", self.films_folder, len(out), first)
        kept = {place: label for place, label in found.items() if self.films.name(place) not in watched.seen}
        if not kept:
            raise ValueError(f"{self.films_folder}: all films are of val's or test's tasks; name others by data.films")
        return kept

    def windows(self, split: str, *, truth: bool, learned: bool = False) -> Windows:
        """A split's clips, prompted; those that are `learned` from and cannot be read any more are replaced."""
        if split != "train" or not learned or self.tolerance.on_error == "raise":
            return super().windows(split, truth=truth, learned=learned)
        allowed = self.tolerance.allowed(len(self.source.names)) - len(self.index.index.quarantine)
        damage = Damage(self.index.folder / DAMAGED, allowed)
        return ForgivingPrompts(
            self.reader(split), truth=truth, prompter=self.prompter, seed=self.seed, damage=damage
        )  # fmt: skip

    def prepare_data(self) -> None:
        """Simulates or checks the tasks, looks at all videos and has them labelled; says which are left out."""
        super().prepare_data()
        for path, reason in self.index.index.quarantine.items():
            log.warning("%s: left out %s: %s", self.films_folder, path, reason)

    @property
    def quarantined(self) -> Mapping[str, str]:
        """Rows and videos left out, each with its reason."""
        return {**super().quarantined, **self.index.index.quarantine}

    def content_hash(self) -> str:
        """SHA-256 of the tasks' files, of what tells the videos apart, and of all labels."""
        parts = [super().content_hash(), self._videos, sorted(self.labels.items())]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def _videos(self) -> list[list[Any]]:
        """Name, length, size and first picture of every usable video: no matter where or since when they lie there."""
        sizes, index = {name: size for name, size, _ in self.source.stamps()}, self.index.index
        rows = zip(index.names, index.lengths, index.digests, strict=True)
        return [[name, length, sizes[name], digest] for name, length, digest in rows]
