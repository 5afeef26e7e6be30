"""The DataModule of a map in one large picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from wm_lightning.data.cache import Recipe
from wm_lightning.data.datamodule import SPLITS, ClipDataModule
from wm_lightning.data.formats.map_image import MAP, SPEC, UNSEEN, MapImageReader, Walk
from wm_lightning.worlds.map_image import MapImage


class MapImageDataModule(ClipDataModule):
    """Walks over `<root>/world_map.png` or over the map that `world` paints.

    `bands` are the shares of its width that train, val and test get, with `guard` pixels between, more than a crop and
    its move together, so that no pixel serves two splits. `test_map=unseen` tests on the whole of the other map.
    Crops of data.height x data.width pixels move by `shift`; `walks` and `lengths` count walks and their frames.
    """

    label = "mapimage"

    def __init__(
        self,
        *,
        world: MapImage,
        shift: int,
        guard: int,
        bands: Mapping[str, float],
        test_map: Literal["band", "unseen"],
        walks: Mapping[str, int],
        lengths: Mapping[str, int],
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.world: MapImage = world
        self.spec = SPEC
        _, height, width = self.frame_shape
        if not 0 < shift < min(height, width):
            raise ValueError(f"data.{shift=} must be above 0 and below the crop's {height} x {width} pixels")
        if guard < max(height, width) + shift:
            raise ValueError(
                f"data.{guard=} is less than a crop and its move, {max(height, width) + shift} pixels: raise it"
            )
        for key, counts in {"bands": bands, "walks": walks, "lengths": lengths}.items():
            if set(counts) != set(SPLITS):
                raise ValueError(f"data.{key}={dict(counts)} must name {', '.join(SPLITS)}")
        self.shift, self.guard, self.shares = shift, guard, {split: bands[split] for split in SPLITS}
        self.test_map, self.walks, self.lengths = test_map, dict(walks), dict(lengths)

    def recipe(self) -> Recipe:
        """The painting of both maps."""
        return Recipe(self.world.name, self.world.settings, self.world.size, 2, self.world.write)

    def open_split(self, folder: Path, split: str) -> MapImageReader:
        """Walks over the split's band, or over the unseen map."""
        unseen = split == "test" and self.test_map == "unseen"
        path = folder / (UNSEEN if unseen else MAP)
        if not path.is_file():
            raise ValueError(
                f"{path} is missing; data.root names a folder with {MAP}, and with {UNSEEN} for data.test_map=unseen"
            )
        _, height, width = self.frame_shape
        return MapImageReader(
            path, Walk(height, width, self.shift, self.lengths[split], self.world.seed), split=split,
            episodes=self.walks[split], action_shift=self.action_shift, shares=None if unseen else self.shares,
            guard=self.guard,
        )  # fmt: skip
