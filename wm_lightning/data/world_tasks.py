"""The DataModule of WorldTasks: pictures with instructions and solutions, or those of a simulated grid."""

import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from wm_lightning.clip import Clip, Condition
from wm_lightning.data.cache import Recipe
from wm_lightning.data.datamodule import SPLITS
from wm_lightning.data.formats.frame_store import check_budget
from wm_lightning.data.formats.resize import Resize
from wm_lightning.data.formats.world_tasks import TABLE, TaskReader, TaskRow, TaskSet, read_tasks, sound
from wm_lightning.data.frame_cache import Tolerance
from wm_lightning.data.parts import parts_of
from wm_lightning.data.task_datamodule import TaskDataModule, prompted
from wm_lightning.data.windows import PromptedWindows
from wm_lightning.networks.prompt import Prompter
from wm_lightning.worlds.grid_world import GridWorld

log = logging.getLogger(__name__)


class WorldTasksDataModule(TaskDataModule):
    """Tasks of `<root>/<subset>` or of `root` itself, or of the simulated `world`: clips of one frame with texts.

    A clip's `texts` hold the prompt (`[Agent]: instruction`), the solution and the task's id, by which `row` gives all
    else, its verifier too; `prompter` makes tokens of texts. Where val or test are not stored, `val_share` and
    `test_share` of the sources of train (at least one each) take their place: a source keeps its part whatever rows of
    others are unusable. Unusable rows are refused or left out by `on_error` and `max_bad_share`.
    """

    spec = TaskReader.spec
    world = None
    least_frames = 1
    pictures_only = True  # a clip is a task's picture

    def __init__(
        self, *, world: GridWorld, subset: str, resize: str, val_share: float, test_share: float, on_error: str,
        max_bad_share: float, decode_workers: int, prompter: Prompter, **shared: Any,
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
        return prompted(self.prompter(clip.texts.instruction), frames, self.spec.dim)

    def solved(self, clip: Clip, frames: int) -> Condition:
        """The solution, in words."""
        assert clip.texts is not None
        return prompted(self.prompter(clip.texts.solution), frames, self.spec.dim)

    def open_split(self, folder: Path, split: str) -> TaskReader:
        return TaskReader(self.tasks, self.parts[split], self.resize)

    def windows(self, split: str, *, truth: bool, learned: bool = False) -> PromptedWindows:
        """A split's clips, prompted by their instruction."""
        return PromptedWindows(self.reader(split), truth=truth, prompter=self.prompter)

    def prepare_data(self) -> None:
        """Simulates or checks; says which rows are left out."""
        super().prepare_data()
        for error in self.tasks.bad:
            log.warning("%s: left out %s", self.name, error)

    @property
    def quarantined(self) -> Mapping[str, str]:
        """Rows left out, each with its reason."""
        return {f"{error.path} ({number})": error.reason for number, error in enumerate(self.tasks.bad)}

    def recipe(self) -> Recipe:
        """The grid's own simulation."""
        world = self.simulator
        return Recipe(world.name, world.settings, world.size, sum(world.scenes.values()), world.write)

    @cached_property
    def _rows(self) -> Mapping[str, TaskRow]:
        return {row.id: row for row in self.tasks.rows}
