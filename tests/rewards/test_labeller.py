"""Labels of films: what the grid's program finds done is what was done, and a model's are read as they stand."""

import numpy as np
import pytest
import torch

from tests.judge_server import Running
from tests.rewards.making import CELL, FRAMES, ROWS, TASKS, endpoint, films, row
from tests.rewards.test_writer import reply
from wm_lightning.clip import Pixels
from wm_lightning.rewards.labeller import EndpointLabeller, read_label
from wm_lightning.rewards.reward import Failed
from wm_lightning.worlds.grid_labeller import GridLabeller, fulfilled
from wm_lightning.worlds.grid_look import LookTask
from wm_lightning.worlds.grid_planner import DIRECTIONS, course
from wm_lightning.worlds.grid_tasks import Task, goals_of

LABELLER = GridLabeller(row=row)


def film(task: Task | LookTask, moves: tuple[str, ...]) -> Pixels:
    return torch.from_numpy(task.film(moves, FRAMES, CELL))[None].permute(0, 1, 4, 2, 3)


def test_a_film_of_a_solution_shows_its_task_done() -> None:
    for task in TASKS:
        found = fulfilled(film(task, task.moves), task, np.random.default_rng(0))
        if isinstance(task, Task):
            assert task.goal in [other.goal for other in found if isinstance(other, Task)]
        else:
            assert task.target in [other.target for other in found if isinstance(other, LookTask)]
        assert all(other.agent == task.agent for other in found), "somebody who stood still is named"


def test_what_is_seen_done_is_what_was_brought_about() -> None:
    """Pixels against the simulator's own states, in films of somebody who wanders."""
    source, several = np.random.default_rng(1), 0
    for task in (task for task in TASKS * 8 if isinstance(task, Task)):
        moves = tuple(str(move) for move in source.choice(DIRECTIONS, FRAMES - 1))
        end = course(task.board, task.state, task.goal.agent, moves, FRAMES)[-1]
        brought = {
            goal
            for goal in goals_of(task.board, task.state)
            if goal.fulfilled(task.board, end) and not goal.fulfilled(task.board, task.state)
        }
        if end.agents == task.state.agents:  # back where it was: nobody is seen to have gone anywhere in the end
            continue
        found = fulfilled(film(task, moves), task, source)
        assert {other.goal for other in found if isinstance(other, Task)} == {
            goal for goal in brought if goal.agent == task.goal.agent
        }
        several += len(found)
    assert several > 10


def test_a_film_in_which_nothing_happens_has_no_label() -> None:
    for name, task in zip(ROWS, TASKS, strict=True):
        assert list(LABELLER(film(task, ()), [name])) == [""]


def test_a_label_is_the_same_however_often_it_is_asked_for() -> None:
    made, ids = films(), [*ROWS]
    labels = LABELLER(made, ids)
    assert labels == [LABELLER(made[n : n + 1], ids[n : n + 1])[0] for n in range(len(ids))]
    assert len({label for label in labels if label}) > 3


def test_a_model_behind_an_endpoint_labels_by_frames_alone(server: Running) -> None:
    labeller = EndpointLabeller(endpoint=endpoint(server), version="v1", frames=FRAMES, short_side=448, words=40)
    made, ids = films(), [*ROWS]
    said, own = labeller(made, ["unknown"] * len(ids)), LABELLER(made, ids)
    assert [bool(label) for label in said] == [bool(label) for label in own]
    assert all(str(label).startswith("[") for label in said if label)
    assert len(server.requests[-1]["messages"][0]["content"]) == FRAMES + 1
    server.behaviour.always = "http 400"
    assert labeller(made[:2], ids[:2]) == [Failed("http 400")] * 2


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("[Blue square]: go to the  green circle", "[Blue square]: go to the green circle"),
        ("None.", ""),
        ("none", ""),
        ("The blue square goes to the circle.", Failed("no task in the grammar")),
        ("", Failed("no text")),
    ],
)
def test_a_reply_is_a_task_or_none(text: str, label: str | Failed) -> None:
    assert read_label(reply(text), 40) == label
