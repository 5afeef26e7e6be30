"""The DataModule of clips: where the data come from, the exact training stream, and fixed evaluation clips."""

import hashlib
import logging
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from wm_lightning.clip import ActionSpec, Clip, Encoded, Pixels, to_pixels, to_unit
from wm_lightning.data import cache
from wm_lightning.data.augment import Augmentation
from wm_lightning.data.eval_index import episode_names
from wm_lightning.data.formats.episode import Reader
from wm_lightning.data.formats.resize import Resize
from wm_lightning.data.loader import ClipLoader, evaluation_loader
from wm_lightning.data.windows import Window, Windows, count_windows, fixed_windows
from wm_lightning.worlds.world import World

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")


class ClipDataModule(LightningDataModule):
    """Clips of a data set on disk (`root`) or, without one, of a simulator (in `cache_dir`).

    A data set adds `label`, `spec`, `world`, `open_split` and `recipe`. `batch_size` counts the clips
    of one rank; `frames` is the length of training clips, `train_batches` that of the epoch. `first_action` is
    "stored" or "none": see `Windows`.
    """

    label: str  # the data set's name without "simulated"
    spec: ActionSpec
    world: World | None
    least_frames = 2  # of a clip

    def __init__(
        self,
        *,
        root: str | None,
        cache_dir: str,
        frames: int,
        height: int,
        width: int,
        batch_size: int,
        train_batches: int,
        val_clips: int,
        val_frames: int,
        num_workers: int,
        seed: int,
        action_shift: int,
        augment: Augmentation | None,
        first_action: str = "stored",
    ) -> None:
        super().__init__()
        least = {"frames": (frames, self.least_frames), "val_frames": (val_frames, self.least_frames)}
        least |= {"batch_size": (batch_size, 1)}
        least |= {"train_batches": (train_batches, 1), "val_clips": (val_clips, 2), "num_workers": (num_workers, 0)}
        for key, (value, smallest) in least.items():
            if value < smallest:
                raise ValueError(f"data.{key}={value} is too small; at least {smallest} is expected")
        if first_action not in ("stored", "none"):
            raise ValueError(f"data.first_action={first_action} must be stored or none")
        self.first_action = first_action
        self.root, self.cache_dir = root, cache_dir
        self.frames, self.train_batches, self.batch_size = frames, train_batches, batch_size
        self.val_clips, self.val_frames = val_clips, val_frames
        self.num_workers, self.seed, self.action_shift = num_workers, seed, action_shift
        self.pixels = (height, width)  # of the recordings, whatever an autoencoder makes of them
        self.frame_shape, self.augment = (3, height, width), augment
        self._readers: dict[str, Reader] = {}

    @abstractmethod
    def open_split(self, folder: Path, split: str) -> Reader:
        """A reader of one split. Raises ValueError naming what is missing or wrong, and what to do."""

    @abstractmethod
    def recipe(self) -> cache.Recipe:
        """How the data are simulated where there is no `root`."""

    @property
    def rest(self) -> Mapping[str, float | int]:
        """Columns of the action of doing nothing that are not 0 (see `start_images.neutral`)."""
        return {}

    @property
    def quarantined(self) -> Mapping[str, str]:
        """Files left out of the data, each with its reason."""
        return {}

    def content_hash(self) -> str:
        """SHA-256 of all that is read: by default of every file of the folder. Override for large data."""
        return hash_files(self.folder, sorted(path for path in self.folder.rglob("*") if path.is_file()))

    @property
    def folder(self) -> Path:
        """The folder that is read: `root`, or the simulated data's place in the cache."""
        return cache.folder_of(self.cache_dir, self.recipe()) if self.root is None else Path(self.root)

    @property
    def simulated(self) -> bool:
        """Whether a simulator made the data, in this cache or in another that `root` names."""
        return self.root is None or (self.folder / cache.MARKER).is_file()

    @property
    def name(self) -> str:
        """The data set's name for logs and tables; it says when the data are simulated."""
        return f"simulated-{self.label}" if self.simulated else self.label

    def prepare_data(self) -> None:
        """Simulates into the cache, or checks that `root` can be read. Raises ValueError where it cannot."""
        if self.root is None:
            cache.simulate(self.cache_dir, self.recipe())
        for split in SPLITS:
            self.reader(split)

    def setup(self, stage: str | None = None) -> None:
        """Opens the splits that training and validation read."""
        for split in ("train", "val"):
            self.reader(split)

    def reader(self, split: str) -> Reader:
        """The reader of a split, opened once."""
        if split not in SPLITS:
            raise ValueError(f"{split=} is not one of {SPLITS}")
        if split not in self._readers:
            self._check_folder()
            self._readers[split] = self.open_split(self.folder, split)
        return self._readers[split]

    def windows(self, split: str, *, truth: bool, learned: bool = False) -> Windows:
        """A split seen through windows, hidden state included where `truth` asks for it.

        From `learned` ones something is learned, and nothing evaluated by them.
        """
        return Windows(self.reader(split), truth=truth, first_action=self.first_action)

    @property
    def autoencoder_identity(self) -> Mapping[str, Any]:
        """What made the latents that networks see; empty where they see pixels."""
        return {}

    @property
    def picture_size(self) -> Resize:
        """How a picture from elsewhere becomes one of the data's frames."""
        return Resize("squash", *self.pixels)

    def encode(self, video: Pixels) -> Encoded:
        """What a network sees of uint8 video: the inverse of `decode`."""
        return to_unit(video)

    def decode(self, x0: Encoded) -> Pixels:
        """Pixels of what a network makes, on its device."""
        return to_pixels(x0)

    def train_dataloader(self) -> ClipLoader:
        """The training stream of this rank, which resumes exactly."""
        rank, world_size = self._place()
        return ClipLoader(
            self.windows("train", truth=False, learned=True),
            frames=self.frames,
            batch_size=self.batch_size,
            batches=self.train_batches,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            num_workers=self.num_workers,
        )

    def augmented(self, clip: Clip) -> Clip:
        """The clip as it is trained on."""
        if self.augment is None:
            return clip
        return replace(clip, video=self.augment(clip.video, self.seed, clip.index.tolist()))

    def on_after_batch_transfer(self, batch: Clip, dataloader_idx: int) -> Clip:
        """Augments training batches where they are used; validation sees clips as they are."""
        return self.augmented(batch) if self.trainer is not None and self.trainer.training else batch

    def val_dataloader(self) -> DataLoader[Clip]:
        """The fixed validation clips of this rank, truth included."""
        rank, world_size = self._place()
        if self.val_clips % world_size or self.val_clips < 2 * world_size:
            raise ValueError(
                f"data.val_clips={self.val_clips} gives {world_size} ranks no equal number of clips, two or more each"
            )
        windows = self._fixed("val", self.val_clips, self.val_frames)
        # Ranks log the same measures only where they have the same number of clips.
        windows = windows[: len(windows) - len(windows) % (2 * world_size)]
        if not windows:
            raise ValueError(
                f"the validation split has too few clips of {self.val_frames} frames: {world_size} ranks need two each"
            )
        dataset = self.windows("val", truth=True)
        # Even, because half of every batch is rolled out and half is the real reference.
        size = self.batch_size + self.batch_size % 2
        return evaluation_loader(dataset, windows[rank::world_size], size, self.num_workers)

    def clips(self, split: str, count: int, frames: int, batch_size: int, *, learned: bool = False) -> Iterator[Clip]:
        """The same `count` clips of a split on every call, in batches, truth included; all there are if fewer."""
        windows = self._fixed(split, count, frames)
        yield from evaluation_loader(self.windows(split, truth=True, learned=learned), windows, batch_size, 0)

    def episodes(self, split: str, count: int, frames: int) -> list[str]:
        """The recording that each of these `clips` comes from."""
        names = episode_names(self.reader(split))
        return [self.recording(names[window.episode]) for window in self._fixed(split, count, frames)]

    def recording(self, episode: str) -> str:
        """The recording that an episode is of: itself, where a reader does not make several of one."""
        return episode

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Plain record of what is read: counts by split, files left out, and a hash of the content."""
        splits = {}
        for split in SPLITS:
            reader = self.reader(split)
            splits[split] = {"episodes": len(reader), "frames": sum(reader.length(e) for e in range(len(reader)))}
        return {
            "name": self.name,
            "simulated": self.simulated,
            "folder": str(self.folder),
            "action_shift": self.action_shift,
            "first_action": self.first_action,
            "splits": splits,
            "quarantined": dict(self.quarantined),
            "hash": self.content_hash(),
        }

    def _fixed(self, split: str, count: int, frames: int) -> list[Window]:
        there = count_windows(self.reader(split), frames)
        if there < count:
            log.info("%s: %d clips of %d frames in %s, fewer than %d", self.name, there, frames, split, count)
        return fixed_windows(self.reader(split), min(count, there), frames, self.seed)

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _check_folder(self) -> None:
        if self.root is None and not self.folder.is_dir():
            raise ValueError(f"{self.folder} is not there yet; call prepare_data() first")
        if not self.folder.is_dir():
            raise ValueError(f"data.root={self.root} is not a folder; name the data's folder, or null to simulate")
        if not any(self.folder.iterdir()):
            raise ValueError(f"data.root={self.root} is empty; name the data's folder, or null to simulate")


def hash_files(root: Path, paths: Iterable[Path]) -> str:
    """SHA-256 of files' names relative to `root` and their bytes, in the order given."""
    total = hashlib.sha256()
    for path in paths:
        total.update(path.relative_to(root).as_posix().encode() + b"\0")
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()
