"""Guidance: its two ends are the two models it mixes, and its null reaches as far as it says."""

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from tests.networks.tiny import SHAPE, condition, tiny, videos
from tests.sampling.recording import (
    COMMITS,
    DDIM,
    DIFFUSION,
    FEW_STEP,
    FLOW,
    Recorder,
    commit_name,
    denoiser,
    noise_of,
    plan,
)
from wm_lightning.clip import Condition
from wm_lightning.networks.denoiser import Denoiser, Denoises
from wm_lightning.networks.masks import FrameMask
from wm_lightning.networks.rerun import Rerun
from wm_lightning.networks.state import empty_state
from wm_lightning.noising import GaussianPath
from wm_lightning.sampling.guidance import Guidance, Guided, guided, guided_by, rescaled
from wm_lightning.sampling.rollout import (
    COMMIT_DRAW,
    Commit,
    Plan,
    as_planned,
    iter_chunks,
    next_chunk,
    remember_context,
    rollout,
)

BATCH, FRAMES = 2, 5
Null = Literal["all", "newest"]
NULLS: list[Null] = ["all", "newest"]
MODEL = denoiser(tiny("joint", dtype=torch.float64))
GIVEN = condition(BATCH, FRAMES, seed=3, dtype=torch.float64)
CONTEXT = videos(BATCH, 1, seed=1, dtype=torch.float64)


def pushed(model: Denoises, scale: float, drop: Null, rescale: float = 0.0) -> Guided:
    return Guided(model, Guidance(scale, drop, rescale, "new"))


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
    assert_near(run(pushed(MODEL, 1.0, null), commit=commit), run(MODEL, commit=commit))


@pytest.mark.parametrize("commit", COMMITS, ids=commit_name)
def test_scale_0_without_any_action_is_the_unconditional_model(commit: Commit) -> None:
    assert_near(run(pushed(MODEL, 0.0, "all"), commit=commit), run(MODEL, GIVEN.null(), commit=commit))
    assert (run(MODEL) - run(MODEL, GIVEN.null())).abs().max() > 1e-2


def test_newest_keeps_the_actions_of_the_history() -> None:
    """At scale 0 the last chunk is what a model makes that never heard of the last chunk's actions only."""
    guided_frames, all_null = run(pushed(MODEL, 0.0, "newest")), run(pushed(MODEL, 0.0, "all"))
    assert_near(guided_frames[:, :3], run(MODEL, GIVEN.null([1, 2]))[:, :3])
    assert (guided_frames - all_null)[:, 1:3].abs().max() > 1e-3  # frame 0 had an action slot, and keeps it

    mask, t = plan(2).mask, torch.full((BATCH, 2), 0.5, dtype=torch.float64)
    with torch.no_grad():
        clean = torch.zeros(BATCH, 3, dtype=torch.float64)
        past = MODEL.remember(videos(BATCH, 3, seed=6).double(), clean, GIVEN.frames(0, 3), empty_state(BATCH), mask)
        x_t = videos(BATCH, 2, seed=7).double()
        last, state = pushed(MODEL, 0.0, "newest").x0(x_t, t, GIVEN.frames(3, 5), past, mask)
        expected, _ = MODEL.x0(x_t, t, GIVEN.null([3, 4]).frames(3, 5), past, mask)
        _, own = MODEL.x0(x_t, t, GIVEN.frames(3, 5), past, mask)
    assert torch.equal(last, expected)
    assert all(torch.equal(state.memory[name], value) for name, value in own.memory.items())


@pytest.mark.parametrize("null", NULLS)
def test_guided_rollouts_with_and_without_cache_agree(null: Null) -> None:
    cached, again = (
        rollout(
            pushed(denoiser(network), 2.5, null), FEW_STEP, CONTEXT, GIVEN, plan(2), noise_of((4, 9), torch.float64)
        )
        for network in (MODEL.network, Rerun(MODEL.network))
    )
    assert_near(cached, again)


