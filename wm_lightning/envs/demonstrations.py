"""Demonstrations for a policy: of recorded episodes, the frames that led to a block in its zone, and what was done."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from wm_lightning.clip import Clip
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.envs.push_task import distances
from wm_lightning.worlds.pusher_render import ZONE_RADIUS


@dataclass(frozen=True)
class Demonstrations:
    """What was seen, which block came home next, and the actions that were taken from there on."""

    frame: UInt8[Tensor, "n c h w"]
    goal: Int[Tensor, "n"]
    actions: Float[Tensor, "n k a"]


def demonstrations(data: ClipDataModule, split: str, *, clips: int, chunk: int) -> Demonstrations:
    """Those of the split's whole episodes, at most `clips` of them; none where nothing succeeds.

    Success is judged by pixels, and who succeeded is not asked: a random policy that strikes home is a demonstration.
    """
    reader = data.reader(split)
    frames = max(reader.length(episode) for episode in range(len(reader)))
    parts = [successes(clip, chunk) for clip in data.clips(split, clips, frames, 64, learned=split == "train")]
    return Demonstrations(
        *(torch.cat([getattr(part, name) for part in parts]) for name in ("frame", "goal", "actions"))
    )


def successes(clip: Clip, chunk: int) -> Demonstrations:
    """Frames of whole episodes from which a block that is not at home is the next to come there, in `chunk` actions'
    reach of the episode's end at the latest."""
    home = (distances(clip.video) < ZONE_RADIUS).numpy()
    goal = next_home(home)[:, : clip.video.shape[1] - chunk]
    rows, places = (torch.from_numpy(axis) for axis in np.nonzero(goal >= 0))
    later = places[:, None] + torch.arange(1, chunk + 1)  # actions[:, f] led to frame f
    return Demonstrations(
        clip.video[rows, places], torch.from_numpy(goal[goal >= 0]), clip.condition.actions[rows[:, None], later]
    )


def next_home(home: Bool[np.ndarray, "n f k"]) -> Int[np.ndarray, "n f"]:
    """Of every frame, the block that comes home next and is not there yet; -1 where none does."""
    count, frames, blocks = home.shape
    never = frames
    when = np.full((count, blocks), never)
    found = np.full((count, frames), -1)
    for frame in reversed(range(frames)):
        there = home[:, frame]
        ahead = np.where(there, never, when)
        first = ahead.argmin(axis=1)
        found[:, frame] = np.where(ahead.min(axis=1) < never, first, -1)
        when = np.where(there, frame, when)
    return found
