"""Counterfactual walks over world maps: the same view, other moves."""

import numpy as np
from jaxtyping import Int, UInt8

from wm_lightning.data.formats.world_map import MOVES, paint
from wm_lightning.worlds.world_map import TEXTURES, TILE


def branch(
    grids: UInt8[np.ndarray, "n rows columns"],
    position: Int[np.ndarray, "n 2"],
    actions: Int[np.ndarray, "n f"],
    view: int,
) -> tuple[UInt8[np.ndarray, "n f1 h w 3"], Int[np.ndarray, "n f1 2"]]:
    """Pictures and positions (tile row, column) from a position on, under these moves; the border stops a move.

    A map and a position are all the state there is: `position` is what `WorldMapReader` gives as truth.
    """
    moves = np.array(list(MOVES.values()))
    last = np.array(grids.shape[1:]) - view
    positions = [position]
    for frame in range(actions.shape[1]):
        positions.append(np.clip(positions[-1] + moves[actions[:, frame]], 0, last))
    places, size = np.stack(positions, 1), view * TILE
    painted = [paint(grid, TEXTURES) for grid in grids]
    videos = [
        np.stack([picture[r * TILE : r * TILE + size, c * TILE : c * TILE + size] for r, c in walk.tolist()])
        for picture, walk in zip(painted, places, strict=True)
    ]
    return np.stack(videos), places
