"""The grid's tasks as a simulated WorldTasks set: pictures, prompts, solutions and a verifier for each."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wm_lightning.data.formats.world_tasks import TaskRow, write_tasks
from wm_lightning.randomness import generator
from wm_lightning.worlds.grid_films import erring
from wm_lightning.worlds.grid_look import LookTask, look_tasks, look_to_json
from wm_lightning.worlds.grid_scene import SIDE
from wm_lightning.worlds.grid_tasks import SPLITS, GridTasks, Task, to_json

VERSION = 4  # raise it when the same settings would give other data


class GridWorld:
    """`scenes` scenes a split, drawn with `cell` pixels a cell; the rest are settings of `GridTasks`.

    The share `looks` of the scenes is seen through a camera that shall be turned: tasks of `grid_look`. The share
    `wrong` of the tasks comes with the solution of a spoilt plan, as a model that writes them errs.
    """

    name = "grid_tasks"

    def __init__(
        self, *, seed: int, frames: int, most_walls: int, tasks_per_scene: int, scenes: Mapping[str, int], cell: int,
        looks: float, wrong: float, slack: int,
    ) -> None:  # fmt: skip
        if set(scenes) != set(SPLITS) or min(scenes.values()) < 1 or cell < 2:
            raise ValueError(f"data.world.{scenes=} needs 1 or more of {SPLITS}, and data.world.{cell=} 2 or more")
        if not (0 <= looks <= 1 and 0 <= wrong <= 1):
            raise ValueError(f"data.world.{looks=} and data.world.{wrong=} are shares, from 0 to 1")
        self.tasks = GridTasks(
            seed=seed, frames=frames, most_walls=most_walls, tasks_per_scene=tasks_per_scene, slack=slack
        )
        self.scenes, self.cell = {split: int(scenes[split]) for split in SPLITS}, cell
        self.looks, self.wrong = looks, wrong

    @property
    def settings(self) -> dict[str, Any]:
        """All that the data depend on, as plain JSON values."""
        names = ("seed", "frames", "most_walls", "tasks_per_scene")
        own = {"scenes": self.scenes, "cell": self.cell, "looks": self.looks, "wrong": self.wrong, "version": VERSION}
        # Data without any are those of before there could be some, and keep their name.
        slack = {"slack": self.tasks.slack} if self.tasks.slack else {}
        return {name: getattr(self.tasks, name) for name in names} | own | slack

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
                tasks = self._tasks(split, number)
                picture = tasks[0].picture(self.cell)
                report(1)
                # Scenes are drawn apart, and two of them may still look alike: a picture stays in its first split.
                if picture.tobytes() not in drawn:
                    drawn.add(picture.tobytes())
                    yield (
                        picture,
                        [row_of(task, split, number, told) for task, told in self._told(tasks, split, number)],
                    )

    def _told(
        self, tasks: Sequence[Task | LookTask], split: str, scene: int
    ) -> Iterator[tuple[Task | LookTask, str]]:  # fmt: skip
        """Every task with the solution it comes with."""
        source = generator(self.tasks.seed, f"grid solutions {split}", scene)
        for task in tasks:
            yield task, erring(task, self.wrong, source)

    def _tasks(self, split: str, number: int) -> Sequence[Task | LookTask]:
        # Scenes of looking are spread evenly, whatever their share.
        if int((number + 1) * self.looks) > int(number * self.looks):
            return look_tasks(self.tasks, split, number)[: self.tasks.tasks_per_scene]
        return self.tasks.scene(split, number)


def row_of(task: Task | LookTask, split: str, scene: int, solution: str) -> TaskRow:
    """A task with what is told of its solution as a row; its picture and its id are filled in when it is written."""
    looks = isinstance(task, LookTask)
    return TaskRow(
        id="", image="", source=f"{split}-{scene}", agent=task.agent, task=task.instruction, solution=solution,
        task_type=task.category, agent_type="first-person view" if looks else "object", split=split,
        verifier=look_to_json(task) if looks else to_json(task),
    )  # fmt: skip
