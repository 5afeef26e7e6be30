"""What chance decides in an iteration hangs on run, iteration, task, copy and draw: on no batch, rank, micro-batch."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch

from wm_lightning.modules.wmsd_draws import Draws, Picked, stratified
from wm_lightning.modules.wmsd_surrogates import AWM, GRPO
from wm_lightning.sampling.samplers import DDIMSampler, StepList
from wm_lightning.sampling.sde import CPSSampler

DRAWS = Draws(seed=3, iteration=5, tasks=[7, 2], copies=3, device=torch.device("cpu"))
FRAMES = (2, 3, 4, 4)
EVERY = slice(0, 6)


def test_a_rank_with_half_of_the_tasks_draws_half_of_the_noise() -> None:
    for number, task in enumerate(DRAWS.tasks):
        alone, rows = replace(DRAWS, tasks=[task]), slice(3 * number, 3 * number + 3)
        assert torch.equal(alone.matching(FRAMES, EVERY, 1), DRAWS.matching(FRAMES, EVERY, 1)[rows])
        shape = ((3, 4, 4), [1] * 3, 2, 0)
        whole = DRAWS.noise("wmsd")((3, 4, 4), [1] * 6, 2, 0)
        assert torch.equal(alone.noise("wmsd")(*shape), whole[rows])


def test_a_micro_batch_has_its_part_of_the_noise() -> None:
    parts = [DRAWS.matching(FRAMES, slice(start, start + 4), 0) for start in (0, 4)]
    assert [len(part) for part in parts] == [4, 2]
    assert torch.equal(torch.cat(parts), DRAWS.matching(FRAMES, EVERY, 0))


@pytest.mark.parametrize("changes", [{"seed": 4}, {"iteration": 6}, {"tasks": [8, 3]}], ids=str)
def test_nothing_is_drawn_twice(changes: dict[str, Any]) -> None:
    drawn, other = DRAWS.matching(FRAMES, EVERY, 0), replace(DRAWS, **changes).matching(FRAMES, EVERY, 0)
    assert not (drawn == other).any() and not (drawn == DRAWS.matching(FRAMES, EVERY, 1)).any()
    assert len({tuple(row.flatten().tolist()) for row in drawn}) == 6, "copies differ"


def test_a_policy_learns_at_the_steps_it_can() -> None:
    steps = StepList(kind="matched", steps=4, shift=2.0)
    grpo = GRPO(draws=3, clip=1e-4, aggregation="exp_first")
    found = Picked.of(grpo, CPSSampler(steps, eta=0.7), 4, 2, 0, 1)
    assert found.policy.tolist() == [0, 1, 2] and len(found.anchor) == 2, "the last step draws nothing"
    awm = AWM(draws=4, weighting="t", p=1.0, aggregation="exp_first", clip=1.0)
    assert Picked.of(awm, DDIMSampler(steps, eta=0.0), 4, 1, 0, 1).policy.tolist() == [0, 1, 2, 3]
    assert len(Picked.of(None, DDIMSampler(steps, eta=0.0), 4, 4, 0, 1).policy) == 1, "nobody learns at it"


def test_levels_are_stratified() -> None:
    picked = [stratified(8, 4, 0, "levels", iteration).tolist() for iteration in range(200)]
    assert all(two[0] // 2 == 0 and [step // 2 for step in two] == [0, 1, 2, 3] for two in picked)
    assert set(Counter(step for steps in picked for step in steps)) == set(range(8)), "the last one too"
    with pytest.raises(ValueError, match="9 levels of a rollout of 8 steps"):
        stratified(8, 9, 0, "levels", 0)
