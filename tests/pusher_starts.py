"""First frames of the pusher's episodes straight from the simulator, and what a policy is told of them."""

import numpy as np
import torch

from wm_lightning.clip import Clip, Condition
from wm_lightning.data.formats.resize import Resize
from wm_lightning.data.formats.robot_actions import NEUTRAL
from wm_lightning.envs.arenas import Simulator
from wm_lightning.envs.policy import Briefing
from wm_lightning.envs.push_task import PushTask
from wm_lightning.worlds.pusher import PusherWorld

TASK = PushTask(hold=2)
STATE = ("gripper", "look", "blocks", "distractor")
SIDE = 32


def pusher() -> PusherWorld:
    return PusherWorld(
        seed=0, length=12, episodes={"train": 4, "val": 3, "test": 4}, pixels=SIDE, fps=20, crf=20, reach=0.078125,
        jump=0.042, policies={"scripted": 0.4, "noisy": 0.25, "failing": 0.1, "random": 0.25}, workers=1,
    )  # fmt: skip


def simulator(world: PusherWorld) -> Simulator:
    return Simulator(world, Resize("squash", SIDE, SIDE))


def clip_of(world: PusherWorld, count: int, frames: int) -> Clip:
    """The beginnings of so many episodes with their hidden state."""
    course = world.simulate("test", range(count))
    video = torch.from_numpy(world.render(course)[:, :frames]).permute(0, 1, 4, 2, 3).contiguous()
    actions = torch.from_numpy(np.roll(course.actions, 1, axis=1)[:, :frames].copy())
    truth = {name: torch.from_numpy(getattr(course, name)[:, :frames].copy()) for name in STATE}
    state = torch.zeros(actions.shape[:2], dtype=torch.int64)
    return Clip(video, Condition(actions, state), torch.arange(count), truth)


def briefed(
    world: PusherWorld, start: Clip, *, horizon: int, decision: int = 3, seed: int = 0
) -> tuple[Clip, Briefing]:
    """The starts with something left to do, and the briefing of these."""
    targets = TASK.targets(start.video, start.index.tolist())
    rows = torch.from_numpy(np.flatnonzero(targets >= 0))
    kept = start[rows]
    return kept, Briefing(
        numbers=tuple(kept.index.tolist()), targets=targets[rows.numpy()], task=TASK, spec=world.spec,
        rest=NEUTRAL, decision=decision, horizon=horizon, seed=seed, world=world, model=None,
    )  # fmt: skip
