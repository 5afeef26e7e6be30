"""Goals of the pusher's gripper on a coarse board over the picture, and judges of them by pixels alone.

Each answer is a signed margin (positive: yes) and from it log-odds, as a judge with probabilities gives them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from wm_lightning.clip import Pixels, Texts
from wm_lightning.rewards.bus import RewardBus, Weighted
from wm_lightning.rewards.reward import Failed, Verdict
from wm_lightning.worlds.pusher import PusherWorld
from wm_lightning.worlds.pusher_measure import SATURATED, Sights, look
from wm_lightning.worlds.pusher_render import BLOCK_HALF, BLOCKS, GRIPPER, GRIPPER_DRAWN

Cell = tuple[int, int]  # column and row, from the left and from the top
Criterion = Literal["task", "agent", "consistency"]

SIDE = 6  # cells; a gripper is as wide as one
NEAR = 0.75  # cells from a cell's centre that still count as there: its corners do
SLACK = 0.25  # cells a thing may seem to move in a frame beyond the gripper's reach: half of a coarse pixel
STILL = 0.3  # cells a block may seem to move that nothing touches
TOUCHED = 0.25  # frame widths between centres, within which a thing may have been touched in this frame
CHANGE = 0.6  # of a thing's area that may be seen otherwise: the gripper turns, opens and rises; two would be one more
SHARPNESS, MOST = 10.0, 6.0
UNKNOWN = Failed("no goal of the pusher")
_GOAL = re.compile(rf"end at ([a-{chr(ord('a') + SIDE - 1)}])([1-{SIDE}])$")


def cell_of(x: float, y: float) -> Cell:
    """The cell of a place in frame widths."""
    column, row = (min(max(int(SIDE * value), 0), SIDE - 1) for value in (x, y))
    return column, row


def task_told(cell: Cell) -> str:
    """What is to be brought about, in words; cells are named as on a chessboard seen from above."""
    return f"end at {chr(ord('a') + cell[0])}{cell[1] + 1}"


def goal_of(instruction: str) -> Cell | None:
    """The cell that an instruction names; None where it names none."""
    found = _GOAL.search(instruction)
    return None if found is None else (ord(found[1]) - ord("a"), int(found[2]) - 1)


def margins(video: Pixels, goals: Sequence[Cell], criterion: Criterion, *, reach: float) -> Float[Tensor, "b"]:
    """How far a criterion is met, by video; `reach` is how far the gripper goes in a frame, in frame widths.

    task: the gripper ends in the goal's cell (cells). agent: gripper and blocks are seen, and no block moves that
    nothing touches (cells). consistency: they keep their area, so that none is lost or doubled (share), and none goes
    faster than the gripper can (cells). Raises ValueError where videos and goals differ in number.
    """
    if len(video) != len(goals):
        raise ValueError(f"{len(video)} videos come with {len(goals)} goals")
    seen = look(video)
    if criterion == "task":
        return _arrived(seen, goals)
    if criterion == "agent":
        return STILL - _untouched(seen)
    return torch.minimum(CHANGE - _changed(areas(video)), SIDE * reach + SLACK - _stride(seen))


def log_odds(margin: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """A margin as log p(yes) - log p(no), within ±6."""
    return (SHARPNESS * margin).clamp(-MOST, MOST)


def areas(video: Pixels) -> Float[Tensor, "b f 3"]:
    """What is seen of gripper, green and yellow block, as a share of what is drawn of each."""
    red, green, blue = video.float().unbind(2)
    strengths = (
        (red - torch.maximum(green, blue)) / (GRIPPER[0] - GRIPPER[1]),
        (green - torch.maximum(red, blue)) / (BLOCKS[0][1] - BLOCKS[0][2]),
        (torch.minimum(red, green) - blue) / (BLOCKS[1][1] - BLOCKS[1][2]),
    )
    block = (2 * BLOCK_HALF) ** 2
    drawn = (torch.pi * GRIPPER_DRAWN**2, block, block)
    found = [torch.where(one > SATURATED, one.clamp(max=1.0), 0.0).mean((-2, -1)) for one in strengths]
    return torch.stack([one / area for one, area in zip(found, drawn, strict=True)], dim=-1)


def _arrived(seen: Sights, goals: Sequence[Cell]) -> Float[Tensor, "b"]:
    place = SIDE * seen.gripper.place[:, -1]
    centre = torch.tensor(goals, dtype=torch.float32, device=place.device) + 0.5
    return NEAR - (place - centre).norm(dim=-1).nan_to_num(float(SIDE))  # what is not seen is nowhere


def _stride(seen: Sights) -> Float[Tensor, "b"]:
    """The longest way of anything in one frame and along one axis, in cells: actions reach so far along each."""
    moved = [thing.place.diff(dim=1).abs().amax(-1).nan_to_num(0.0) for thing in (seen.gripper, *seen.blocks)]
    return SIDE * torch.stack(moved).amax((0, 2))


def _changed(area: Float[Tensor, "b f 3"]) -> Float[Tensor, "b"]:
    """The largest change of an area since the first frame, as a share of what was there."""
    return ((area - area[:, :1]).abs() / area[:, :1].clamp_min(0.1)).amax((1, 2))


def _untouched(seen: Sights) -> Float[Tensor, "b"]:
    """The longest way of a block in a frame in which neither gripper nor the other block is near it, in cells.

    The whole picture where anything is lost: who is not seen does nothing.
    """
    first, second = (block.place for block in seen.blocks)
    moved = []
    for block, other in ((first, second), (second, first)):
        gap = torch.minimum((seen.gripper.place - block).norm(dim=-1), (other - block).norm(dim=-1))
        # Near before or after.
        alone = torch.minimum(gap[:, 1:], gap[:, :-1]) > TOUCHED
        moved.append(torch.where(alone, block.diff(dim=1).norm(dim=-1).nan_to_num(0.0), 0.0))
    lost = ~torch.stack([thing.seen for thing in (seen.gripper, *seen.blocks)]).all(0).all(1)
    return SIDE * torch.where(lost, 1.0, torch.stack(moved).amax((0, 2)))


@dataclass(frozen=True)
class GoalReward:
    """Pseudo log-odds of one criterion, within ±6 and positive where it is met: see `margins`.

    The goal is read off the instruction; one that names no cell cannot be judged.
    """

    criterion: Criterion
    reach: float

    def __call__(self, videos: Pixels, texts: Texts) -> Verdict:
        """One judgement a video. Raises ValueError where texts and videos differ in number."""
        if len(videos) != len(texts):
            raise ValueError(f"{len(videos)} videos come with {len(texts)} texts")
        goals = {place: cell for place, text in enumerate(texts.instruction) if (cell := goal_of(text)) is not None}
        found: dict[int, float] = {}
        if goals:
            margin = margins(videos[[*goals]], [*goals.values()], self.criterion, reach=self.reach)
            found = dict(zip(goals, log_odds(margin).tolist(), strict=True))
        return Verdict.of([found.get(place, UNKNOWN) for place in range(len(videos))])


@runtime_checkable
class OfPusher(Protocol):
    """Data that a pusher made."""

    world: PusherWorld | None


def pusher_judges(data: OfPusher, *, weights: Mapping[Criterion, float], max_invalid: float) -> RewardBus:
    """The pusher's judges of the criteria named, with what each weighs. Raises ValueError for data of another world."""
    if not isinstance(data.world, PusherWorld):
        raise ValueError("the pusher's judges know its gripper and blocks alone; set data=pusher_goals")
    rewards = {name: Weighted(GoalReward(name, data.world.reach), weight) for name, weight in weights.items()}
    return RewardBus(rewards=rewards, max_invalid=max_invalid, judge="the pusher's programs")
