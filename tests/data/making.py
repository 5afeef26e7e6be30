"""Small episodes for formats: smooth moving pictures, which codecs keep, and actions that tell rows from columns."""

from collections.abc import Sequence

import numpy as np

from wm_lightning.data.formats.robot_actions import columns
from wm_lightning.data.formats.source import StoredEpisode

SIDE = 32


def moving_picture(frames: int, seed: int, *, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """Frames of a gradient that moves; its colour tells episodes apart."""
    across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    values = [
        np.stack([across * 180 + 4 * f, down * 180 + 2 * f, 0 * down + 20 * (seed % 8)], -1) for f in range(frames)
    ]
    return np.stack(values).astype(np.uint8)


def robot_actions(frames: int, order: str, seed: int) -> np.ndarray:
    """Actions within [-0.9, 0.9]; the termination is a one-hot."""
    found = np.random.default_rng(seed).uniform(-0.9, 0.9, (frames, len(columns(order)))).astype(np.float32)
    for number, name in enumerate(columns(order)):
        if name.startswith("terminate_episode"):
            found[:, number] = name.endswith("1")
    return found


def episode(frames: int, order: str, seed: int = 0) -> StoredEpisode:
    return StoredEpisode(moving_picture(frames, seed), robot_actions(frames, order, seed))


def episodes(count: int, order: str, lengths: Sequence[int] | None = None) -> list[StoredEpisode]:
    return [episode(lengths[number] if lengths else 6, order, number) for number in range(count)]