@pytest.mark.parametrize("null", NULLS)
def test_both_branches_keep_one_length_under_eviction(null: Null) -> None:
    with torch.no_grad():
        state = pushed(MODEL, 2.0, null).remember(
            CONTEXT.expand(-1, 3, -1, -1, -1), torch.zeros(BATCH, 3).double(), GIVEN.frames(0, 3),
            empty_state(BATCH), plan(1).mask,
        )  # fmt: skip
    assert state.length == 3 and state.frame.tolist() == [3, 3]
    assert len(state.memory) == (8 if null == "all" else 4)
    assert {value.shape[1] for value in state.memory.values()} == {3}


def test_rescale_at_0_leaves_the_mix_and_at_1_matches_the_conditional_spread() -> None:
    conditional, mixed = videos(3, 2, seed=0, dtype=torch.float64), 3 * videos(3, 2, seed=1, dtype=torch.float64) + 1
    every = (1, 2, 3, 4)
    assert torch.equal(rescaled(mixed, conditional, 0.0), mixed)
    torch.testing.assert_close(rescaled(mixed, conditional, 1.0).std(every), conditional.std(every))
    ratio = (conditional.std(every) / mixed.std(every))[:, None, None, None, None]
    torch.testing.assert_close(rescaled(mixed, conditional, 0.7), 0.7 * mixed * ratio + 0.3 * mixed)
    some = torch.tensor([[True, False]]).expand(3, 2)
    spread = rescaled(mixed, conditional, 1.0, some)[:, :1].std(every)
    torch.testing.assert_close(spread, conditional[:, :1].std(every))
    assert torch.equal(rescaled(0 * mixed, conditional, 1.0), 0 * mixed)


@pytest.mark.parametrize("path", [FLOW, DIFFUSION], ids=lambda path: path.prediction)
def test_the_spread_is_that_of_the_networks_own_prediction(path: GaussianPath) -> None:
    """v ← φ v_g std(v_c) / std(v_g) + (1 − φ) v_g, from the two predictions as the network gives them."""
    model, mask = Denoiser(MODEL.network, path), FrameMask(2)
    x_t, t = videos(BATCH, 2, seed=7).double(), torch.tensor([[0.9, 0.9], [0.3, 0.3]], dtype=torch.float64)
    given = GIVEN.frames(1, 3)
    with torch.no_grad():
        past = model.remember(CONTEXT, 0 * t[:, :1], GIVEN.frames(0, 1), empty_state(BATCH), mask)
        made, _ = Guided(model, Guidance(2.5, "newest", 0.7, "new")).x0(x_t, t, given, past, mask)
        conditional, _ = model.predict(x_t, t, given, past, mask)
        unconditional, _ = model.predict(x_t, t, given.null(), past, mask)
    mixed = unconditional + 2.5 * (conditional - unconditional)
    spread = [v.std(dim=(1, 2, 3, 4), keepdim=True) for v in (conditional, mixed)]
    assert_near(made, path.x0(x_t, 0.7 * mixed * spread[0] / spread[1] + 0.3 * mixed, t))


@pytest.mark.parametrize("null", NULLS)
def test_over_the_window_remembered_frames_count_too(null: Null) -> None:
    guidance, again, mask = Guidance(2.5, null, 0.7, "window"), denoiser(Rerun(MODEL.network)), FrameMask(1)
    x_t, seen = videos(BATCH, 1, seed=7).double(), videos(BATCH, 3, seed=8).double()
    t, levels = torch.full((BATCH, 1), 0.6).double(), torch.full((BATCH, 3), 0.04).double()
    with torch.no_grad():
        past = Guided(again, guidance).remember(seen, levels, GIVEN.frames(0, 3), empty_state(BATCH), mask)
        made, _ = Guided(again, guidance).x0(x_t, t, GIVEN.frames(3, 4), past, mask)
        whole = torch.cat([seen, x_t], 1), torch.cat([levels, t], 1)
        dropped = GIVEN.frames(0, 4).null(None if null == "all" else [3])
        conditional, unconditional = (
            MODEL.predict(*whole, given, None, mask)[0] for given in (GIVEN.frames(0, 4), dropped)
        )
    mixed = unconditional + 2.5 * (conditional - unconditional)
    if null == "newest":
        assert_near(conditional[:, :3], unconditional[:, :3])
    ratio = conditional.std(dim=(1, 2, 3, 4), keepdim=True) / mixed.std(dim=(1, 2, 3, 4), keepdim=True)
    wanted = (0.7 * mixed * ratio + 0.3 * mixed)[:, 3:]
    assert_near(made, FLOW.x0(x_t, wanted, t))
    near = Guided(again, replace(guidance, scope="new")).x0(x_t, t, GIVEN.frames(3, 4), past, mask)[0]
    assert (near - made).abs().max() > 1e-3


