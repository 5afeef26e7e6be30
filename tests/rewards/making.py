"""Films of the grid's tasks, honest and not, with their texts; and endpoints of a server on loopback."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tests.judge_server import MODEL, Running
from wm_lightning.clip import Pixels, Texts
from wm_lightning.data.formats.world_tasks import TaskRow
from wm_lightning.rewards.endpoint import Endpoint
from wm_lightning.rewards.questions import Asking
from wm_lightning.rewards.reward import Failed, Verdict
from wm_lightning.rewards.vlm import EndpointReward
from wm_lightning.worlds.grid_look import LookTask, look_tasks
from wm_lightning.worlds.grid_planner import course, spoilt
from wm_lightning.worlds.grid_scene import render
from wm_lightning.worlds.grid_tasks import GridTasks, Task
from wm_lightning.worlds.grid_world import row_of

FRAMES, CELL = 9, 4
WORLD = GridTasks(seed=0, frames=FRAMES, most_walls=8, tasks_per_scene=4, slack=0)
BOARDS = [task for number in range(5) for task in WORLD.scene("train", number)]
LOOKS = [task for number in range(2) for task in look_tasks(WORLD, "train", number)[:2]]
TASKS: list[Task | LookTask] = [*BOARDS, *LOOKS]
ROWS = {f"task{place}": row_of(task, "train", place, task.solution) for place, task in enumerate(TASKS)}
TEXTS = Texts(
    tuple(ROWS), tuple(row.prompt for row in ROWS.values()), tuple(row.solution for row in ROWS.values())
)  # fmt: skip


def row(name: str) -> TaskRow:
    return ROWS[name]


def films() -> Pixels:
    """One a task: as planned, with a spoilt plan, with the other agent, or jumping to the end."""
    source = np.random.default_rng(0)
    made: list[np.ndarray] = []
    for place, task in enumerate(TASKS):
        film = task.film(spoilt(task.moves, source) if place % 4 == 1 else task.moves, FRAMES, CELL)
        if place % 4 == 2 and isinstance(task, Task):
            states = course(task.board, task.state, 1 - task.goal.agent, ("up", "down", "left", "right"), FRAMES)
            film = np.stack([render(task.board, state, CELL) for state in states])
        if place % 4 == 3:
            film[1:] = film[-1]
        made.append(film)
    return torch.from_numpy(np.stack(made)).permute(0, 1, 4, 2, 3)


def endpoint(server: Running, **changes: Any) -> Endpoint:
    settings: dict[str, Any] = dict(
        url=server.url, model=MODEL, key_variable=None, encoding="png", concurrency=4, timeout=30.0, retries=0,
        backoff=0.0, extra={},
    )  # fmt: skip
    return Endpoint(**settings | changes)


def asking(criterion: str, **changes: Any) -> Asking:
    settings: dict[str, Any] = dict(criterion=criterion, version="v1", frames=16, short_side=448)
    return Asking(**settings | changes)


def judged_by(server: Running, criterion: str, *, cache: str | None = None, **changes: Any) -> EndpointReward:
    return EndpointReward(endpoint=endpoint(server, **changes), asking=asking(criterion), cache=cache)


class Brightness:
    """A reward that needs no server: mean brightness; what is said of the places of `failing` (by task) fails."""

    def __init__(self, failing: Sequence[str] = (), reason: str = "timeout") -> None:
        self.failing, self.reason = failing, reason

    def __call__(self, videos: Pixels, texts: Texts) -> Verdict:
        means = videos.float().mean((1, 2, 3, 4))
        pairs = zip(means.tolist(), texts.ids, strict=True)
        return Verdict.of([Failed(self.reason) if name in self.failing else mean for mean, name in pairs])
