"""The board's rules, the planner, and a judge of pixels that agrees with the program."""

import json

import numpy as np
import pytest
import torch

from wm_lightning.clip import Pixels
from wm_lightning.worlds.grid_judge import judge
from wm_lightning.worlds.grid_planner import course, plan, spoilt
from wm_lightning.worlds.grid_scene import AGENTS, COLOURS, Board, State, named, render, step
from wm_lightning.worlds.grid_tasks import KINDS, GridTasks, Task, from_json, to_json

FRAMES, CELL = 7, 4
WORLD = GridTasks(seed=0, frames=FRAMES, most_walls=5, tasks_per_scene=8, slack=0)
EMPTY = Board(frozenset(), circle=(0, 0), door=None)


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    return [task for number in range(60) for task in WORLD.scene("train", number)]


def filmed(films: list[np.ndarray]) -> Pixels:
    return torch.from_numpy(np.stack(films)).permute(0, 1, 4, 2, 3)


def state_of(**changes: object) -> State:
    settings: dict = dict(agents=((3, 3), (0, 5)), box=None, key=None, held=False, opened=False)
    return State(**(settings | changes))


def test_moves_end_at_walls_the_border_and_the_other_agent() -> None:
    board = Board(frozenset({(3, 4)}), circle=None, door=None)
    assert step(board, state_of(), 0, "right") == state_of()
    assert step(board, state_of(), 0, "left").agents == ((3, 2), (0, 5))
    assert step(board, state_of(), 1, "up") == state_of() and step(board, state_of(), 1, "right") == state_of()
    beside = state_of(agents=((3, 3), (2, 3)))
    assert step(EMPTY, beside, 0, "up") == beside


def test_a_box_is_pushed_unless_something_stands_behind_it() -> None:
    pushed = step(EMPTY, state_of(box=(3, 4)), 0, "right")
    assert pushed.box == (3, 5) and pushed.agents[0] == (3, 4)
    blocked = state_of(box=(3, 4), agents=((3, 3), (3, 5)))
    assert step(EMPTY, blocked, 0, "right") == blocked
    at_border = state_of(agents=((3, 4), (0, 5)), box=(3, 5))
    assert step(EMPTY, at_border, 0, "right") == at_border


def test_a_door_needs_the_key() -> None:
    board = Board(frozenset(), circle=None, door=(3, 4))
    closed = state_of(key=(2, 3))
    assert step(board, closed, 0, "right") == closed
    with_key = step(board, closed, 0, "up")
    assert with_key.held and with_key.key is None
    opened = step(board, step(board, with_key, 0, "down"), 0, "right")
    assert opened.opened and opened.agents[0] == (3, 4)


def test_plans_are_shortest_and_within_reach() -> None:
    moves = plan(EMPTY, state_of(), 0, lambda state: state.agents[0] == (1, 5), 8)
    assert moves is not None and sorted(moves) == ["right", "right", "up", "up"]
    assert plan(EMPTY, state_of(), 0, lambda state: state.agents[0] == (1, 5), 3) is None


def test_every_kind_of_task_occurs_and_its_plan_fulfils_it(tasks: list[Task]) -> None:
    assert {task.goal.kind for task in tasks} == set(KINDS)
    for task in tasks:
        assert 1 <= len(task.moves) < FRAMES
        end = course(task.board, task.state, task.goal.agent, task.moves, FRAMES)[-1]
        assert task.goal.fulfilled(task.board, end) and not task.goal.fulfilled(task.board, task.state)
        assert task.prompt.startswith(f"[{task.agent}]: ") and "{" not in task.prompt + task.solution
        states = course(task.board, task.state, task.goal.agent, task.moves, FRAMES)
        way = " ".join(named(state.agents[task.goal.agent]) for state in states)
        assert way in task.solution, "the solution does not say where to go"


def test_scenes_hang_on_seed_split_and_number_alone() -> None:
    again = GridTasks(seed=0, frames=FRAMES, most_walls=5, tasks_per_scene=8, slack=0)
    assert again.scene("train", 7) == WORLD.scene("train", 7)
    pictures = {
        WORLD.scene(split, number)[0].picture(CELL).tobytes() for split in ("train", "test") for number in range(20)
    }
    assert len(pictures) == 40, "two scenes show the same picture"
    with pytest.raises(ValueError, match="split='both'"):
        WORLD.scene("both", 0)


