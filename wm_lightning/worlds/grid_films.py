"""Captioned films of the grid's tasks, as a video model meets them in pretraining: many show what a solution says."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from wm_lightning.worlds.grid_look import LookTask
from wm_lightning.worlds.grid_planner import DIRECTIONS, spoilt
from wm_lightning.worlds.grid_tasks import Task


@dataclass(frozen=True)
class FilmLaw:
    """The share `told` of films has the solution for a caption; of these the share `spoilt` shows an imperfect plan.

    The others have the instruction, which tells nothing of what is shown: the share `idle` of them stands still, in the
    rest the agent wanders.
    """

    told: float
    spoilt: float
    idle: float

    def __post_init__(self) -> None:
        if not all(0 <= share <= 1 for share in (self.told, self.spoilt, self.idle)):
            raise ValueError(f"shares from 0 to 1, not {self}")


@dataclass(frozen=True)
class Film:
    """A film with its caption; `perfect` where it shows what solves the task."""

    video: UInt8[np.ndarray, "f h w 3"]
    caption: str
    perfect: bool


def filmed(task: Task | LookTask, law: FilmLaw, frames: int, cell: int, source: np.random.Generator) -> Film:
    """One film of a task, drawn by the law."""
    told, whole, still = (source.random() < share for share in (law.told, 1 - law.spoilt, law.idle))
    if told:
        moves = task.moves if whole else spoilt(task.moves, source)
        return Film(task.film(moves, frames, cell), task.solution, whole)
    moves = () if still else tuple(str(move) for move in source.choice(DIRECTIONS, frames - 1))
    return Film(task.film(moves, frames, cell), task.prompt, False)
