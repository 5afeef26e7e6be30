"""Guidance: its two ends are the two models it mixes, and its null reaches as far as it says."""

from typing import Literal

import pytest
import torch
from torch import Tensor

from tests.networks.tiny import condition, tiny, videos
from tests.sampling.recording import COMMITS, FEW_STEP, commit_name, denoiser, noise_of, plan
from wm_lightning.clip import Condition
from wm_lightning.networks.denoiser import Denoises
from wm_lightning.networks.rerun import Rerun
from wm_lightning.networks.state import empty_state
from wm_lightning.sampling.guidance import Guided, guided
from wm_lightning.sampling.rollout import Commit, rollout

BATCH, FRAMES = 2, 5
Null = Literal["all", "newest"]
NULLS: list[Null] = ["all", "newest"]
MODEL = denoiser(tiny("joint", dtype=torch.float64))
GIVEN = condition(BATCH, FRAMES, seed=3, dtype=torch.float64)
CONTEXT = videos(BATCH, 1, seed=1, dtype=torch.float64)


def run(model: Denoises, given: Condition = GIVEN, commit: Commit = COMMITS[0], chunk: int = 2) -> Tensor:
    return rollout(
        model, FEW_STEP, CONTEXT, given, plan(chunk, commit=commit, window=4), noise_of((4, 9), torch.float64)
    )


def assert_near(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-9, rtol=0)


def test_scale_mixes_linearly() -> None:
    one, other = videos(1, 2, seed=0), videos(1, 2, seed=1)
    assert torch.equal(guided(one, other, 0.0), other)
    torch.testing.assert_close(guided(one, other, 1.0), one)
    # Conditional + w (conditional - unconditional), as other systems count, is scale 1 + w.
    torch.testing.assert_close(guided(one, other, 4.0), one + 3 * (one - other), atol=1e-5, rtol=0)


@pytest.mark.parametrize("commit", COMMITS, ids=commit_name)
@pytest.mark.parametrize("null", NULLS)
def test_scale_1_is_the_conditional_model(null: Null, commit: Commit) -> None:
    assert_near(run(Guided(MODEL, 1.0, null), commit=commit), run(MODEL, commit=commit))


@pytest.mark.parametrize("commit", COMMITS, ids=commit_name)
def test_scale_0_without_any_action_is_the_unconditional_model(commit: Commit) -> None:
    assert_near(run(Guided(MODEL, 0.0, "all"), commit=commit), run(MODEL, GIVEN.null(), commit=commit))
    assert (run(MODEL) - run(MODEL, GIVEN.null())).abs().max() > 1e-2


def test_newest_keeps_the_actions_of_the_history() -> None:
    """At scale 0 the last chunk is what a model makes that never heard of the last chunk's actions only."""
    guided_frames, all_null = run(Guided(MODEL, 0.0, "newest")), run(Guided(MODEL, 0.0, "all"))
    assert_near(guided_frames[:, :3], run(MODEL, GIVEN.null([1, 2]))[:, :3])
    assert (guided_frames - all_null)[:, 1:3].abs().max() > 1e-3  # frame 0 had an action slot, and keeps it

    mask, t = plan(2).mask, torch.full((BATCH, 2), 0.5, dtype=torch.float64)
    with torch.no_grad():
        clean = torch.zeros(BATCH, 3, dtype=torch.float64)
        past = MODEL.remember(videos(BATCH, 3, seed=6).double(), clean, GIVEN.frames(0, 3), empty_state(BATCH), mask)
        x_t = videos(BATCH, 2, seed=7).double()
        last, state = Guided(MODEL, 0.0, "newest").x0(x_t, t, GIVEN.frames(3, 5), past, mask)
        expected, _ = MODEL.x0(x_t, t, GIVEN.null([3, 4]).frames(3, 5), past, mask)
        _, own = MODEL.x0(x_t, t, GIVEN.frames(3, 5), past, mask)
    assert torch.equal(last, expected)
    assert all(torch.equal(state.memory[name], value) for name, value in own.memory.items())


@pytest.mark.parametrize("null", NULLS)
def test_guided_rollouts_with_and_without_cache_agree(null: Null) -> None:
    cached, again = (
        rollout(
            Guided(denoiser(network), 2.5, null), FEW_STEP, CONTEXT, GIVEN, plan(2), noise_of((4, 9), torch.float64)
        )
        for network in (MODEL.network, Rerun(MODEL.network))
    )
    assert_near(cached, again)


@pytest.mark.parametrize("null", NULLS)
def test_both_branches_keep_one_length_under_eviction(null: Null) -> None:
    with torch.no_grad():
        state = Guided(MODEL, 2.0, null).remember(
            CONTEXT.expand(-1, 3, -1, -1, -1), torch.zeros(BATCH, 3).double(), GIVEN.frames(0, 3),
            empty_state(BATCH), plan(1).mask,
        )  # fmt: skip
    assert state.length == 3 and state.frame.tolist() == [3, 3]
    assert len(state.memory) == (8 if null == "all" else 4)
    assert {value.shape[1] for value in state.memory.values()} == {3}
