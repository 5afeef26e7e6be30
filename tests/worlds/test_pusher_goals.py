"""Goals of the pusher: their names, and judges that the truth satisfies and cheats do not."""

from itertools import product

import pytest
import torch

from wm_lightning.clip import Pixels, Texts
from wm_lightning.networks.prompt import HashedWords
from wm_lightning.rewards.reward import Reward
from wm_lightning.worlds.pusher import PusherWorld
from wm_lightning.worlds.pusher_goals import (
    SIDE,
    Cell,
    Criterion,
    GoalReward,
    cell_of,
    goal_of,
    log_odds,
    margins,
    pusher_judges,
    task_told,
)

CELLS = [*product(range(SIDE), range(SIDE))]
REACH, FRAMES, EPISODES = 2.5 / 32, 13, 24
WORLD = PusherWorld(
    seed=0, length=FRAMES, episodes=dict(train=EPISODES, val=1, test=1), pixels=32, fps=20, crf=20, reach=REACH,
    jump=0.042, policies=dict(scripted=0.4, noisy=0.25, failing=0.1, random=0.25), workers=1,
)  # fmt: skip
COURSE = WORLD.simulate("train", range(EPISODES))
TRUE = torch.from_numpy(WORLD.render(COURSE)).permute(0, 1, 4, 2, 3)
GOALS = [cell_of(float(x), float(y)) for x, y in COURSE.gripper[:, -1]]
TABLE = TRUE[0, 0, :, 0, 16]  # a pixel of the bare table


def met(video: Pixels, criterion: Criterion, goals: list[Cell] = GOALS) -> torch.Tensor:
    return margins(video, goals, criterion, reach=REACH) > 0


def without(colour: int, frames: slice) -> Pixels:
    """The videos with one of red, green and blue things painted over by the table, where it outshines the others."""
    video = TRUE.clone()
    part = video[:, frames].float()
    others = [part[:, :, channel] for channel in range(3) if channel != colour]
    strong = part[:, :, colour] - torch.maximum(*others) > 25
    video[:, frames] = torch.where(strong[:, :, None], TABLE[:, None, None], video[:, frames])
    return video


def test_every_cell_has_a_name_that_is_read_back_and_a_word_of_its_own() -> None:
    told = [task_told(cell) for cell in CELLS]
    assert [goal_of(f"[Gripper]: {text}") for text in told] == CELLS
    assert len(set(told)) == SIDE**2 and task_told((2, 3)) == "end at c4"
    tokens = HashedWords(buckets=4096, length=12)([f"[Gripper]: {text}" for text in told]).tokens
    assert len({tuple(row.tolist()) for row in tokens}) == SIDE**2, "two cells are one word to the network"
    assert [goal_of(text) for text in ("end at g1", "end at a7", "end at a0", "push the box", "")] == [None] * 5


def test_cells_cover_the_picture() -> None:
    assert cell_of(0.0, 0.999) == (0, SIDE - 1) and cell_of(1.0, 1.0) == (SIDE - 1, SIDE - 1)
    assert [cell_of((column + 0.5) / SIDE, (row + 0.5) / SIDE) for column, row in CELLS] == CELLS


@pytest.mark.parametrize("criterion", ["task", "agent", "consistency"])
def test_the_truth_is_right_in_hindsight(criterion: Criterion) -> None:
    assert bool(met(TRUE, criterion).all())


def test_another_place_is_not_the_goal() -> None:
    away = [((column + 3) % SIDE, row) for column, row in GOALS]
    assert not bool(met(TRUE, "task", away).any())
    assert not bool(met(without(0, slice(-1, None)), "task").any()), "a gripper that is gone has arrived"


def test_who_stands_still_is_consistent_and_seldom_arrives() -> None:
    still = TRUE[:, :1].expand_as(TRUE)
    assert bool(met(still, "consistency").all()) and bool(met(still, "agent").all())
    assert met(still, "task").float().mean() < 0.3


