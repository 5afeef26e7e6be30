"""A small board of cells: two agents, walls, and things to reach, take, push or open. Its rules and its picture."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8

Cell = tuple[int, int]

SIDE = 6  # cells
MOVES: Mapping[str, Cell] = {"stay": (0, 0), "up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
FLOOR, WALL = (235, 232, 222), (92, 92, 100)
# Far apart, so that a pixel's nearest colour tells what it shows.
COLOURS: Mapping[str, tuple[int, int, int]] = {
    "blue square": (30, 60, 220), "red square": (215, 35, 45), "green circle": (40, 170, 70),
    "yellow key": (240, 205, 20), "orange box": (240, 130, 25), "brown door": (110, 55, 20),
}  # fmt: skip
AGENTS = ("blue square", "red square")


@dataclass(frozen=True)
class Board:
    """What never moves. `circle` and `door` may be absent."""

    walls: frozenset[Cell]
    circle: Cell | None
    door: Cell | None


@dataclass(frozen=True)
class State:
    """What moves. `agents` stand in the order of `AGENTS`; a key that is held or absent has no cell."""

    agents: tuple[Cell, Cell]
    box: Cell | None
    key: Cell | None
    held: bool
    opened: bool


def inside(cell: Cell) -> bool:
    """Is the cell on the board?"""
    return 0 <= cell[0] < SIDE and 0 <= cell[1] < SIDE


def named(cell: Cell | None) -> str:
    """A cell as on a chessboard, seen from above: column, then row from the top; "gone" where there is none."""
    return "gone" if cell is None else f"{'abcdefgh'[cell[1]]}{cell[0] + 1}"


def shifted(cell: Cell, move: str) -> Cell:
    """The neighbouring cell."""
    return cell[0] + MOVES[move][0], cell[1] + MOVES[move][1]


def step(board: Board, state: State, agent: int, move: str) -> State:
    """One move of one agent by one cell; a move that is not possible leaves all as it is.

    A box is pushed where the cell behind it is free. A door lets through whoever holds the key, and stays open.
    """
    target = shifted(state.agents[agent], move)
    if move == "stay" or not inside(target) or target in board.walls or target == state.agents[1 - agent]:
        return state
    if target == board.door and not state.opened and not state.held:
        return state
    if target == state.box:
        behind = shifted(target, move)
        taken = board.walls | {state.agents[1 - agent], state.key, board.door}
        if not inside(behind) or behind in taken:
            return state
        state = replace(state, box=behind)
    moved = tuple(target if number == agent else cell for number, cell in enumerate(state.agents))
    took = target == state.key
    return replace(
        state, agents=(moved[0], moved[1]), key=None if took else state.key, held=state.held or took,
        opened=state.opened or target == board.door,
    )  # fmt: skip


def render(board: Board, state: State, cell: int) -> UInt8[np.ndarray, "h w 3"]:
    """The board with `cell` pixels a cell; agents and box are drawn above what lies on the floor."""
    picture = ground(board, state, cell)
    for name, place in (("orange box", state.box), *zip(AGENTS, state.agents, strict=True)):
        if place is not None:
            _fill(picture, place, COLOURS[name], np.ones((cell, cell), bool))
    return picture


def ground(board: Board, state: State, cell: int) -> UInt8[np.ndarray, "h w 3"]:
    """What agents and box stand on or at: walls, circle, key and closed door."""
    picture = np.empty((SIDE * cell, SIDE * cell, 3), np.uint8)
    picture[:] = FLOOR
    across = (np.arange(cell) + 0.5) / cell * 2 - 1
    radius = np.hypot(across[:, None], across[None, :])
    full, circle = np.ones((cell, cell), bool), radius < 1
    ring = circle & (np.abs(across)[:, None] < 0.6)
    for place in board.walls:
        _fill(picture, place, WALL, full)
    door = None if state.opened else board.door
    for name, place, shape in (
        ("green circle", board.circle, circle),
        ("yellow key", state.key, ring),
        ("brown door", door, full),
    ):
        if place is not None:
            _fill(picture, place, COLOURS[name], shape)
    return picture


def _fill(picture: np.ndarray, place: Cell, colour: tuple[int, int, int], shape: np.ndarray) -> None:
    size = len(shape)
    part = picture[place[0] * size : (place[0] + 1) * size, place[1] * size : (place[1] + 1) * size]
    part[shape] = colour
