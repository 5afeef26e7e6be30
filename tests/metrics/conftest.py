"""Small synthetic clips with known dynamics and known damage."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

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


def blur(video: Tensor, strength: float) -> Tensor:
    """Mixes every frame with its 5 x 5 box average."""
    soft = F.avg_pool2d(F.pad(video.flatten(0, 1).float(), (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    return torch.lerp(video.float(), soft.unflatten(0, video.shape[:2]), strength).round().to(torch.uint8)


def noise(video: Tensor, strength: float) -> Tensor:
    """Adds white noise with a standard deviation of up to 40 grey levels."""
    draws = torch.from_numpy(generator(0, "damage").standard_normal(tuple(video.shape)))
    return (video + 40 * strength * draws).clamp(0, 255).round().to(torch.uint8)


def freeze(video: Tensor, strength: float) -> Tensor:
    """Repeats one frame for the last part of the clip."""
    last = max(0, round((1 - strength) * (video.shape[1] - 1)))
    return video[:, torch.arange(video.shape[1]).clamp_max(last)]


def shuffle(video: Tensor, strength: float) -> Tensor:
    """Reorders the frames of a share of the clips."""
    order = torch.from_numpy(generator(0, "order").permutation(video.shape[1]))
    share = round(strength * len(video))
    return torch.cat([video[:share][:, order], video[share:]])


DAMAGE = {"blur": blur, "noise": noise, "freeze": freeze, "shuffle": shuffle}


@pytest.fixture(scope="session")
def clips() -> Callable[..., Tensor]:
    """Makes `moving_blocks`."""
    return moving_blocks


@pytest.fixture(scope="session")
def damage() -> dict[str, Callable[[Tensor, float], Tensor]]:
    """Degradations by name: (video, strength in [0, 1]) -> video."""
    return DAMAGE
