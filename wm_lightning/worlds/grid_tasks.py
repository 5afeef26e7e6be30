"""Tasks on a board: an instruction, a solution from a planner, and what must hold when it is done.

One picture has up to eight tasks, as in WorldTasks (2606.12072): reaching, positioning, taking, pushing, opening,
and two steps in a row. A scene hangs on (seed, split, number) alone, so splits share no picture.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

import numpy as np
from jaxtyping import UInt8

from wm_lightning.randomness import generator
from wm_lightning.worlds.grid_planner import course, plan, told
from wm_lightning.worlds.grid_scene import AGENTS, MOVES, SIDE, Board, Cell, State, render, shifted

SPLITS = ("train", "val", "test")
SIDES = {"left": "left of", "right": "right of", "up": "above", "down": "below"}
# Kind -> category, wordings of the instruction, what the solution comes to.
KINDS: Mapping[str, tuple[str, tuple[str, ...], str]] = {
    "reach": (
        "navigation",
        ("move to the green circle", "go to the green circle", "stop on the green circle"),
        "It ends on the green circle.",
    ),
    "beside": (
        "positioning",
        ("stop {side} the orange box", "stand {side} the orange box", "go and wait {side} the orange box"),
        "It ends {side} the orange box, touching it.",
    ),
    "take": (
        "interaction",
        ("pick up the yellow key", "take the yellow key", "get the yellow key"),
        "It touches the yellow key, which it takes.",
    ),
    "push": (
        "interaction",
        ("push the orange box onto the green circle", "bring the orange box to the green circle"),
        "It pushes the orange box until the box covers the green circle.",
    ),
    "open": (
        "interaction",
        ("open the brown door", "fetch the yellow key and open the brown door"),
        "With the yellow key it opens the brown door and ends in it.",
    ),
    "fetch": (
        "compound",
        ("take the yellow key, then go to the green circle", "bring the yellow key to the green circle"),
        "It takes the yellow key first and ends on the green circle.",
    ),
}


@dataclass(frozen=True)
class Goal:
    """What one agent shall bring about; `side` is a move for kind "beside"."""

    kind: str
    agent: int
    side: str | None = None

    def fulfilled(self, board: Board, state: State) -> bool:
        """Does it hold in this state?"""
        own = state.agents[self.agent]
        if self.kind == "reach":
            return own == board.circle
        if self.kind == "beside":
            return state.box is not None and own == shifted(state.box, str(self.side))
        if self.kind == "take":
            return state.held
        if self.kind == "push":
            return state.box == board.circle
        return own == board.door if self.kind == "open" else state.held and own == board.circle


@dataclass(frozen=True)
class Task:
    """An instruction about a scene, its solution in words and moves, and the goal that a program can check."""

    board: Board
    state: State
    goal: Goal
    instruction: str
    solution: str
    moves: tuple[str, ...]
    frames: int

    @property
    def agent(self) -> str:
        """Who shall act, as the prompt names it."""
        return AGENTS[self.goal.agent].capitalize()

    @property
    def category(self) -> str:
        """The task's kind in WorldTasks' taxonomy."""
        return KINDS[self.goal.kind][0]

    @property
    def prompt(self) -> str:
        """`[Agent]: instruction`, WorldTasks' grammar."""
        return f"[{self.agent}]: {self.instruction}"

    def telling(self, moves: Sequence[str]) -> str:
        """A solution in words that makes these moves."""
        return solution_of(self.board, self.state, self.goal, moves, self.frames)

    def picture(self, cell: int) -> UInt8[np.ndarray, "h w 3"]:
        """The first frame."""
        return render(self.board, self.state, cell)

    def film(self, moves: tuple[str, ...], frames: int, cell: int) -> UInt8[np.ndarray, "f h w 3"]:
        """What happens when the agent makes these moves."""
        states = course(self.board, self.state, self.goal.agent, moves, frames)
        return np.stack([render(self.board, state, cell) for state in states])