def test_a_window_of_predictions_is_refused_with_a_cache() -> None:
    with pytest.raises(ValueError, match=r"rollout\.guidance\.scope=new, .*rollout\.rerun=true"):
        Guided(MODEL, Guidance(2.5, "newest", 0.7, "window"))
    Guided(MODEL, Guidance(2.5, "newest", 0.0, "window"))  # no spread is taken
    given = replace(guided_plan(2.5, "newest", 0.7), guidance=Guidance(2.5, "newest", 0.7, "window"))
    with pytest.raises(ValueError, match="a network with a cache predicts nothing"):
        made_by(given)
    assert made_by(replace(given, rerun=True)).isfinite().all()


@pytest.mark.parametrize(
    "wrong",
    [(-1.0, "all", 0.0, "new"), (float("nan"), "all", 0.0, "new"), (2.0, "all", 1.1, "new"), (2.0, "none", 0.0, "new"),
     (2.0, "all", 0.0, "old")],
    ids=str,
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="guidance.scale=|guidance.drop="):
        Guidance(*wrong)


def guided_plan(scale: float, drop: Null, rescale: float = 0.0, *, chunk: int = 1, commit: Commit = COMMITS[0]) -> Plan:
    return replace(plan(chunk, commit=commit), guidance=Guidance(scale, drop, rescale, "new"))


def made_by(given: Plan, model: Denoises = MODEL, condition: Condition = GIVEN) -> Tensor:
    return rollout(model, DDIM, CONTEXT, condition, given, noise_of((4, 9), torch.float64))


@pytest.mark.parametrize("commit", COMMITS, ids=commit_name)
@pytest.mark.parametrize("chunk", [1, 2, 1000])
@pytest.mark.parametrize("null", NULLS)
def test_a_guided_rollout_with_a_cache_equals_one_that_reruns(null: Null, chunk: int, commit: Commit) -> None:
    given = guided_plan(2.5, null, 0.7, chunk=chunk, commit=commit)
    cached, again = made_by(given), made_by(replace(given, rerun=True))
    assert_near(cached, again)
    assert_near(cached, made_by(given, denoiser(Rerun(MODEL.network))))
    assert (cached - made_by(replace(given, guidance=None)))[:, 1:].abs().max() > 1e-2
    assert torch.equal(cached[:, :1], CONTEXT)


@pytest.mark.parametrize("null", NULLS)
def test_scale_1_is_one_conditional_pass(null: Null) -> None:
    recorder = Recorder(MODEL)
    unguided = made_by(plan(1))
    assert torch.equal(made_by(guided_plan(1.0, null, 0.7), recorder), unguided)
    assert all(len(call.x_t) == BATCH for call in recorder.calls)
    doubled = Recorder(MODEL)
    made_by(guided_plan(1.5, null), doubled)
    assert all(len(call.x_t) == 2 * BATCH for call in doubled.passes())
    # A finished frame is shown once where one history serves both.
    commits = {len(call.x_t) for call in doubled.calls if call.x0 is None}
    assert commits == {BATCH if null == "newest" else 2 * BATCH}


@pytest.mark.parametrize("rescale", [0.0, 0.7])
@pytest.mark.parametrize("null", NULLS)
def test_without_actions_to_drop_the_scale_is_irrelevant(null: Null, rescale: float) -> None:
    unknown = GIVEN.null()
    for scale in (0.0, 2.5):
        assert_near(made_by(guided_plan(scale, null, rescale), condition=unknown), made_by(plan(1), condition=unknown))


def test_scale_0_is_the_unconditional_rollout() -> None:
    assert_near(made_by(guided_plan(0.0, "all")), made_by(plan(1), condition=GIVEN.null()))


