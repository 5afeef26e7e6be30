"""The DataModule of world maps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wm_lightning.data.cache import Recipe
from wm_lightning.data.datamodule import SPLITS, ClipDataModule
from wm_lightning.data.formats.world_map import REST, WorldMapReader, read_textures
from wm_lightning.worlds.world_map import WorldMap


class WorldMapDataModule(ClipDataModule):
    """World maps read from `root`, or simulated by `world`. At most `cached_maps` decoded maps are kept per split."""

    label = "worldmap"

    def __init__(
        self,
        *,
        world: WorldMap,
        cached_maps: int,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.world: WorldMap = world
        self.spec = world.spec
        self.cached_maps = cached_maps
        size = world.layout.view * world.layout.tile
        _, height, width = self.frame_shape
        if (height, width) != (size, size):
            raise ValueError(f"data.{height=} and data.{width=} must be the view of the world map, {size} pixels")

    @property
    def rest(self) -> Mapping[str, float | int]:
        return REST

    def recipe(self) -> Recipe:
        """The world's own simulation."""
        world = self.world
        return Recipe(world.name, world.settings, world.size, sum(world.maps.values()), world.write)

    def open_split(self, folder: Path, split: str) -> WorldMapReader:
        """A reader of one split, whose view and textures are those that `world` judges."""
        reader = WorldMapReader(folder, split, action_shift=self.action_shift, cached_maps=self.cached_maps)
        read_textures(folder, reader.layout)
        for key in ("tile", "view", "terrains", "palette"):
            found, expected = getattr(reader.layout, key), getattr(self.world.layout, key)
            if found != expected:
                raise ValueError(
                    f"{folder / 'world.json'}: {key} is {found}, data.world has {expected}; set data.world to the "
                    f"folder's, or simulate with data.root=null"
                )
        return reader

    def prepare_data(self) -> None:
        """Simulates or checks; decodes every map once, and makes sure that no map serves two splits."""
        super().prepare_data()
        owner: dict[int, str] = {}
        for split in SPLITS:
            reader = self.open_split(self.folder, split)
            reader.verify()
            for index in reader.maps:
                if owner.setdefault(index, split) != split:
                    raise ValueError(
                        f"{self.folder}: map {index} serves {owner[index]} and {split}, which must share none; "
                        f"remove its walks from one of the two"
                    )
