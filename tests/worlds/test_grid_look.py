"""Tasks of looking: plans that bring things to the middle, and a judge of pixels that agrees with the program."""

import json

import numpy as np
import pytest
import torch

from wm_lightning.clip import Pixels
from wm_lightning.worlds.grid_look import (
    VIEW,
    LookTask,
    course,
    judge_looks,
    look_from_json,
    look_tasks,
    look_to_json,
    plan,
    things,
)
from wm_lightning.worlds.grid_planner import spoilt
from wm_lightning.worlds.grid_scene import COLOURS, FLOOR, SIDE
from wm_lightning.worlds.grid_tasks import GridTasks

FRAMES, CELL = 7, 4
WORLD = GridTasks(seed=0, frames=FRAMES, most_walls=5, tasks_per_scene=8, slack=0)


@pytest.fixture(scope="module")
def tasks() -> list[LookTask]:
    return [task for number in range(60) for task in look_tasks(WORLD, "train", number)]


def filmed(films: list[np.ndarray]) -> Pixels:
    return torch.from_numpy(np.stack(films)).permute(0, 1, 4, 2, 3)


def test_plans_are_the_shortest_that_end_in_the_middle(tasks: list[LookTask]) -> None:
    assert len(tasks) > 40 and {task.target for task in tasks} == set(COLOURS)
    for task in tasks:
        assert task.category == "perception" and task.prompt.startswith("[Camera]: ")
        end = course(task.view, task.moves, FRAMES)[-1]
        assert task.fulfilled(end) and not task.fulfilled(task.view)
        assert all(move in task.solution for move in task.moves)
        # No view that is nearer shows it in the middle.
        views = [(row, column) for row in range(SIDE - VIEW + 1) for column in range(SIDE - VIEW + 1)]
        near = min(abs(r - task.view[0]) + abs(c - task.view[1]) for r, c in views if task.fulfilled((r, c)))
        assert len(task.moves) == near
    assert plan((0, 0), (0, 3)) is None, "a thing at the upper border never comes to the middle"


def test_the_picture_is_a_part_of_the_board(tasks: list[LookTask]) -> None:
    for task in tasks[:20]:
        picture = task.picture(CELL)
        assert picture.shape == (SIDE * CELL, SIDE * CELL, 3)
        row, column = (a - b for a, b in zip(things(task.board, task.state)[task.target], task.view, strict=True))
        size = SIDE * CELL // VIEW
        cell = picture[row * size : (row + 1) * size, column * size : (column + 1) * size]
        assert (cell == COLOURS[task.target]).all(-1).mean() > 0.3


def test_the_judge_agrees_with_the_program(tasks: list[LookTask]) -> None:
    source = np.random.default_rng(0)
    moves = [spoilt(task.moves, source) if number % 3 else task.moves for number, task in enumerate(tasks)]
    films = filmed([task.film(own, FRAMES, CELL) for task, own in zip(tasks, moves, strict=True)])
    truth = [task.fulfilled(course(task.view, own, FRAMES)[-1]) for task, own in zip(tasks, moves, strict=True)]
    verdict = judge_looks(films, tasks).met()
    assert any(truth) and not all(truth)
    assert verdict["task"].tolist() == truth
    good = [row for row in range(len(tasks)) if row % 3 == 0]
    for met in verdict.values():
        assert bool(met[good].all()), [tasks[row].prompt for row in good if not met[row]][:3]


def test_hacks_are_seen(tasks: list[LookTask]) -> None:
    task = next(task for task in tasks if task.target == "green circle" and len(task.moves) == 2)
    honest = task.film(task.moves, FRAMES, CELL)
    jump = honest.copy()
    jump[1:] = honest[-1]
    gone = honest.copy()
    gone[3][(gone[3] == np.array(COLOURS["green circle"], np.uint8)).all(-1)] = FLOOR
    # The thing goes to the middle by itself while the camera rests.
    still = task.film((), FRAMES, CELL)
    colour = np.array(COLOURS["green circle"], np.uint8)
    slid = still.copy()
    shape = (still[0] == colour).all(-1)
    end = (honest[-1] == colour).all(-1)
    slid[1:][:, shape] = FLOOR
    slid[1:][:, end] = colour
    verdict = judge_looks(filmed([honest, jump, gone, still, slid]), [task] * 5).met()
    assert verdict["task"].tolist() == [True, True, True, False, True]
    assert verdict["agent"][[0, 3]].tolist() == [True, False]
    assert verdict["consistency"][[0, 1, 2]].tolist() == [True, False, False]
    assert not (verdict["agent"][4] and verdict["consistency"][4])


def test_a_task_survives_json_and_scenes_repeat(tasks: list[LookTask]) -> None:
    for task in tasks[:20]:
        again = look_from_json(json.loads(json.dumps(look_to_json(task))), task.instruction, task.solution)
        assert again == task
    assert look_tasks(WORLD, "train", 3) == look_tasks(
        GridTasks(seed=0, frames=FRAMES, most_walls=5, tasks_per_scene=1, slack=0), "train", 3
    )
    assert look_tasks(WORLD, "train", 3)[0].board != look_tasks(WORLD, "test", 3)[0].board
    with pytest.raises(ValueError, match="'maze' is not one of grid_looks"):
        look_from_json({"world": "maze"}, "", "")
