"""The judges of turning go with the turns that were made, and say so where pixels do not tell."""

import numpy as np
import pytest
import torch

from wm_lightning.clip import Clip, Condition
from wm_lightning.data.formats.csgo import COLUMNS, MOUSE, MOUSE_X
from wm_lightning.data.formats.recon import planar_actions
from wm_lightning.data.formats.resize import Resize
from wm_lightning.worlds.maze import MazeWorld
from wm_lightning.worlds.maze_dynamics import TURN
from wm_lightning.worlds.maze_render import FIELD
from wm_lightning.worlds.rover import RoverWorld
from wm_lightning.worlds.turning import turned

MAZE = MazeWorld(
    seed=0, length=24, episodes=dict(train=8, test=1), height=60, width=112, cells=13, wander=0.25,
    policies=dict(walker=0.2, watcher=0.6, random=0.2),
)  # fmt: skip
# Single episodes differ: by fives the error is from 0.008 to 0.034 of a picture's width, on level ground too.
ROVER_EPISODES = 40
ROVER = RoverWorld(
    seed=0, length=24, episodes=dict(train=ROVER_EPISODES, val=1, test=1), height=96, width=128, posts=14, roll=0.12,
    hills=0.08, workers=1,
)  # fmt: skip


def clip_of(videos: np.ndarray, stored: np.ndarray, height: int, width: int) -> Clip:
    """A clip as data modules give it: small, and every frame with the action that produced it."""
    small = np.stack([Resize("squash", height, width)(video) for video in videos])
    produced = np.concatenate([np.zeros_like(stored[:, :1]), stored[:, :-1]], 1)
    state = torch.ones(produced.shape[:2], dtype=torch.int64)
    condition = Condition(torch.from_numpy(produced).float(), state)
    return Clip(torch.from_numpy(small), condition, torch.arange(len(small)), {})


@pytest.fixture(scope="module")
def maze() -> Clip:
    videos, actions, _ = MAZE.simulate("train", range(8))
    return clip_of(videos, actions, 24, 48)


@pytest.fixture(scope="module")
def rover() -> Clip:
    videos, drives = ROVER.simulate("train", range(ROVER_EPISODES))
    return clip_of(videos, np.stack([planar_actions(drive.position, drive.yaw) for drive in drives]), 32, 40)


def test_turns_of_the_maze_are_seen_as_the_mouse_makes_them(maze: Clip) -> None:
    seen = turned(maze.video, field=FIELD, most=0.15, band=(0.0, 0.72))[:, 1:]
    actions = maze.condition.actions[:, 1:]
    made = TURN * torch.tensor(MOUSE_X).float()[actions[..., MOUSE["x"]].argmax(-1)]
    walks = actions[..., [COLUMNS.index(key) for key in ("w", "a", "s", "d", "space")]].any(-1)
    judged = ~walks & ~seen.isnan()
    assert judged.sum() > 0.8 * (~walks).sum() > 20 and made[judged].std() > 0.01
    assert torch.corrcoef(torch.stack([seen[judged], made[judged]]))[0, 1] > 0.97
    assert (seen[judged] - made[judged]).abs().mean() < 0.004, "radians; a step of the mouse makes 0.09 at most"


@pytest.mark.parametrize("name", ["maze", "rover"])
def test_actions_that_were_not_made_are_told_from_those_that_were(name: str, request: pytest.FixtureRequest) -> None:
    world, clip = (MAZE if name == "maze" else ROVER), request.getfixturevalue(name)
    right = world.measure(clip.video, clip, 1)
    error = float(right.action_error.nanmean())
    order = torch.arange(len(clip.video)).roll(1)
    other = Clip(clip.video, Condition(clip.condition.actions[order], clip.condition.state), clip.index, {})
    wrong = float(world.measure(clip.video, other, 1).action_error.nanmean())
    still = clip.video[:, :1].expand_as(clip.video).contiguous()
    frozen = float(world.measure(still, clip, 1).action_error.nanmean())
    assert wrong > 5 * error and frozen > 3 * error, (error, wrong, frozen)
    assert world.compare(right, right)["turns_lost"] == 0


def test_turns_of_the_rover_are_seen_as_they_are_driven(rover: Clip) -> None:
    error = ROVER.measure(rover.video, rover, 1)
    told = rover.condition.actions[..., 2]
    assert error.extra["turns_told"].mean() > 0.25
    assert float(error.action_error.nanmean()) < 0.35 * float(told[:, 1:].abs().mean()) / 1.4


def test_a_grey_picture_tells_nothing_and_a_copy_is_seen_as_still(maze: Clip) -> None:
    grey = torch.full_like(maze.video, 120)
    assert turned(grey, field=FIELD, most=0.15, band=(0.0, 0.72)).isnan().all()
    again = maze.video[:, :1].expand_as(maze.video).contiguous()
    seen = turned(again, field=FIELD, most=0.15, band=(0.0, 0.72))[:, 1:]
    assert (~seen.isnan()).any() and seen[~seen.isnan()].abs().max() < 1e-3
