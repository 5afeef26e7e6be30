"""The DataModule of Counter-Strike recordings (HDF5, tars, DIAMOND's small episodes), of a maze, or of Doom."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from wm_lightning.clip import ActionSpec
from wm_lightning.data import cache
from wm_lightning.data.formats.csgo import REST, SPEC, Colours, CSGOSource
from wm_lightning.data.formats.diamond import DiamondSource
from wm_lightning.data.formats.source import EpisodeSource, names_listed
from wm_lightning.data.source_datamodule import SourceDataModule
from wm_lightning.worlds.doom import DoomWorld, require_vizdoom
from wm_lightning.worlds.maze import TEST_SPLIT, MazeWorld

Form = Literal["hdf5", "diamond"]


class CSGODataModule(SourceDataModule):
    """Recordings of `<root>/<subset>` or of `root` itself, or of the simulated `world`; see `SourceDataModule`.

    `test_split` is the list of test files, a name a line: a path, or null for `test_split.txt` beside the recordings;
    without one, `test_share` of the files is held out. `colours` is the order of channels in HDF5 files.
    """

    def __init__(
        self,
        *,
        world: MazeWorld | DoomWorld,
        format: Form | None,
        test_split: str | None,
        colours: Colours,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if colours not in ("bgr", "rgb"):
            raise ValueError(f"data.colours={colours} is not one of bgr, rgb")
        if self.root is None and self.label != world.name:
            raise ValueError(
                f"data.subset={self.label} without data.root: the simulated subset is {world.name}; name the folder of "
                f"real data with data.root=PATH"
            )
        self._simulator, self._test_split = world, test_split
        self.colours: Colours = colours
        self._format: Form | None = format
        # Doom has no judge, as real recordings have none.
        self.world: MazeWorld | None = world if isinstance(world, MazeWorld) and self.made_by(world.name) else None

    @property
    def rest(self) -> Mapping[str, float | int]:
        return REST

    @cached_property
    def home(self) -> Path:
        own = self.folder / self.label
        return own if own.is_dir() else self.folder

    @cached_property
    def format(self) -> Form:
        if self._format is not None:
            return self._format
        if (self.home / "train").is_dir() and next((self.home / "train").rglob("*.pt"), None) is not None:
            return "diamond"
        if next(self.home.rglob("*.hdf5"), None) or next(self.home.rglob("*.tar"), None):
            return "hdf5"
        raise ValueError(f"{self.home} holds neither hdf5 files nor tars nor train/**/*.pt; name data.format=")

    @cached_property
    def test_names(self) -> frozenset[str] | None:
        """The names of the test files, None where no list says."""
        path = self.home / TEST_SPLIT if self._test_split is None else Path(self._test_split)
        if not path.is_file():
            if self._test_split is not None:
                raise ValueError(f"data.test_split={path} is not there; name the list, or null to hold out a share")
            return None
        return frozenset(Path(line).name for line in names_listed(path))

    def stored_splits(self) -> Sequence[str]:
        if self.format == "diamond":
            return tuple(split for split in ("train", "val", "test") if (self.home / split).is_dir())
        return ("train",) if self.test_names is None else ("train", "test")

    def open_source(self, split: str) -> EpisodeSource:
        if self.format == "diamond":
            return DiamondSource(self.home / split)
        return CSGOSource(self.home, colours=self.colours, names=self.test_names, inside=split == "test")

    def reading(self) -> str:
        return self.format if self.format == "diamond" else f"{self.format} {self.colours}"

    def declared_spec(self) -> ActionSpec:
        return SPEC

    def recipe(self) -> cache.Recipe:
        """The world's own simulation."""
        world = self._simulator
        if isinstance(world, DoomWorld):
            require_vizdoom()
        return cache.Recipe(world.name, world.settings, world.size, sum(world.episodes.values()), world.write)
