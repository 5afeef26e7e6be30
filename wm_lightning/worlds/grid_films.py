"""Captioned films of the grid's tasks, as a video model meets them in pretraining: many show what a solution says."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from wm_lightning.worlds.grid_look import LookTask
from wm_lightning.worlds.grid_planner import DIRECTIONS, spoilt
from wm_lightning.worlds.grid_tasks import Task


def erring(task: Task | LookTask, wrong: float, source: np.random.Generator) -> str:
    """A solution in words as a model writes it: the planner's, and in the share `wrong` of the draws a spoilt one."""
    return task.telling(spoilt(task.moves, source) if source.random() < wrong else task.moves)


@dataclass(frozen=True)
class FilmLaw:
    """What films show, and what their captions say.

    The share `told` of films has a solution for a caption, which tells to the frame what is shown: in the share
    `spoilt` of them an imperfect plan. The others have the instruction, which the share `obeyed` of them carries out;
    of the rest the share `idle` stands still, and the agent of what remains wanders.
    """

    told: float
    spoilt: float
    obeyed: float
    idle: float

    def __post_init__(self) -> None:
        if not all(0 <= share <= 1 for share in (self.told, self.spoilt, self.obeyed, self.idle)):
            raise ValueError(f"shares from 0 to 1, not {self}")


@dataclass(frozen=True)
class Film:
    """A film with its caption; `perfect` where it shows what solves the task."""

    video: UInt8[np.ndarray, "f h w 3"]
    caption: str
    perfect: bool


def filmed(task: Task | LookTask, law: FilmLaw, frames: int, cell: int, source: np.random.Generator) -> Film:
    """One film of a task, drawn by the law."""
    shares = (law.told, law.spoilt, law.obeyed, law.idle)
    told, failing, obeyed, still = (source.random() < share for share in shares)
    perfect = not failing if told else obeyed
    if perfect:
        moves = task.moves
    elif told:
        moves = spoilt(task.moves, source)
    else:
        moves = () if still else tuple(str(move) for move in source.choice(DIRECTIONS, frames - 1))
    return Film(task.film(moves, frames, cell), task.telling(moves) if told else task.prompt, perfect)
