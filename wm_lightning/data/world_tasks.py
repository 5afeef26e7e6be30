"""The DataModule of WorldTasks: pictures with instructions and solutions, or those of a simulated grid."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from wm_lightning.clip import Clip, Condition, Encoded, Pixels, Start
from wm_lightning.data.cache import Recipe
from wm_lightning.data.datamodule import SPLITS
from wm_lightning.data.formats.frame_store import check_budget
from wm_lightning.data.formats.resize import Resize
from wm_lightning.data.formats.world_tasks import TABLE, TaskReader, TaskRow, TaskSet, read_tasks, sound
from wm_lightning.data.frame_cache import Tolerance
from wm_lightning.data.latent_cache import remake
from wm_lightning.data.parts import parts_of
from wm_lightning.data.stored_prompts import StoredPrompts
from wm_lightning.data.task_cache import BY_CONTENT, TaskCache, TaskKey, latents_of, stored
from wm_lightning.data.task_datamodule import TaskDataModule
from wm_lightning.data.windows import PromptedWindows, Windows
from wm_lightning.networks.adapters.pipeline_encoders import PipelineEncoders
from wm_lightning.networks.autoencoders import Autoencoder
from wm_lightning.networks.prompt import Prompter
from wm_lightning.worlds.grid_world import GridWorld

log = logging.getLogger(__name__)


class WorldTasksDataModule(TaskDataModule):
    """Tasks of `<root>/<subset>` or of `root` itself, or of the simulated `world`: clips of one frame with texts.

    A clip's `texts` hold the prompt (`[Agent]: instruction`), the solution and the task's id, by which `row` gives all
    else, its verifier too; `prompter` makes tokens of texts. Where val or test are not stored, `val_share` and
    `test_share` of the sources of train (at least one each) take their place: a source keeps its part whatever rows of
    others are unusable. Unusable rows are refused or left out by `on_error` and `max_bad_share`.

    With `latents`, the folder that task=encode wrote, clips have the latents that `autoencoder` made of their pictures,
    and with `encoders` prompts are features of those and conditions have their tokens of the picture.
    """

    spec = TaskReader.spec
    world = None
    least_frames = 1
    pictures_only = True  # a clip is a task's picture

    def __init__(
        self, *, world: GridWorld, subset: str, resize: str, val_share: float, test_share: float, on_error: str,
        max_bad_share: float, decode_workers: int, prompter: Prompter, latents: str | None,
        autoencoder: Autoencoder | None, encoders: PipelineEncoders | None, **shared: Any,
    ) -> None:  # fmt: skip
        super().__init__(**shared)
        if self.pictures_only and (self.frames, self.val_frames) != (1, 1):
            raise ValueError(
                f"data.frames={self.frames} and data.val_frames={self.val_frames} must be 1: a task has one picture"
            )
        if min(val_share, test_share) <= 0 or val_share + test_share >= 1:
            raise ValueError(f"data.{val_share=} and data.{test_share=} must be positive and leave some to train on")
        if self.root is None and subset != world.name:
            raise ValueError(
                f"data.subset={subset} without data.root: the simulated subset is {world.name}; name the folder of "
                f"real data with data.root=PATH"
            )
        self.label, self.simulator, self.shares = subset, world, {"val": val_share, "test": test_share}
        _, height, width = self.frame_shape
        self.resize, self.tolerance = Resize(resize, height, width), Tolerance(on_error, max_bad_share)
        self.decode_workers, self.prompter = decode_workers, prompter
        self.latents, self.autoencoder, self.encoders, self.cache = latents, autoencoder, encoders, None
        if latents is not None:
            self._read_latents(Path(latents))

    def _read_latents(self, folder: Path) -> None:
        """Raises ValueError where the latents in `folder` are of others than these pictures, or of films."""
        if not self.pictures_only:
            raise ValueError(f"data.latents={folder}: films are made when they are read; set data.latents=null")
        if self.augment is not None:
            raise ValueError("data.augment changes pixels, and latents were made of them before: set data.augment=null")
        key = self.task_key.believing(folder)
        key.check(folder)
        self.frame_shape = self._checked_autoencoder().frame_shape(*self.pixels)
        self.cache = TaskCache(folder, key)
        if self.encoders is not None:
            self.prompter = StoredPrompts(self.cache, self.encoders)

    @property
    def task_key(self) -> TaskKey:
        """What latents and features of these data hang on. Raises ValueError where there is no autoencoder."""
        autoencoder = self._checked_autoencoder()
        scaling = autoencoder.scaling
        identity = {name: value for name, value in autoencoder.identity.items() if name not in scaling}
        heard = {} if self.encoders is None else self.encoders.identity
        return TaskKey(identity, scaling, asdict(self.resize), BY_CONTENT, encoders=heard)

    def _checked_autoencoder(self) -> Autoencoder:
        if self.autoencoder is None:
            raise ValueError(f"data.latents={self.latents} needs the autoencoder that made it: autoencoder=video|patch")
        return self.autoencoder

    @property
    def home(self) -> Path:
        """The folder of the table."""
        own = self.folder / self.label
        return own if own.is_dir() else self.folder

    @cached_property
    def tasks(self) -> TaskSet:
        """All usable rows, every picture decoded once. Raises ValueError where too many are not."""
        self._check_folder()
        found = sound(read_tasks(self.home), self.decode_workers)
        check_budget(found.bad, self.tolerance.allowed(len(found.rows) + len(found.bad)))
        return found

    @cached_property
    def parts(self) -> Mapping[str, tuple[TaskRow, ...]]:
        """The rows of every split."""
        stored = {split: tuple(row for row in self.tasks.rows if row.split == split) for split in SPLITS}
        named = self.tasks.sources  # of unusable rows too, so that these move no other source into another part
        missing = {split: share for split, share in self.shares.items() if split not in named}
        sources = named.get("train", frozenset())
        if len(sources) <= len(missing):
            raise ValueError(
                f"{self.home / TABLE} has tasks of {len(sources)} sources in train, one each is needed for train and "
                f"{' and '.join(missing) or 'none other'}"
            )
        part_of = {name: part for part, names in parts_of(sources, missing).items() for name in names}
        of_train = [(part_of.get(row.source), row) for row in stored["train"]]
        drawn = {part: tuple(row for own, row in of_train if own == part) for part in (*missing, "train")}
        parts = stored | drawn
        if empty := [split for split, rows in parts.items() if not rows]:
            raise ValueError(f"{self.home / TABLE}: no row of {' and '.join(empty)} is usable; repair or add some")
        return parts

    def row(self, task: str) -> TaskRow:
        """The task of that id. Raises KeyError where there is none."""
        return self._rows[task]

    def asked(self, clip: Clip, frames: int) -> Condition:
        """The instruction."""
        assert clip.texts is not None
        return self.told(clip, clip.texts.instruction, frames)

    def solved(self, clip: Clip, frames: int) -> Condition:
        """The solution, in words."""
        assert clip.texts is not None
        return self.told(clip, clip.texts.solution, frames)

    def told(self, clip: Clip, texts: Sequence[str], frames: int) -> Condition:
        """Words about the tasks, and the encoders' tokens of their pictures where these have any."""
        condition = super().told(clip, texts, frames)
        if self.cache is None or self.encoders is None:
            return condition
        seen = [stored(self.cache, picture) for picture in clip.video[:, 0].cpu().numpy()]
        tokens = [one.tokens for one in seen if one.tokens is not None]
        if len(tokens) < len(seen):
            return condition
        return replace(condition, start=Start(clip.x0[:, :1].cpu(), torch.stack(tokens)))

    def open_split(self, folder: Path, split: str) -> TaskReader:
        latents = None if self.cache is None else partial(latents_of, self.cache)
        return TaskReader(self.tasks, self.parts[split], self.resize, latents)

    def windows(self, split: str, *, truth: bool, learned: bool = False) -> Windows:
        """A split's clips, prompted by their instruction."""
        return PromptedWindows(self.reader(split), truth=truth, prompter=self.prompter)

    def prepare_data(self) -> None:
        """Simulates or checks; says which rows are left out. Raises ValueError where nothing was encoded."""
        if self.encoders is not None and self.cache is None:
            raise ValueError(
                f"data.encoders is set, and data.latents names no folder of what they say; make one: {remake()}"
            )
        super().prepare_data()
        for error in self.tasks.bad:
            log.warning("%s: left out %s", self.name, error)

    @property
    def quarantined(self) -> Mapping[str, str]:
        """Rows left out, each with its reason."""
        return {f"{error.path} ({number})": error.reason for number, error in enumerate(self.tasks.bad)}

    @property
    def autoencoder_identity(self) -> Mapping[str, Any]:
        return {} if self.latents is None else self._checked_autoencoder().identity

    @property
    def picture_size(self) -> Resize:
        return self.resize

    def encode(self, video: Pixels) -> Encoded:
        return super().encode(video) if self.latents is None else self._checked_autoencoder().encode(video)

    def decode(self, x0: Encoded) -> UInt8[Tensor, "b total c h w"]:
        """Pixels of what a network makes, on its device: more frames than latents where the autoencoder is of video."""
        return super().decode(x0) if self.latents is None else self._checked_autoencoder().decode(x0)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What is read: see `ClipDataModule`."""
        return super().manifest | ({} if self.cache is None else {"latents": self.cache.key.sha256})

    def recipe(self) -> Recipe:
        """The grid's own simulation."""
        world = self.simulator
        return Recipe(world.name, world.settings, world.size, sum(world.scenes.values()), world.write)

    @cached_property
    def _rows(self) -> Mapping[str, TaskRow]:
        return {row.id: row for row in self.tasks.rows}
