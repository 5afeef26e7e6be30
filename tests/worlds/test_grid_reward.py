"""The grid's judges as rewards: the margins and answers of the program, for every kind of task of a batch."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.rewards.making import BOARDS, LOOKS, ROWS, TASKS, TEXTS, films, row
from wm_lightning.rewards.reward import Reward
from wm_lightning.worlds.grid_judge import CRITERIA, Criterion, judge
from wm_lightning.worlds.grid_look import judge_looks
from wm_lightning.worlds.grid_reward import GridReward, grid_judges, task_of

VIDEOS = films()


@pytest.mark.parametrize("criterion", CRITERIA)
def test_it_says_what_the_program_says(criterion: Criterion) -> None:
    reward: Reward = GridReward(criterion=criterion, row=row)
    count = len(BOARDS)
    boards, looks = judge(VIDEOS[:count], BOARDS), judge_looks(VIDEOS[count:], LOOKS)
    verdict = reward(VIDEOS, TEXTS)
    odds = torch.cat([boards.log_odds()[criterion], looks.log_odds()[criterion]])
    torch.testing.assert_close(verdict.value, odds)
    assert torch.equal(verdict.met, torch.cat([boards.met()[criterion], looks.met()[criterion]]))
    assert verdict.valid.all() and verdict.value.abs().max() <= 6 and verdict.met.any() and not verdict.met.all()


def test_kinds_of_tasks_may_be_mixed() -> None:
    reward = GridReward(criterion="task", row=row)
    turned = torch.randperm(len(TEXTS), generator=torch.Generator().manual_seed(0))
    assert torch.equal(reward(VIDEOS[turned], TEXTS[turned]).value, reward(VIDEOS, TEXTS).value[turned])


def test_a_row_gives_back_its_task() -> None:
    assert [task_of(ROWS[name]) for name in TEXTS.ids] == TASKS


def test_a_task_without_a_verifier_of_the_grid_is_not_judged() -> None:
    others = {
        "task0": replace(ROWS["task0"], verifier=None),
        "task1": replace(ROWS["task1"], verifier={"world": "maze"}),
    }
    verdict = GridReward(criterion="task", row=(ROWS | others).__getitem__)(VIDEOS[:3], TEXTS[:3])
    assert verdict.reasons == ("no verifier of the grid", "no verifier of the grid", "")
    with pytest.raises(ValueError, match="3 videos come with 2 texts"):
        GridReward(criterion="task", row=row)(VIDEOS[:3], TEXTS[:2])


def test_a_hackable_judge_takes_a_jump_for_a_walk() -> None:
    """Picture, then the end at once: a judge of the end takes it, and that of consistency beside it refuses."""
    count = len(BOARDS)
    walked = torch.stack([torch.from_numpy(task.film(task.moves, 9, 4)) for task in BOARDS]).permute(0, 1, 4, 2, 3)
    jumped = torch.cat([walked[:, :1], walked[:, -1:].expand(-1, walked.shape[1] - 1, -1, -1, -1)], dim=1)
    weights = {"task": 1.0, "consistency": 0.5}
    bus = grid_judges(SimpleNamespace(row=row), weights=weights, hackable=True, max_invalid=0.0)
    texts, far = TEXTS[:count], torch.tensor([len(task.moves) > 2 for task in BOARDS])
    by_walking, by_jumping = bus(walked, texts), bus(jumped, texts)
    bus.close()
    assert bool((by_walking.value > 0).all()), "who walked there is there"
    assert bool((by_jumping.of("task") > 0).all())
    assert far.any() and not bool((by_jumping.of("consistency") > 0)[far].any()), "what repairs it must see it"


def test_a_criterion_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="'consistancy' is not one of task, agent, consistency"):
        GridReward(criterion="consistancy", row=row)
