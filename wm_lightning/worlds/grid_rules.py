"""Does a film keep the board's rules? Where agents and box are seen is replayed, and the rest is held against it.

What a picture must show follows from where things stand: walls and a closed door as they are, circle and key too unless
somebody stands on them, the key until it is taken, floor everywhere else.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wm_lightning.worlds.grid_scene import AGENTS, COLOURS, FLOOR, MOVES, SIDE, WALL, Board, Cell, State, ground, step

ILLEGAL = 0.5  # the margin of a lawful move; a move that ends a cell elsewhere has the same below zero


def lawfulness(
    board: Board, state: State, seen: Int[Tensor, "f h w"], centre: Float[Tensor, "f 3 2"], names: Sequence[str],
    change: float,
) -> list[float]:  # fmt: skip
    """A signed margin in cells for every frame: positive where it follows from the one before by the rules of `step`.

    `seen` numbers every pixel's colour in `names`, `centre` says where blue, red and box are (NaN: nowhere). `change`
    is the share of a wall, door, circle, key or floor cell that may be seen otherwise.
    """
    pictures = seen.cpu().numpy()
    margins = [change - _strays(board, state, pictures[0], names)]
    for picture, places in zip(pictures[1:], centre.cpu().numpy()[1:], strict=True):
        state, off = _followed(board, state, places)
        margins.append(min(ILLEGAL - off, change - _strays(board, state, picture, names)))
    return margins


def _followed(board: Board, state: State, places: Float[np.ndarray, "3 2"]) -> tuple[State, float]:
    """The state that is seen, and how many cells it is off the nearest one that the rules allow."""
    blue, red = (_cell(place, was) for place, was in zip(places[:2], state.agents, strict=True))
    box = None if state.box is None else _cell(places[2], state.box)
    lawful = min(_lawful(board, state, (blue, red)), key=lambda after: _apart(after, (blue, red), box))
    return replace(lawful, agents=(blue, red), box=box), _apart(lawful, (blue, red), box)


def _lawful(board: Board, state: State, agents: tuple[Cell, Cell]) -> Iterator[State]:
    """What can come of one move of either agent towards where it is seen, whoever goes first."""
    for order in permutations(range(len(AGENTS))):
        after = state
        for agent in order:
            after = step(board, after, agent, _towards(after.agents[agent], agents[agent]))
        yield after


def _towards(start: Cell, end: Cell) -> str:
    row, column = end[0] - start[0], end[1] - start[1]
    if abs(row) >= abs(column):
        row, column = int(np.sign(row)), 0
    else:
        row, column = 0, int(np.sign(column))
    return next(name for name, move in MOVES.items() if move == (row, column))


def _apart(state: State, agents: tuple[Cell, Cell], box: Cell | None) -> float:
    pairs = [*zip(state.agents, agents, strict=True)]
    pairs += [] if state.box is None or box is None else [(state.box, box)]
    return float(max(abs(a[0] - b[0]) + abs(a[1] - b[1]) for a, b in pairs))


def _cell(place: Float[np.ndarray, "2"], before: Cell) -> Cell:
    """The cell of a centre; what is not seen counts as where it was, its size is judged elsewhere."""
    if np.isnan(place).any():
        return before
    row, column = (min(max(int(np.floor(value + 0.5)), 0), SIDE - 1) for value in place)
    return row, column


def _strays(board: Board, state: State, picture: Int[np.ndarray, "h w"], names: Sequence[str]) -> float:
    """The largest share of a thing, or of a floor cell, that shows neither itself nor who stands before it."""
    expected = _expected(board, state, picture.shape, names)
    solid = np.isin(expected, [names.index("wall"), names.index("brown door")])
    wrong = (picture != expected) & (solid | ~_standing(state, picture, names))
    floor = expected == names.index("floor")
    rows, columns = (np.arange(size) * SIDE // size for size in picture.shape)
    cells = rows[:, None] * SIDE + columns
    # A thing is smaller than its cell, and a stroke of its colour in a corner of the floor is no other thing.
    return max(_worst(wrong & ~floor, ~floor, cells), _worst(wrong & floor, floor | ~floor, cells))


def _standing(state: State, picture: Int[np.ndarray, "h w"], names: Sequence[str]) -> Bool[np.ndarray, "h w"]:
    """Pixels of agents and box that are no more than a cell off their owner, so that none is in two places."""
    found = np.zeros(picture.shape, bool)
    rows, columns = ((np.arange(size) + 0.5) * SIDE / size - 0.5 for size in picture.shape)
    for name, place in (*zip(AGENTS, state.agents, strict=True), ("orange box", state.box)):
        if place is not None:
            near = (np.abs(rows - place[0]) <= 1)[:, None] & (np.abs(columns - place[1]) <= 1)
            found |= near & (picture == names.index(name))
    return found


def _worst(wrong: Bool[np.ndarray, "h w"], whole: Bool[np.ndarray, "h w"], cells: Int[np.ndarray, "h w"]) -> float:
    """The largest share by cell."""
    count, total = (np.bincount(cells[which], minlength=SIDE * SIDE) for which in (wrong, whole))
    return float((count / np.maximum(total, 1)).max())


def _expected(board: Board, state: State, shape: tuple[int, ...], names: Sequence[str]) -> Int[np.ndarray, "h w"]:
    """The ground's picture in numbers of `names`, as large as asked for."""
    colours = np.array([*COLOURS.values(), WALL, FLOOR])
    drawn = ground(board, state, max(1, round(shape[0] / SIDE)))
    numbers = (drawn[:, :, None] == colours).all(-1).argmax(-1)
    rows, columns = ((np.arange(size) + 0.5) * len(numbers) / size for size in shape)
    return numbers[rows.astype(int)[:, None], columns.astype(int)]