def test_the_judge_accepts_every_plan(tasks: list[Task]) -> None:
    verdict = judge(filmed([task.film(task.moves, FRAMES, CELL) for task in tasks]), tasks)
    for name, met in verdict.met().items():
        wrong = [tasks[row].prompt for row in (~met).nonzero()[:, 0].tolist()]
        assert not wrong, f"{name} denied: {wrong[:5]}"


def test_the_judge_agrees_with_the_program_on_spoilt_plans(tasks: list[Task]) -> None:
    source = np.random.default_rng(0)
    moves = [spoilt(task.moves, source) if number % 3 else task.moves for number, task in enumerate(tasks)]
    films = filmed([task.film(own, FRAMES, CELL) for task, own in zip(tasks, moves, strict=True)])
    ends = [course(t.board, t.state, t.goal.agent, own, FRAMES)[-1] for t, own in zip(tasks, moves, strict=True)]
    truth = torch.tensor([task.goal.fulfilled(task.board, end) for task, end in zip(tasks, ends, strict=True)])
    verdict = judge(films, tasks).met()
    assert not truth.all() and truth.any()
    assert bool((verdict["task"] == truth).all()) and bool(verdict["consistency"].all())


def test_hacks_are_seen(tasks: list[Task]) -> None:
    task = next(task for task in tasks if task.goal.kind == "reach" and len(task.moves) > 4)
    honest = task.film(task.moves, FRAMES, CELL)
    jump = honest.copy()
    jump[1:] = honest[-1]
    gone = honest.copy()
    other = np.array(COLOURS[AGENTS[1 - task.goal.agent]], np.uint8)
    gone[5][(gone[5] == other).all(-1)] = (235, 232, 222)
    states = course(task.board, task.state, 1 - task.goal.agent, ("up", "down", "left", "right"), FRAMES)
    swapped = np.stack([render(task.board, state, CELL) for state in states])
    verdict = judge(filmed([honest, jump, gone, swapped]), [task] * 4).met()
    assert verdict["task"].tolist() == [True, True, True, False]
    assert verdict["consistency"].tolist() == [True, False, False, True]
    assert verdict["agent"].tolist() == [True, True, False, False]


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_the_judge_takes_any_size_and_some_noise(tasks: list[Task], scale: int) -> None:
    some = tasks[:40]
    films = filmed([task.film(task.moves, FRAMES, CELL * scale) for task in some])
    noise = torch.randn(films.shape, generator=torch.Generator().manual_seed(0)) * 12
    verdict = judge((films + noise).clamp(0, 255).to(torch.uint8), some).met()
    assert all(bool(met.all()) for met in verdict.values())


def test_log_odds_grow_with_the_margin(tasks: list[Task]) -> None:
    verdict = judge(filmed([task.film(task.moves, FRAMES, CELL) for task in tasks[:8]]), tasks[:8])
    for name, odds in verdict.log_odds().items():
        assert ((odds > 0) == verdict.met()[name]).all() and odds.abs().max() <= 6


def test_a_task_survives_json(tasks: list[Task]) -> None:
    for task in tasks[:30]:
        again = from_json(json.loads(json.dumps(to_json(task))), task.instruction, task.solution)
        assert again == task
    with pytest.raises(ValueError, match="'maze' is not one of grid_tasks"):
        from_json({"world": "maze"}, "", "")


@pytest.mark.parametrize("slack", [0, 2])
def test_slack_is_left_by_every_plan(slack: int) -> None:
    world = GridTasks(seed=0, frames=FRAMES, most_walls=5, tasks_per_scene=8, slack=slack)
    taken = [len(task.moves) for number in range(8) for task in world.scene("train", number)]
    assert max(taken) == FRAMES - 1 - slack


def test_slack_that_leaves_no_move_is_refused() -> None:
    with pytest.raises(ValueError, match="slack=6 of frames=7 leaves no move; give 0 to 5"):
        GridTasks(seed=0, frames=FRAMES, most_walls=5, tasks_per_scene=8, slack=6)


def test_a_film_of_one_bad_frame_is_told_from_one_of_bad_frames_alone(tasks: list[Task]) -> None:
    task = next(task for task in tasks if len(task.moves) < FRAMES - 1)
    film = task.film(task.moves, FRAMES, CELL)
    spoilt, flooded, bad = film.copy(), film.copy(), film.copy()
    spoilt[3], flooded[3], bad[1:] = 0, COLOURS["blue square"], 0
    good, *one, many = judge(filmed([film, spoilt, flooded, bad]), [task] * 4).consistency.tolist()
    assert good > 0 > min(one) > many
