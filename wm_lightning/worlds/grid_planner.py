"""The shortest moves that fulfil a goal on the board, and their telling in words."""

from collections import deque
from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np

from wm_lightning.worlds.grid_scene import AGENTS, MOVES, Board, State, step

DIRECTIONS = tuple(move for move in MOVES if move != "stay")
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")


def plan(
    board: Board, state: State, agent: int, fulfilled: Callable[[State], bool], longest: int
) -> tuple[str, ...] | None:
    """The fewest moves of one agent after which `fulfilled` holds (breadth-first); None beyond `longest`."""
    seen = {state}
    waiting: deque[tuple[State, tuple[str, ...]]] = deque([(state, ())])
    while waiting:
        here, moves = waiting.popleft()
        if fulfilled(here):
            return moves
        if len(moves) == longest:
            continue
        for move in DIRECTIONS:
            there = step(board, here, agent, move)
            if there not in seen:
                seen.add(there)
                waiting.append((there, (*moves, move)))
    return None


def course(board: Board, state: State, agent: int, moves: Sequence[str], frames: int) -> list[State]:
    """The states of `frames` frames: one move a frame, then rest."""
    states = [state]
    for number in range(frames - 1):
        states.append(step(board, states[-1], agent, moves[number] if number < len(moves) else "stay"))
    return states


def spoilt(moves: Sequence[str], source: np.random.Generator) -> tuple[str, ...]:
    """An imperfect plan: stops early, or takes a wrong turn on the way."""
    kept = list(moves)
    place = int(source.integers(len(kept)))
    if source.random() < 0.5:
        return tuple(kept[:place])
    kept[place] = str(source.choice([move for move in DIRECTIONS if move != kept[place]]))
    return tuple(kept)


def told(moves: Sequence[str], agent: int, end: str) -> str:
    """The plan as one present-tense paragraph; `end` says what it comes to."""
    name = f"the {AGENTS[agent]}"
    other = AGENTS[1 - agent]
    way = f"{name.capitalize()} {steps_told(moves)}."
    return f"{way} {end} It goes one cell at a time and stops there; the {other} does not move."


def steps_told(moves: Sequence[str]) -> str:
    """The moves in words, as what somebody does."""
    runs = [(move, len(list(group))) for move, group in groupby(moves)]
    parts = [f"moves {NUMBERS[count]} {'cell' if count == 1 else 'cells'} {move}" for move, count in runs]
    return ", then ".join(parts) if parts else "stays where it is"
