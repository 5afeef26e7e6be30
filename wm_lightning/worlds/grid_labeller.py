"""Stands for a model that labels films of the grid: what is found done when a film ends, asked of its pixels."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from wm_lightning.clip import Pixels
from wm_lightning.data.formats.world_tasks import TaskRow
from wm_lightning.randomness import generator
from wm_lightning.rewards.reward import Failed
from wm_lightning.worlds.grid_judge import done
from wm_lightning.worlds.grid_look import LookTask, judge_looks, looks_of
from wm_lightning.worlds.grid_reward import UNKNOWN, HasRows, task_of
from wm_lightning.worlds.grid_tasks import Task, goals_of, worded

NAME = "the grid's program, version 1"


class GridLabeller:
    """Says one of the things that the judges of the grid find done, whatever the film was made for.

    `row` gives the row of a task's id, of which the scene is known and the goal is not looked at. Of several things it
    says one at random, which hangs on the film alone.
    """

    name = NAME

    def __init__(self, *, row: Callable[[str], TaskRow]) -> None:
        self.row = row

    def __call__(self, films: Pixels, ids: Sequence[str]) -> Sequence[str | Failed]:
        """One label a film."""
        return [self._labelled(films[place : place + 1], name) for place, name in enumerate(ids)]

    def _labelled(self, film: Pixels, name: str) -> str | Failed:
        if (scene := task_of(self.row(name))) is None:
            return UNKNOWN
        found = fulfilled(film, scene, generator(int(film.long().sum()), f"label {name}"))
        return found[0].prompt if found else ""


def fulfilled(film: Pixels, scene: Task | LookTask, source: np.random.Generator) -> list[Task | LookTask]:
    """What could be asked for in the scene, did not hold at first, and is done in the film; in random order."""
    if isinstance(scene, LookTask):
        looks = [*looks_of(scene.board, scene.state, scene.view, source, film.shape[1])]
        margins = judge_looks(film.expand(len(looks), -1, -1, -1, -1), looks) if looks else None
        met = [] if margins is None else (torch.minimum(margins.task, margins.agent) > 0).tolist()
        found: list[Task | LookTask] = [look for look, yes in zip(looks, met, strict=True) if yes]
    else:
        goals = [goal for goal in goals_of(scene.board, scene.state) if not goal.fulfilled(scene.board, scene.state)]
        asked = [Task(scene.board, scene.state, goal, worded(goal, source), "", (), film.shape[1]) for goal in goals]
        found = [task for task, yes in zip(asked, done(film, [asked])[0], strict=True) if yes]
    return [found[place] for place in source.permutation(len(found))]


def grid_labeller(data: HasRows) -> GridLabeller:
    """A labeller for the films of these data."""
    return GridLabeller(row=data.row)
