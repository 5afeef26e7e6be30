"""A task for the pusher's policies that pixels decide: push the named block into the zone of its colour."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wm_lightning.clip import Pixels
from wm_lightning.worlds.pusher_dynamics import GOALS
from wm_lightning.worlds.pusher_measure import look
from wm_lightning.worlds.pusher_render import ZONE_RADIUS

COLOURS = ("green", "yellow")
# How much a planner cares for the gripper being near the block that it is to push, beside the block's own way.
NEAR = 0.25
# A distance (frame widths) that stands for a block or gripper that is not seen: farther than any in the picture.
UNSEEN = 1.5


@dataclass(frozen=True)
class PushTask:
    """Done where the centre of the named block lies in its zone in each of the last `hold` frames."""

    hold: int

    def __post_init__(self) -> None:
        if self.hold < 1:
            raise ValueError(f"protocol.goal.hold={self.hold}: at least the last frame must show the block in its zone")

    def instructions(self, targets: Int[np.ndarray, "n"]) -> list[str]:
        """In words."""
        return [f"push the {COLOURS[target]} block into the {COLOURS[target]} zone" for target in targets]

    def targets(self, video: Pixels, numbers: Sequence[int]) -> Int[np.ndarray, "n"]:
        """The block of every start: by its number one or the other, that which is left to do; -1 where none is."""
        left = ~(distances(video)[:, -1] < ZONE_RADIUS).numpy()
        own = np.asarray(numbers) % len(GOALS)
        rows = np.arange(len(own))
        found = np.where(left[rows, own], own, 1 - own)
        return np.where(left[rows, found], found, -1)

    def success(self, video: Pixels, targets: Int[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
        """Whether the video ends with the block in its zone; a block that is not seen is in none."""
        return self._held(distances(video).numpy(), targets)

    def success_of_state(
        self, blocks: Float[np.ndarray, "n f k 2"], targets: Int[np.ndarray, "n"]
    ) -> Bool[np.ndarray, "n"]:
        """The same by a simulator's own places of the blocks."""
        return self._held(np.linalg.norm(blocks - GOALS, axis=-1), targets)

    def reward(self, video: Pixels, targets: Int[np.ndarray, "n"]) -> Float[Tensor, "n f"]:
        """For planners, in frame widths: minus the block's way to its goal, and a share of the gripper's to it."""
        sights, rows = look(video), torch.arange(len(video))
        places = torch.stack([sight.place for sight in sights.blocks], dim=2)
        block = places[rows, :, torch.as_tensor(targets)]
        goal = torch.tensor(GOALS, dtype=torch.float32)[torch.as_tensor(targets)][:, None]
        ways = [(block - goal).norm(dim=-1), (sights.gripper.place - block).norm(dim=-1)]
        block_way, gripper_way = (torch.nan_to_num(way, nan=UNSEEN) for way in ways)
        return -block_way - NEAR * gripper_way

    def _held(self, away: Float[np.ndarray, "n f k"], targets: Int[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
        return np.asarray((away[np.arange(len(targets)), -self.hold :, targets] < ZONE_RADIUS).all(axis=1))


def distances(video: Pixels) -> Float[Tensor, "n f k"]:
    """How far each block's centre is seen from its goal, in frame widths; NaN where it is not seen."""
    goals = torch.tensor(GOALS, dtype=torch.float32, device=video.device)
    sights = look(video).blocks
    return torch.stack([(s.place - goal).norm(dim=-1) for s, goal in zip(sights, goals, strict=True)], dim=-1).cpu()
