"""The DataModule of robot clips with RT-1's action fields: real ones in four forms, or the simulated pusher's."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from wm_lightning.clip import ActionSpec
from wm_lightning.data import cache
from wm_lightning.data.formats import action_npz
from wm_lightning.data.formats.robot_actions import NEUTRAL, order_of, spec_of, typical_bounds
from wm_lightning.data.formats.robot_sources import Format, Opening, detect, is_form, open_source, stored_splits
from wm_lightning.data.formats.source import EpisodeSource
from wm_lightning.data.formats.video_files import decoder_named
from wm_lightning.data.source_datamodule import SourceDataModule
from wm_lightning.worlds.pusher import PusherWorld


class RT1DataModule(SourceDataModule):
    """Robot clips, or those of the simulated `world` where there is no root; see `SourceDataModule`.

    `format` null finds the form out. `order` null gives the action columns as they are stored, another order converts
    them by name. `bounds` gives each subset's action bounds by field: actions are clipped to them, and the manifest
    counts how many values that changed. `image` names the camera where there are several.
    """

    def __init__(
        self,
        *,
        world: PusherWorld,
        format: Format | None,
        order: str | None,
        image: str | None,
        bounds: Mapping[str, Mapping[str, float]],
        decoder: str,
        trim_tail: bool,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if self.root is None and self.label != world.name:
            raise ValueError(
                f"data.subset={self.label} without data.root: the simulated subset is {world.name}; name the folder of "
                f"real data with data.root=PATH"
            )
        self._simulator, self._order, self._bounds = world, order, bounds
        self._format: Format | None = format
        self.world: PusherWorld | None = world if self.made_by(world.name) else None
        self.opening = Opening(decoder_named(decoder), trim_tail, image)

    @property
    def rest(self) -> Mapping[str, float | int]:
        return NEUTRAL

    @cached_property
    def home(self) -> Path:
        if self.root is None:
            return self.folder / self.label
        self._check_folder()
        # A folder of the subset's name is meant even where it is broken; else the root itself may be the data set.
        own = self.folder / self.label
        if own.is_dir() or not is_form(self.folder, self._format):
            if own.is_dir():
                return own
            there = sorted(path.name for path in self.folder.iterdir() if path.is_dir())
            raise ValueError(
                f"{own} is not there; {self.folder} has {there or 'no folder'}: set data.subset to one of them"
            )
        return self.folder

    @cached_property
    def format(self) -> Format:
        return "mp4" if self.root is None else self._format or detect(self.home)

    def stored_splits(self) -> Sequence[str]:
        if self.format == "npz":
            return action_npz.stored_splits(self.home)
        return stored_splits(self.format, self.home)

    def open_source(self, split: str) -> EpisodeSource:
        if self.format == "npz":
            return action_npz.ActionNpzSource(self.home, split)
        return open_source(self.format, self.home, split, self.opening, Path(self.cache_dir))

    def reading(self) -> str:
        # Only clips in files of their own are given to whom `decoder` names; see `formats/lerobot.py`.
        opening = self.opening if self.format == "mp4" else replace(self.opening, decoder="pyav")
        return f"{self.format} {opening}"

    def declared_spec(self) -> ActionSpec:
        if self.world is not None and self._order is None:
            return self.world.spec
        if self.label not in self._bounds:
            home = self.home  # which refuses a folder that is not there: without data, bounds are no use
            raise ValueError(
                f"data.bounds has no action bounds for data.subset={self.label} in {home}, only for "
                f"{sorted(self._bounds)}; add data.bounds.{self.label} to conf/data/rt1.yaml with a bound for every "
                f"action field (task=doctor with the same data proposes some)"
            )
        stored = self.open_source("train").columns if self._order is None else ()
        return spec_of(self._order or order_of(stored), self._bounds[self.label])

    def proposed(self, columns: Sequence[str], actions: Float32[np.ndarray, "f a"]) -> Mapping[str, Any]:
        """Bounds of a subset that has none: see `typical_bounds`."""
        if self.label in self._bounds or (self.world is not None and self._order is None):
            return {}
        return {f"bounds.{self.label}": typical_bounds(columns, actions)}

    def recipe(self) -> cache.Recipe:
        """The pusher's own simulation."""
        world = self._simulator
        return cache.Recipe(world.name, world.settings, world.size, sum(world.episodes.values()), world.write)
