"""Films that cheat: every one is denied, whatever else it shows; honest films are not."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from wm_lightning.clip import Pixels
from wm_lightning.worlds.grid_judge import Margins, judge
from wm_lightning.worlds.grid_planner import course, plan
from wm_lightning.worlds.grid_scene import (
    AGENTS,
    COLOURS,
    FLOOR,
    MOVES,
    SIDE,
    Board,
    Cell,
    State,
    render,
    shifted,
    step,
)
from wm_lightning.worlds.grid_tasks import Goal, GridTasks, Task

FRAMES, CELL = 7, 4
WORLD = GridTasks(seed=0, frames=FRAMES, most_walls=5, tasks_per_scene=16, slack=0)
TASKS = [task for number in range(80) for task in WORLD.scene("train", number)]
Film = tuple[Task, np.ndarray]


def judged(films: Sequence[Film]) -> Margins:
    videos: Pixels = torch.from_numpy(np.stack([film for _, film in films])).permute(0, 1, 4, 2, 3)
    return judge(videos, [task for task, _ in films])


def drawn(task: Task, states: Sequence[State], board: Board | None = None) -> Film:
    return task, np.stack([render(board or task.board, state, CELL) for state in states])


def through_walls() -> Iterator[Film]:
    for task in TASKS:
        bare = replace(task.board, walls=frozenset())
        moves = plan(bare, task.state, task.goal.agent, lambda s, t=task: t.goal.fulfilled(t.board, s), FRAMES - 1)
        states = course(bare, task.state, task.goal.agent, moves or (), FRAMES)
        if any(state.agents[task.goal.agent] in task.board.walls for state in states):
            yield drawn(task, states)


def sliding_box() -> Iterator[Film]:
    for task in TASKS:
        state, circle, own = task.state, task.board.circle, task.goal.agent
        if task.goal.kind != "push" or state.box is None or circle is None:
            continue
        # The agent takes a step somewhere, and is not what moves the box.
        free = [m for m in MOVES if step(task.board, state, own, m).agents != state.agents]
        free = [m for m in free if step(task.board, state, own, m).box == state.box]
        states = course(task.board, state, own, free[:1], FRAMES)
        boxes: list[Cell] = [state.box]
        for _ in range(FRAMES - 1):
            row, column = (int(np.sign(a - b)) for a, b in zip(circle, boxes[-1], strict=True))
            boxes.append((boxes[-1][0] + row, boxes[-1][1] + (0 if row else column)))
        if free and boxes[-1] == circle:
            yield drawn(task, [replace(s, box=box) for s, box in zip(states, boxes, strict=True)])


def key_taken_from_afar() -> Iterator[Film]:
    for task in TASKS:
        states = course(task.board, task.state, task.goal.agent, task.moves, FRAMES)
        if task.goal.kind in ("take", "fetch", "open") and not states[2].held:
            yield drawn(task, [states[0], *(replace(state, key=None) for state in states[1:])])


def vanishing(name: str) -> Callable[[], Iterator[Film]]:
    def films() -> Iterator[Film]:
        for task in TASKS:
            film = task.film(task.moves, FRAMES, CELL)
            shown = (film == np.array(COLOURS[name], np.uint8)).all(-1)
            if shown[1].any():
                film[1:][shown[1:]] = FLOOR
                yield task, film

    return films


def through_the_closed_door() -> Iterator[Film]:
    for task in TASKS:
        agent, door = task.goal.agent, task.board.door
        with_key = replace(task.state, held=True)
        moves = plan(task.board, with_key, agent, lambda s, a=agent, d=door: s.agents[a] == d, FRAMES - 1)
        if door is None or not moves:
            continue
        states = course(task.board, with_key, agent, moves, FRAMES)
        if states[-1].key is not None:
            for hidden in (False, True):  # the door is drawn below the agent, or goes away
                yield drawn(task, [replace(state, opened=hidden and state.opened) for state in states])


def faded() -> Iterator[Film]:
    """An agent that dissolves here and appears there, a bit more with every frame."""
    for task in TASKS:
        if task.goal.kind == "reach" and len(task.moves) > 4:
            honest = task.film(task.moves, FRAMES, CELL)
            first, last = honest[0], honest[-1]
            lower = np.arange(CELL * SIDE)[:, None, None] % CELL * 2
            yield task, np.stack([np.where(lower < frame, last, first) for frame in range(FRAMES)])


CHEATS = {
    "walls": through_walls, "box": sliding_box, "key": key_taken_from_afar, "door": through_the_closed_door,
    "circle vanishes": vanishing("green circle"), "key vanishes": vanishing("yellow key"),
    "door vanishes": vanishing("brown door"), "fades": faded,
}  # fmt: skip


@pytest.mark.parametrize("name", list(CHEATS))
def test_a_cheat_never_holds_together(name: str) -> None:
    films = list(islice(CHEATS[name](), 40))
    assert len(films) >= 8, "too few to tell"
    accepted = judged(films).met()["consistency"]
    assert not accepted.any(), f"{int(accepted.sum())} of {len(films)} accepted"


@pytest.mark.parametrize("name", AGENTS)
def test_whoever_vanishes_has_not_acted(name: str) -> None:
    """Neither the agent that was asked nor the other one."""
    films = list(islice(vanishing(name)(), 40))
    asked = {AGENTS[task.goal.agent] == name for task, _ in films}
    assert asked == {True, False} and not judged(films).met()["agent"].any()


@pytest.mark.parametrize(("steps", "gone"), [(0, -1), (0, 3), (1, -1)], ids=["stood", "came back", "moved"])
def test_an_agent_that_vanishes_has_not_acted(steps: int, gone: int) -> None:
    """Where it stood, for one frame before it is back there, or at the end of its way."""
    task = scene(Goal("reach", 0), Board(frozenset(), circle=(3, 4), door=None))
    film = drawn(task, course(task.board, task.state, 0, ["right"] * steps, FRAMES))[1]
    assert bool(judged([(task, film)]).met()["agent"]) is (steps > 0), "nobody has vanished yet"
    film[gone][(film[gone] == np.array(COLOURS[AGENTS[0]], np.uint8)).all(-1)] = FLOOR
    assert not judged([(task, film)]).met()["agent"]


def scene(goal: Goal, board: Board, **state: Any) -> Task:
    settings: dict = dict(agents=((3, 2), (0, 5)), box=None, key=None, held=False, opened=False)
    return Task(board, State(**(settings | state)), goal, "", "", (), FRAMES)


def test_one_wall_cell_is_enough() -> None:
    board = Board(frozenset({(3, 3), *((5, column) for column in range(SIDE))}), circle=(3, 4), door=None)
    task = scene(Goal("reach", 0), board)
    states = [replace(task.state, agents=((3, min(2 + frame, 4)), (0, 5))) for frame in range(FRAMES)]
    met = judged([drawn(task, states)]).met()
    assert met["task"] and met["agent"] and not met["consistency"]


def test_a_door_is_opened_with_the_key_alone() -> None:
    board = Board(frozenset(), circle=None, door=(3, 4))
    task = scene(Goal("open", 0), board, key=(2, 2))
    states = course(board, replace(task.state, held=True), 0, ("right", "right"), FRAMES)
    met = judged([drawn(task, states)]).met()
    assert met["agent"] and not met["task"] and not met["consistency"]


def test_a_key_that_stays_was_not_taken() -> None:
    task = scene(Goal("take", 0), Board(frozenset(), circle=None, door=None), key=(3, 3))
    honest = course(task.board, task.state, 0, ("right", "right"), FRAMES)
    left = [replace(state, key=(3, 3)) for state in honest]
    verdict = judged([drawn(task, honest), drawn(task, left)]).met()
    assert verdict["task"].tolist() == verdict["consistency"].tolist() == [True, False]


def test_both_agents_and_the_box_move_by_the_rules() -> None:
    task = scene(Goal("push", 0), Board(frozenset(), circle=(3, 5), door=None), box=(3, 3))
    states = [task.state]
    for mine, other in (("right", "left"), ("right", "down"), ("up", "stay"), ("stay", "stay")):
        states.append(step(task.board, step(task.board, states[-1], 0, mine), 1, other))
    assert judged([drawn(task, states)]).met()["consistency"]
    assert states[2].box == (3, 5) and shifted((3, 4), "up") == states[-1].agents[0] and AGENTS[0] == "blue square"


def test_planners_films_hold_together_under_noise() -> None:
    films = [(task, task.film(task.moves, FRAMES, CELL)) for task in TASKS]
    source = np.random.default_rng(0)
    noisy = [(task, np.clip(film + source.normal(0, 12, film.shape), 0, 255).astype(np.uint8)) for task, film in films]
    assert len(films) > 200
    for some in (films, noisy[:60]):
        assert all(bool(met.all()) for met in judged(some).met().values())
