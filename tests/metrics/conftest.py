"""Small synthetic clips with known dynamics, and known damage."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from wm_lightning.metrics.degradations import DEGRADATIONS
from wm_lightning.randomness import generator


def moving_blocks(count: int, seed: int, frames: int = 8, size: int = 24) -> Tensor:
    """Coloured blocks on coloured ground that move with a constant velocity of their own; uint8 `b f 3 h w`."""
    source = generator(seed, "moving blocks")
    ground = source.integers(0, 120, (count, 1, 3, 1, 1))
    video = np.broadcast_to(ground, (count, frames, 3, size, size)).astype(np.float64).copy()
    grid = np.arange(size)
    for _ in range(3):
        colour = source.integers(60, 256, (count, 1, 3, 1, 1))
        start = source.uniform(0, size, (2, count, 1))
        speed = source.normal(0, 1.5, (2, count, 1))
        place = (start + speed * np.arange(frames)) % size
        near = [np.abs(grid - place[axis][..., None]) < 3 for axis in (0, 1)]
        mask = (near[0][..., :, None] & near[1][..., None, :])[:, :, None]
        video = np.where(mask, colour, video)
    return torch.from_numpy(video.astype(np.uint8))


@pytest.fixture(scope="session")
def clips() -> Callable[..., Tensor]:
    """Makes `moving_blocks`."""
    return moving_blocks


@pytest.fixture(scope="session")
def damage() -> dict[str, Callable[[Tensor, float], Tensor]]:
    """Degradations by name: (video, strength in [0, 1]) -> video."""
    return {**DEGRADATIONS, "shuffle": DEGRADATIONS["time_shuffle"]}
