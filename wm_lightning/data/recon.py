"""The DataModule of RECON's robot recordings, or of a simulated rover: the original HDF5 or processed folders."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from wm_lightning.clip import ActionSpec
from wm_lightning.data import cache
from wm_lightning.data.datamodule import hash_files
from wm_lightning.data.formats.nwm import NWMReader, places, read_index
from wm_lightning.data.formats.recon import REST, RECONSource, spec_of
from wm_lightning.data.formats.source import EpisodeSource, names_listed
from wm_lightning.data.formats.store_reader import StoreReader
from wm_lightning.data.formats.strided_reader import StridedReader, recording_of
from wm_lightning.data.source_datamodule import SourceDataModule
from wm_lightning.data.windows import Window
from wm_lightning.worlds.rover import RoverWorld

Form = Literal["hdf5", "folders"]
# Where a split's names stand: beside the recordings, or as NWM and ViNT keep them.
LISTS = ("{split}.txt", "{split}/traj_names.txt")


class RECONDataModule(SourceDataModule):
    """Recordings of `<root>/<subset>` or of `root` itself, or of the simulated `world`; see `SourceDataModule`.

    `format` null finds the form out. `lists` is the folder of the splits' lists of names (`train.txt` or
    `train/traj_names.txt`), null for that of the recordings; a split without a list is a share of train. `index` is a
    list of test clips (NWM's `time.pkl`, `rollout.pkl`, ... or the same as JSON), whose present is the last of
    `context` given frames; it takes the place of windows spread over the test split. `nwm_compat` feeds a rollout's
    actions as NWM's evaluation does: see `formats/nwm.py`. With `stride` n frames are every n-th and actions motions
    over the gap: see `formats/strided_reader.py`; the simulator's judge is of single frames and then left out.
    """

    def __init__(
        self,
        *,
        world: RoverWorld,
        format: Form | None,
        lists: str | None,
        index: str | None,
        context: int,
        nwm_compat: bool,
        stride: int,
        **shared: Any,
    ) -> None:
        if stride < 1 or (stride > 1 and (nwm_compat or index is not None or shared["latents"] is not None)):
            raise ValueError(
                f"data.{stride=}: 1 or more is expected, and more than 1 neither with data.index (its times are those "
                f"of single frames) nor with data.nwm_compat or data.latents"
            )
        self.stride = stride
        super().__init__(**shared)
        self._index, self._context, self._nwm_compat = index, context, nwm_compat
        if self.root is None and self.label != world.name:
            raise ValueError(
                f"data.subset={self.label} without data.root: the simulated subset is {world.name}; name the folder of "
                f"real data with data.root=PATH"
            )
        self._simulator, self._lists = world, lists
        self._format: Form | None = format
        # Its judge looks for turns of single frames: over a longer gap most are sharper, and it would tell others.
        self.world: RoverWorld | None = world if stride == 1 and self.made_by(world.name) else None

    @property
    def rest(self) -> Mapping[str, float | int]:
        return REST

    @cached_property
    def home(self) -> Path:
        own = self.folder / self.label
        return own if own.is_dir() else self.folder

    @cached_property
    def format(self) -> Form:
        """Raises ValueError where another form is asked for than is there; where both are, hdf5 files are read."""
        found: Form = "hdf5" if next(self.home.rglob("*.hdf5"), None) is not None else "folders"
        if self._format not in (None, found):
            raise ValueError(
                f"data.format={self._format}, but {self.home} holds {found}; give data.format=null, or name another "
                f"folder with data.root= and data.subset="
            )
        return found

    @cached_property
    def names(self) -> dict[str, frozenset[str]]:
        """The names of each split that has a list. Raises ValueError where splits share a name."""
        folder = self.home if self._lists is None else Path(self._lists)
        found: dict[str, frozenset[str]] = {}
        for split in ("train", "val", "test"):
            paths = [folder / name.format(split=split) for name in LISTS]
            path = next((path for path in paths if path.is_file()), None)
            if path is not None:
                found[split] = frozenset(names_listed(path))
        if self._lists is not None and "train" not in found:
            raise ValueError(f"data.lists={folder} has neither train.txt nor train/traj_names.txt; name another folder")
        for split, other in (("train", "val"), ("train", "test"), ("val", "test")):
            if both := found.get(split, frozenset()) & found.get(other, frozenset()):
                raise ValueError(f"{folder}: {sorted(both)[0]} is in {split} and in {other}, which must share none")
        return found

    def stored_splits(self) -> Sequence[str]:
        return tuple(dict.fromkeys(("train", *self.names)))

    def open_source(self, split: str) -> EpisodeSource:
        _ = self.format  # which refuses another form than was asked for
        return RECONSource(self.home, names=self.names.get(split))

    def open_split(self, folder: Path, split: str) -> StoreReader:
        reader = super().open_split(folder, split)
        if self.stride > 1:
            return StridedReader(reader, self.stride)
        return NWMReader(reader, self._context) if self._nwm_compat else reader

    def prepare_data(self) -> None:
        """As `SourceDataModule`; a list of clips that cannot be read is refused before anything is decoded."""
        if self._index is not None:
            read_index(Path(self._index))
        super().prepare_data()

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What is read: see `SourceDataModule`; with the list of test clips and how actions are fed."""
        index = None if self._index is None else hash_files(Path(self._index).parent, [Path(self._index)])
        return super().manifest | {"index": index, "nwm_compat": self._nwm_compat, "stride": self.stride}

    def _fixed(self, split: str, count: int, frames: int) -> list[Window]:
        if split != "test" or self._index is None:
            return super()._fixed(split, count, frames)
        reader, path = self._opened(split), Path(self._index)
        episodes = {reader.name(episode): episode for episode in range(len(reader))}
        lengths = {name: reader.length(episode) for name, episode in episodes.items()}
        chosen = places(path, read_index(path)[:count], lengths, self._context, frames)
        return [Window(episodes[name], start, frames, number) for number, (name, start) in enumerate(chosen)]

    def recording(self, episode: str) -> str:
        return recording_of(episode) if self.stride > 1 else episode

    def declared_spec(self) -> ActionSpec:
        return spec_of(self.stride)

    def recipe(self) -> cache.Recipe:
        """The rover's own simulation."""
        world = self._simulator
        return cache.Recipe(world.name, world.settings, world.size, sum(world.episodes.values()), world.write)
