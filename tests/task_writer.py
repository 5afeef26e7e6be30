"""A model that screens the grid's pictures, writes their tasks and checks texts, by pixels and planner alone."""

import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from wm_lightning.rewards.prompt import load_prompt
from wm_lightning.worlds.grid_look import LookTask
from wm_lightning.worlds.grid_tasks import Task

PROMPTS = {stage: load_prompt(stage, "v1") for stage in ("screening", "generation", "grammar")}
SIDE = 64  # pixels at which pictures are compared
CERTAIN = 5.0  # log-odds
SIMILAR = 6.0  # mean difference in grey levels up to which a picture shows a known scene
UNFINISHED, REPEATED = 2, 5  # what a careless writer writes in these places
PROMPT = re.compile(r"\[[A-Z][^\[\]]*\]: \S.*")


class TaskWriter:
    """Knows scenes by their pictures: fit is what shows one of them plainly, and its tasks are those of the scene."""

    def __init__(self, tasks: Sequence[Task | LookTask], cell: int) -> None:
        self.tasks, self.cell = tasks, cell

    def reply(self, pictures: Sequence[np.ndarray], text: str, careless: bool) -> float | str:
        """Log-odds of yes, or what was written."""
        stage = stage_of(text)
        if stage == "grammar":
            _, prompt, _, solution, _ = text.split('"')
            return CERTAIN if PROMPT.fullmatch(prompt) and solution.endswith(".") else -CERTAIN
        scene = self._scene(pictures[0])
        if stage == "screening":
            return -CERTAIN if scene is None else CERTAIN
        return json.dumps(written(scene or [], careless), indent=1)

    def _scene(self, picture: np.ndarray) -> list[Task | LookTask] | None:
        """The tasks of the scene that a picture shows; None where it shows none, or hardly."""
        shown = _small(picture)
        distance, tasks = min(
            ((float(np.abs(known - shown).mean()), tasks) for known, tasks in self._scenes), key=lambda pair: pair[0]
        )
        return tasks if distance < SIMILAR else None

    @cached_property
    def _scenes(self) -> list[tuple[np.ndarray, list[Task | LookTask]]]:
        by_picture: dict[bytes, list[Task | LookTask]] = {}
        for task in self.tasks:
            by_picture.setdefault(task.picture(self.cell).tobytes(), []).append(task)
        return [(_small(tasks[0].picture(self.cell)), tasks) for tasks in by_picture.values()]


def stage_of(text: str) -> str | None:
    """Which question this is; None for one of a judge of videos."""
    return next((stage for stage, prompt in PROMPTS.items() if text.startswith(prompt.text.split("$", 1)[0])), None)


def written(scene: Sequence[Task | LookTask], careless: bool) -> list[dict[str, Any]]:
    """The objects of the list that is asked for; a careless writer breaks one off and repeats one."""
    tasks = [
        {
            "agent": task.agent, "task": task.instruction, "solution": task.solution, "task_type": task.category,
            "agent_type": "object",
        }
        for task in scene
    ]  # fmt: skip
    if careless:
        tasks[UNFINISHED]["solution"] = tasks[UNFINISHED]["solution"].removesuffix(".")
        tasks[REPEATED] = tasks[0]
    return tasks


def _small(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)
