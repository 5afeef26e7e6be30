"""The grid's tasks as a simulated WorldTasks set: pictures, prompts, solutions and a verifier for each."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wm_lightning.data.formats.world_tasks import TaskRow, write_tasks
from wm_lightning.worlds.grid_scene import SIDE
from wm_lightning.worlds.grid_tasks import SPLITS, GridTasks, Task, to_json

VERSION = 1  # raise it when the same settings would give other data


class GridWorld:
    """`scenes` scenes a split, drawn with `cell` pixels a cell; the rest are settings of `GridTasks`."""

    name = "grid_tasks"

    def __init__(
        self, *, seed: int, frames: int, most_walls: int, tasks_per_scene: int, scenes: Mapping[str, int], cell: int
    ) -> None:
        if set(scenes) != set(SPLITS) or min(scenes.values()) < 1 or cell < 2:
            raise ValueError(f"data.world.{scenes=} needs 1 or more of {SPLITS}, and data.world.{cell=} 2 or more")
        self.tasks = GridTasks(seed=seed, frames=frames, most_walls=most_walls, tasks_per_scene=tasks_per_scene)
        self.scenes, self.cell = {split: int(scenes[split]) for split in SPLITS}, cell

    @property
    def settings(self) -> dict[str, Any]:
        """All that the data depend on, as plain JSON values."""
        names = ("seed", "frames", "most_walls", "tasks_per_scene")
        own = {"scenes": self.scenes, "cell": self.cell, "version": VERSION}
        return {name: getattr(self.tasks, name) for name in names} | own

    @property
    def size(self) -> int:
        """An upper estimate of the data on disk, in bytes."""
        return sum(self.scenes.values()) * (3 * (SIDE * self.cell) ** 2 + 2048 * self.tasks.tasks_per_scene)

    def write(self, folder: Path, report: Callable[[int], None]) -> None:
        """Writes `<folder>/grid_tasks/`: images and the table."""
        write_tasks(folder / self.name, self._scenes(report))

    def _scenes(self, report: Callable[[int], None]) -> Iterator[tuple[np.ndarray, list[TaskRow]]]:
        drawn: set[bytes] = set()
        for split, count in self.scenes.items():
            for number in range(count):
                tasks = self.tasks.scene(split, number)
                picture = tasks[0].picture(self.cell)
                report(1)
                # Scenes are drawn apart, and two of them may still look alike: a picture stays in its first split.
                if picture.tobytes() not in drawn:
                    drawn.add(picture.tobytes())
                    yield picture, [row_of(task, split, number) for task in tasks]


def row_of(task: Task, split: str, scene: int) -> TaskRow:
    """A task as a row; its picture and its id are filled in when it is written."""
    return TaskRow(
        id="", image="", source=f"{split}-{scene}", agent=task.agent, task=task.instruction, solution=task.solution,
        task_type=task.category, agent_type="object", split=split, verifier=to_json(task),
    )  # fmt: skip
