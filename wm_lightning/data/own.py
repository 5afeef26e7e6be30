"""The DataModule of anybody's recordings: mp4 files with a table of actions beside each."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from wm_lightning.clip import ActionSpec
from wm_lightning.data import cache
from wm_lightning.data.formats.own import OwnSource, read_rest, read_spec
from wm_lightning.data.formats.source import EpisodeSource
from wm_lightning.data.formats.video_files import Decoder, decoder_named
from wm_lightning.data.source_datamodule import SourceDataModule


class OwnDataModule(SourceDataModule):
    """Recordings of `root`: its folders train, val and test, or the files of `root` itself, of which shares are taken.

    `actions.yaml` in `root` says what the action columns are; see `formats/own.py`.
    """

    world = None

    def __init__(self, *, decoder: str, trim_tail: bool, **shared: Any) -> None:
        super().__init__(**shared)
        if self.root is None:
            raise ValueError("data=own has no simulator; name the folder of your recordings with data.root=PATH")
        self.decoder: Decoder = decoder_named(decoder)
        self.trim_tail = trim_tail

    @property
    def home(self) -> Path:
        return self.folder

    @property
    def format(self) -> str:
        return "own"

    @cached_property
    def flat(self) -> bool:
        """Whether the files stand in `root` itself."""
        return not (self.home / "train").is_dir()

    def stored_splits(self) -> Sequence[str]:
        if self.flat:
            return ("train",)
        return tuple(split for split in ("train", "val", "test") if (self.home / split).is_dir())

    def open_source(self, split: str) -> EpisodeSource:
        folder = self.home if self.flat else self.home / split
        return OwnSource(folder, self.spec, decoder=self.decoder, trim_tail=self.trim_tail)

    def declared_spec(self) -> ActionSpec:
        return read_spec(self.home)

    @cached_property
    def rest(self) -> Mapping[str, float | int]:
        return read_rest(self.home)

    def reading(self) -> str:
        return f"own {self.decoder} {self.trim_tail}"

    def recipe(self) -> cache.Recipe:
        raise ValueError("data=own has no simulator; name the folder of your recordings with data.root=PATH")
