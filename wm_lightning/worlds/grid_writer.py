"""Stands for a model that writes solutions of the grid's tasks: a planner's words, wrong in a known share."""

from collections.abc import Callable, Sequence

from wm_lightning.clip import Pixels, Texts
from wm_lightning.data.formats.world_tasks import TaskRow
from wm_lightning.randomness import generator
from wm_lightning.rewards.reward import Failed
from wm_lightning.worlds.grid_films import erring
from wm_lightning.worlds.grid_reward import UNKNOWN, HasRows, task_of


class GridWriter:
    """Tells the planner's moves, and in the share `wrong` of the tasks those of a spoilt plan."""

    def __init__(self, *, row: Callable[[str], TaskRow], wrong: float, seed: int) -> None:
        if not 0 <= wrong <= 1:
            raise ValueError(f"{wrong=} is a share of the tasks, from 0 to 1")
        self.row, self.wrong, self.seed = row, wrong, seed
        self.name = f"the grid's planner, wrong in {wrong:.0%}"

    def __call__(self, pictures: Pixels, texts: Texts) -> Sequence[str | Failed]:
        """One text a task; what is wrong hangs on the task alone."""
        return [self._written(name) for name in texts.ids]

    def _written(self, name: str) -> str | Failed:
        if (task := task_of(self.row(name))) is None:
            return UNKNOWN
        return erring(task, self.wrong, generator(self.seed, f"written {name}"))


def grid_writer(data: HasRows, *, wrong: float, seed: int) -> GridWriter:
    """A writer for the tasks of these data."""
    return GridWriter(row=data.row, wrong=wrong, seed=seed)
