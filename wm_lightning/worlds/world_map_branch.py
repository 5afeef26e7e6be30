"""Counterfactual walks over world maps: the same view, other moves."""

import numpy as np
from jaxtyping import Int, UInt8

from wm_lightning.data.formats.world_map import MOVES, paint


def branch(
    grids: UInt8[np.ndarray, "n rows columns"],
    position: Int[np.ndarray, "n 2"],
    actions: Int[np.ndarray, "n f"],
    view: int,
    textures: UInt8[np.ndarray, "k tile tile 3"],
) -> tuple[UInt8[np.ndarray, "n f1 h w 3"], Int[np.ndarray, "n f1 2"]]:
    """Pictures and positions (tile row, column) from a position on, under these moves; the border stops a move.

    A map and a position are all the state there is, and what `WorldMapReader` gives as truth.
    """
    moves = np.array(list(MOVES.values()))
    last = np.array(grids.shape[1:]) - view
    positions = [position]
    for frame in range(actions.shape[1]):
        positions.append(np.clip(positions[-1] + moves[actions[:, frame]], 0, last))
    places, tile = np.stack(positions, 1), textures.shape[1]
    painted, size = [paint(grid, textures) for grid in grids], view * tile
    videos = [
        np.stack([picture[r * tile : r * tile + size, c * tile : c * tile + size] for r, c in walk.tolist()])
        for picture, walk in zip(painted, places, strict=True)
    ]
    return np.stack(videos), places
