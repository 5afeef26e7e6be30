"""Who says, by pixels alone, what a simulated frame is worth and whether the task is done."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wm_lightning.clip import Pixels
from wm_lightning.worlds.pusher import PusherWorld
from wm_lightning.worlds.pusher_dynamics import GOALS
from wm_lightning.worlds.pusher_measure import look
from wm_lightning.worlds.pusher_render import ZONE_RADIUS
from wm_lightning.worlds.world import World


@dataclass(frozen=True)
class Judgement:
    """The reward of every frame, and whether it shows the task done."""

    reward: Float[Tensor, "n f"]
    done: Bool[Tensor, "n f"]


Judge = Callable[[Pixels], Judgement]


def no_judge(video: Pixels) -> Judgement:
    """No reward, and no end."""
    nothing = torch.zeros(video.shape[:2])
    return Judgement(nothing, nothing.bool())


def blocks_home(video: Pixels) -> Judgement:
    """The pusher's: the share of blocks whose centre is seen in the zone of their colour; done with all of them."""
    sights = look(video).blocks
    goals = torch.tensor(GOALS, dtype=torch.float32, device=video.device)
    # A block that is not seen has no place (NaN), which is no zone.
    home = torch.stack([(s.place - goal).norm(dim=-1) < ZONE_RADIUS for s, goal in zip(sights, goals, strict=True)])
    return Judgement(home.float().mean(0), home.all(0))


def judge_of(world: World | None) -> Judge:
    """The judge of a simulated world's task; `no_judge` for a world that has none."""
    return blocks_home if isinstance(world, PusherWorld) else no_judge
