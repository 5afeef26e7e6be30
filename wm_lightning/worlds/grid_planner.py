"""The shortest moves that fulfil a goal on the board, and their telling in words."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from wm_lightning.worlds.grid_scene import AGENTS, MOVES, Board, State, named, step

DIRECTIONS = tuple(move for move in MOVES if move != "stay")


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


def told(states: Sequence[State], agent: int, end: str) -> str:
    """A plan as one paragraph: where agent, box and key are in each frame, and `end`, what it comes to.

    A word a frame, always at the same place of the text: what a small network can follow without learning to count.
    """
    mover = ((AGENTS[agent], [state.agents[agent] for state in states]),)
    things = ("orange box", [state.box for state in states]), ("yellow key", [state.key for state in states])
    ways = ", ".join(f"the {name} at {listed(map(named, cells))}" for name, cells in (*mover, *things))
    return f"{ways.capitalize()}. {end} The {AGENTS[1 - agent]} does not move."


def listed(words: Iterable[str]) -> str:
    """One word a frame."""
    return " ".join(words)