def test_a_jump_arrives_and_is_inconsistent() -> None:
    """First picture all the time, then the end at once."""
    jumped = torch.cat([TRUE[:, :1].expand(-1, FRAMES - 1, -1, -1, -1), TRUE[:, -1:]], dim=1)
    far = torch.from_numpy(abs(COURSE.gripper[:, -1] - COURSE.gripper[:, 0]).max(-1) > 2 * REACH)
    assert bool(met(jumped, "task").all()) and bool(far.any())
    assert not bool(met(jumped, "consistency")[far].any())


@pytest.mark.parametrize("colour", [0, 1], ids=["gripper", "green block"])
def test_what_is_lost_on_the_way_is_missed(colour: int) -> None:
    video = without(colour, slice(5, 7))
    assert not bool(met(video, "consistency").any()) and not bool(met(video, "agent").any())
    assert bool(met(video, "task").all()), "how it ends is another matter"


def test_a_second_gripper_is_seen() -> None:
    """In a corner of the picture, slowly: nothing jumps, but there are two."""
    far = torch.tensor([bool((abs(COURSE.gripper[row] - 0.1).max(-1) > 0.35).all()) for row in range(EPISODES)])
    twice = TRUE.clone()
    for frame in range(3, FRAMES):
        side = min(4, frame - 2)
        twice[:, frame, :, 1 : 1 + side, 1 : 1 + side] = torch.tensor([232, 44, 44], dtype=torch.uint8)[:, None, None]
    assert bool(far.any()) and not bool(met(twice, "consistency")[far].any())


def test_a_block_that_moves_by_itself_is_another_agent() -> None:
    """The whole picture slides but for the gripper's way: blocks that nobody touches move."""
    slid = torch.stack([torch.roll(TRUE[:, 0], 2 * frame if frame < 3 else 4, dims=-1) for frame in range(4)], dim=1)
    gripper, blocks = COURSE.gripper[:, 0], COURSE.blocks[:, 0]
    gaps = torch.from_numpy(((blocks - gripper[:, None]) ** 2).sum(-1) ** 0.5)
    apart = torch.from_numpy(((blocks[:, 0] - blocks[:, 1]) ** 2).sum(-1) ** 0.5)
    inside = torch.from_numpy((blocks[..., 0] < 0.75).all(-1) & (gripper[:, 0] < 0.75))
    alone = (gaps.min(1).values > 0.3) & (apart > 0.3) & inside
    assert bool(alone.any()) and not bool(met(slid, "agent", GOALS)[alone].any())


def texts(*instructions: str) -> Texts:
    return Texts(tuple(f"t{place}" for place in range(len(instructions))), instructions, ("",) * len(instructions))


def test_a_reward_says_what_the_program_says_in_any_order() -> None:
    reward: Reward = GoalReward("task", REACH)
    asked = texts(*(f"[Gripper]: {task_told(cell)}" for cell in reversed(GOALS)))
    verdict = reward(TRUE, asked)
    margin = margins(TRUE, list(reversed(GOALS)), "task", reach=REACH)
    torch.testing.assert_close(verdict.value, log_odds(margin))
    assert verdict.valid.all() and verdict.value.abs().max() <= 6 and verdict.met.any() and not verdict.met.all()
    turned = torch.randperm(EPISODES, generator=torch.Generator().manual_seed(0))
    assert torch.equal(reward(TRUE[turned], asked[turned]).value, verdict.value[turned])


def test_what_is_no_goal_cannot_be_judged() -> None:
    verdict = GoalReward("task", REACH)(TRUE[:2], texts("[Gripper]: push the box", "[Gripper]: end at a1"))
    assert verdict.reasons == ("no goal of the pusher", "")
    assert not GoalReward("task", REACH)(TRUE[:1], texts("nothing")).valid.any()
    with pytest.raises(ValueError, match="3 videos come with 2 texts"):
        GoalReward("task", REACH)(TRUE[:3], texts("a", "b"))
    with pytest.raises(ValueError, match="2 videos come with 1 goals"):
        margins(TRUE[:2], [(0, 0)], "task", reach=REACH)


def test_judges_are_of_the_pusher_alone() -> None:
    class Data:
        world = None

    with pytest.raises(ValueError, match="set data=pusher_goals"):
        pusher_judges(Data(), weights={"task": 1.0}, max_invalid=0.0)