@pytest.mark.parametrize("null", NULLS)
def test_every_entry_of_the_loop_guides_alike_and_once(null: Null) -> None:
    given, noise = guided_plan(2.5, null, 0.7), noise_of((4, 9), torch.float64)
    whole = made_by(given)
    past = remember_context(MODEL, CONTEXT, GIVEN, given, noise)
    ahead = [GIVEN.frames(start, start + 1) for start in range(1, FRAMES)]
    chunks = iter_chunks(MODEL, DDIM, past, ahead, given, noise, shape=SHAPE)
    assert torch.equal(torch.cat([CONTEXT, *(chunk.frames for chunk in chunks)], 1), whole)
    alone = next_chunk(MODEL, DDIM, past, ahead[0], given, noise, shape=SHAPE)
    assert torch.equal(alone.frames, whole[:, 1:2])
    once = as_planned(MODEL, given)
    assert isinstance(once, Guided) and as_planned(once, given) is once
    assert torch.equal(made_by(given, once), whole)
    assert guided_by(MODEL, None) is MODEL


def test_one_slot_that_was_reset_is_guided_as_if_it_were_new() -> None:
    given, noise = guided_plan(2.5, "all", 0.7), noise_of((4, 9), torch.float64)
    with torch.no_grad():
        past = remember_context(MODEL, CONTEXT.expand(-1, 3, -1, -1, -1), GIVEN, given, noise)
        reset = past.reset(torch.tensor([False, True]))
        made = next_chunk(MODEL, DDIM, reset, GIVEN.frames(3, 4), given, noise, shape=SHAPE)
        fresh = next_chunk(MODEL, DDIM, empty_state(BATCH), GIVEN.frames(3, 4), given, noise, shape=SHAPE)
        kept = next_chunk(MODEL, DDIM, past, GIVEN.frames(3, 4), given, noise, shape=SHAPE)
    assert_near(made.frames[1], fresh.frames[1])
    assert_near(made.frames[0], kept.frames[0])
    assert made.past is not None and made.past.valid is not None and made.past.valid.sum(1).tolist() == [4, 1]


def test_frames_of_a_pyramid_that_are_clean_do_not_count_for_the_spread() -> None:
    x_t, t, given = videos(BATCH, 2, seed=7).double(), torch.tensor([[0.0, 0.6]] * 2).double(), GIVEN.frames(0, 2)
    mask, every = FrameMask(1), (1, 2, 3, 4)
    with torch.no_grad():
        made, _ = Guided(MODEL, Guidance(2.5, "newest", 0.7, "new")).x0(x_t, t, given, None, mask)
        conditional, unconditional = (MODEL.predict(x_t, t, c, None, mask)[0][:, 1:] for c in (given, given.null()))
    mixed = unconditional + 2.5 * (conditional - unconditional)
    ratio = conditional.std(every, keepdim=True) / mixed.std(every, keepdim=True)
    assert_near(made[:, 1:], FLOW.x0(x_t[:, 1:], 0.7 * mixed * ratio + 0.3 * mixed, t[:, 1:]))
    assert_near(made[:, :1], x_t[:, :1])


def test_noised_commits_are_drawn_once_and_shown_to_every_later_frame() -> None:
    """Vid2World's history: one noisy copy of a frame, from when it is finished on."""
    commit, recorder = Commit("noised", 0.04), Recorder(denoiser(Rerun(MODEL.network)))
    made = made_by(guided_plan(2.5, "newest", 0.7, commit=commit), recorder)
    commits = [call for call in recorder.calls if call.x0 is None]
    assert [call.start for call in commits] == list(range(FRAMES - 1))
    last = recorder.calls[-1].past.memory["x_t"][:BATCH]
    assert torch.equal(last, torch.cat([call.x_t for call in commits], 1))
    for call in commits:
        noise = noise_of((4, 9), torch.float64)(SHAPE, [call.start] * BATCH, 1, COMMIT_DRAW)
        assert_near(call.x_t, FLOW.add_noise(made[:, call.start : call.start + 1], noise, call.t))
        assert (call.t == 0.04).all()