class GridTasks:
    """Scenes of a split by number, and their tasks, solvable in `frames` frames: one given, then a move a frame.

    With `slack` as many moves fewer suffice, so that a film need not be right in every single frame.
    """

    def __init__(self, *, seed: int, frames: int, most_walls: int, tasks_per_scene: int, slack: int) -> None:
        if frames < 4 or not 0 <= most_walls <= 24 or not 1 <= tasks_per_scene <= 16:
            raise ValueError(f"{frames=} of at least 4, {most_walls=} up to 24, {tasks_per_scene=} from 1 to 16")
        if not 0 <= slack <= frames - 2:
            raise ValueError(f"{slack=} of {frames=} leaves no move; give 0 to {frames - 2}")
        self.seed, self.frames, self.slack = seed, frames, slack
        self.most_walls, self.tasks_per_scene = most_walls, tasks_per_scene

    @property
    def moves(self) -> int:
        """The most that a task asks for."""
        return self.frames - 1 - self.slack

    def scene(self, split: str, number: int) -> list[Task]:
        """The tasks of one scene, at least one. Raises ValueError for a split there is not."""
        if split not in SPLITS:
            raise ValueError(f"{split=} is not one of {SPLITS}")
        source = generator(self.seed, f"grid tasks {split}", number)
        while True:
            board, state = drawn(source, self.most_walls)
            goals = [*goals_of(board, state)]
            source.shuffle(goals)
            tasks = list(islice(self._solved(board, state, goals, source), self.tasks_per_scene))
            if tasks:
                return tasks

    def _solved(self, board: Board, state: State, goals: list[Goal], source: np.random.Generator) -> Iterator[Task]:
        for goal in goals:
            moves = plan(board, state, goal.agent, lambda s, g=goal: g.fulfilled(board, s), self.moves)
            if not moves:  # out of reach, or nothing to do
                continue
            solution = solution_of(board, state, goal, moves, self.frames)
            yield Task(board, state, goal, worded(goal, source), solution, moves, self.frames)


def worded(goal: Goal, source: np.random.Generator) -> str:
    """An instruction that asks for the goal, in one of its wordings."""
    return str(source.choice(KINDS[goal.kind][1])).format(side=_side(goal))


def solution_of(board: Board, state: State, goal: Goal, moves: Sequence[str], frames: int) -> str:
    """In words, what a film of these moves towards a goal shows."""
    states = course(board, state, goal.agent, moves, frames)
    return told(states, goal.agent, KINDS[goal.kind][2].format(side=_side(goal)))


def _side(goal: Goal) -> str:
    return SIDES.get(goal.side or "", "")


def goals_of(board: Board, state: State) -> Iterator[Goal]:
    """All that can be asked for in a scene, whether it can be reached or not."""
    for agent in range(len(AGENTS)):
        yield Goal("reach", agent)
        if state.box is not None:
            yield from (Goal("beside", agent, side) for side in MOVES if side != "stay")
            yield Goal("push", agent)
        if state.key is not None:
            yield from (Goal(kind, agent) for kind in ("take", "fetch"))
            if board.door is not None:
                yield Goal("open", agent)


def drawn(source: np.random.Generator, most_walls: int) -> tuple[Board, State]:
    """A scene at random: two agents and a circle, perhaps a box, a key and a door, up to `most_walls` walls."""
    cells: list[Cell] = list(product(range(SIDE), range(SIDE)))
    circle, blue, red, box, key, door, *rest = (cells[number] for number in source.permutation(len(cells)))
    walls = frozenset(rest[: int(source.integers(most_walls + 1))])
    has_box, has_key, has_door = source.random(3) < (0.7, 0.7, 0.5)
    board = Board(walls, circle, door if has_key and has_door else None)
    return board, State((blue, red), box if has_box else None, key if has_key else None, held=False, opened=False)


def to_json(task: Task) -> dict[str, Any]:
    """The verifier: scene, goal and the planner's moves, as plain JSON values."""
    board, state, goal = task.board, task.state, task.goal
    return {
        "world": "grid_tasks", "walls": sorted(board.walls), "circle": board.circle, "door": board.door,
        "agents": state.agents, "box": state.box, "key": state.key, "kind": goal.kind, "agent": goal.agent,
        "side": goal.side, "moves": task.moves, "frames": task.frames,
    }  # fmt: skip


def from_json(values: Mapping[str, Any], instruction: str, solution: str) -> Task:
    """Inverse of `to_json`. Raises ValueError where the verifier is another world's."""
    if values.get("world") != "grid_tasks":
        raise ValueError(f"a verifier of {values.get('world')!r} is not one of grid_tasks")

    def cell(value: Any) -> Cell | None:
        return None if value is None else (int(value[0]), int(value[1]))

    walls = frozenset((int(row), int(column)) for row, column in values["walls"])
    (blue, red) = ((int(row), int(column)) for row, column in values["agents"])
    board = Board(walls, cell(values["circle"]), cell(values["door"]))
    state = State((blue, red), cell(values["box"]), cell(values["key"]), held=False, opened=False)
    goal = Goal(str(values["kind"]), int(values["agent"]), values["side"])
    moves, frames = tuple(map(str, values["moves"])), int(values["frames"])
    return Task(board, state, goal, instruction, solution, moves, frames)
