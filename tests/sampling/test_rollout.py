"""The chunk loop: causal, the same however it is driven, for any batch, length and chunk."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.networks.tiny import (
    ATTENTIONS,
    SHAPE,
    Attention,
    assert_same_state,
    clones,
    condition,
    other_action,
    tiny,
    videos,
)
from tests.sampling.recording import COMMITS, DDIM, FEW_STEP, FLOW, Recorder, commit_name, denoiser, noise_of, plan
from wm_lightning.clip import Condition
from wm_lightning.networks.masks import FrameMask
from wm_lightning.networks.state import empty_state
from wm_lightning.sampling.rollout import Commit, Plan, SeededNoise, iter_chunks, next_chunk, remember_context, rollout

BATCH, FRAMES = 2, 6
NOISE = noise_of((4, 9), torch.float32)
GIVEN = condition(BATCH, FRAMES, seed=3)
CONTEXT = videos(BATCH, 1, seed=1)


def run(plan_: Plan, given: Condition = GIVEN, context: Tensor = CONTEXT, attention: Attention = "joint") -> Tensor:
    return rollout(denoiser(tiny(attention)), FEW_STEP, context, given, plan_, NOISE)


@pytest.mark.parametrize(("chunk", "window", "sink"), [(1, None, 0), (3, None, 0), (1, 3, 1), (3, 4, 0)])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_an_action_changes_its_own_chunk_and_later_frames_only(
    attention: Attention, chunk: int, window: int | None, sink: int
) -> None:
    setting = plan(chunk, window=window, sink=sink)
    before = run(setting, attention=attention)
    for frame in (2, 5):
        after = run(setting, other_action(GIVEN, frame), attention=attention)
        first = 1 + (frame - 1) // chunk * chunk
        assert torch.equal(after[:, :first], before[:, :first])
        assert all(not torch.equal(after[:, f], before[:, f]) for f in range(first, FRAMES))


@pytest.mark.parametrize("commit", COMMITS, ids=commit_name)
@pytest.mark.parametrize(("chunk", "frames"), [(1, 4), (3, 6), (4, 6)])
def test_driving_chunk_by_chunk_is_the_same_rollout(chunk: int, frames: int, commit: Commit) -> None:
    setting, model = plan(chunk, commit=commit, window=5), denoiser(tiny("joint"))
    asked: list[int] = []

    def conditions() -> Iterator[Condition]:
        for start in range(1, frames, chunk):
            asked.append(start)
            yield GIVEN.frames(start, min(start + chunk, frames))

    with torch.no_grad():
        past = remember_context(model, CONTEXT, GIVEN, setting, NOISE)
        before = clones(past)
        made = [CONTEXT]
        for chunk_ in iter_chunks(model, FEW_STEP, past, conditions(), setting, NOISE, shape=SHAPE):
            assert len(asked) == len(made), "an action exists only when it is chosen"
            made.append(chunk_.frames)
    assert_same_state(past, before)
    assert torch.equal(torch.cat(made, dim=1), run(setting, GIVEN.frames(0, frames)))


def test_a_prefix_of_the_condition_makes_a_prefix_of_the_video() -> None:
    assert torch.equal(run(plan(1), GIVEN.frames(0, 4)), run(plan(1))[:, :4])
    # A chunk sees its own frames both ways, so only whole chunks are a prefix; the shorter last one is legal.
    whole, cut = run(plan(2)), run(plan(2), GIVEN.frames(0, 4))
    assert torch.equal(cut[:, :3], whole[:, :3]) and not torch.equal(cut[:, 3], whole[:, 3])
    assert cut.shape[1] == 4 and whole.shape[1] == FRAMES
    assert torch.equal(run(plan(2), GIVEN.frames(0, 1)), CONTEXT)


def test_chunk_and_mask_are_independent() -> None:
    """A framewise mask inside a chunk of 3 is no chunkwise mask, and equals it when chunks have one frame."""
    framewise, chunkwise = run(plan(3, mask=FrameMask(1))), run(plan(3, mask=FrameMask(3)))
    assert (framewise - chunkwise)[:, 1].abs().max() > 1e-3
    assert torch.equal(run(plan(1, mask=FrameMask(1))), run(plan(1, mask=FrameMask(3))))


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_batch_composition_changes_no_sample(attention: Attention) -> None:
    dtype = torch.float64
    model, setting = denoiser(tiny(attention, dtype=dtype)), plan(3, commit=COMMITS[1], window=5)
    given, context = condition(3, FRAMES, seed=3, dtype=dtype), videos(3, 1, seed=1, dtype=dtype)
    together = rollout(model, FEW_STEP, context, given, setting, noise_of((7, 8, 9), dtype))
    for row in range(3):
        part = slice(row, row + 1)
        alone = rollout(model, FEW_STEP, context[part], given[part], setting, noise_of((7 + row,), dtype))
        torch.testing.assert_close(alone, together[part], atol=1e-10, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(("window", "sink"), [(None, 0), (3, 0), (4, 1)])
def test_a_reset_slot_starts_its_video_anew(window: int | None, sink: int) -> None:
    dtype = torch.float64
    model, setting = denoiser(tiny("factorised", dtype=dtype)), plan(1, window=window, sink=sink)
    conditions = [condition(BATCH, 1, seed=seed, dtype=dtype) for seed in range(9)]
    noise = noise_of((4, 9), dtype)
    used = remember_context(model, videos(BATCH, 1, seed=1, dtype=dtype), conditions[0], setting, noise)
    for chunk in iter_chunks(model, FEW_STEP, used, conditions[1:5], setting, noise, shape=SHAPE):
        assert chunk.past is not None
        used = chunk.past
    broken = iter_chunks(
        model, FEW_STEP, used.reset(torch.tensor([False, True])), conditions[5:], setting, noise, shape=SHAPE
    )
    on = iter_chunks(model, FEW_STEP, used, conditions[5:], setting, noise, shape=SHAPE)
    fresh = iter_chunks(model, FEW_STEP, empty_state(BATCH), conditions[5:], setting, noise, shape=SHAPE)
    for one, unbroken, new in zip(broken, on, fresh, strict=True):
        torch.testing.assert_close(one.frames[0], unbroken.frames[0], atol=1e-10, rtol=0)
        torch.testing.assert_close(one.frames[1], new.frames[1], atol=1e-10, rtol=0)
        assert (one.frames[1] - unbroken.frames[1]).abs().max() > 1e-2


def test_a_context_longer_than_the_window_is_its_last_frames() -> None:
    context, given = videos(BATCH, 5, seed=1), condition(BATCH, 8, seed=3)
    model, setting = denoiser(tiny("joint")), plan(1, commit=COMMITS[1], window=3)
    past = remember_context(model, context, given, setting, NOISE)
    assert past.length == 3 and past.frame.tolist() == [5, 5]
    whole = rollout(model, FEW_STEP, context, given, setting, NOISE)
    longer = context.clone()
    longer[:, :2] += 1
    assert torch.equal(rollout(model, FEW_STEP, longer, given, setting, NOISE)[:, 5:], whole[:, 5:])
    assert whole.shape[1] == 8


def test_the_record_holds_every_pass() -> None:
    model = Recorder(denoiser(tiny("joint")))
    past = remember_context(model, CONTEXT, GIVEN, plan(3), NOISE)
    chunk = next_chunk(model, DDIM, past, GIVEN.frames(1, 4), plan(3), NOISE, shape=SHAPE, record=True, keep=False)
    assert chunk.past is None and len(model.calls) == 1 + len(chunk.record)
    for trace, call in zip(chunk.record, model.passes(), strict=True):
        assert trace.x_t is call.x_t and trace.t is call.t and trace.x0 is call.x0
    assert torch.equal(chunk.record[0].x_t, NOISE(SHAPE, [1, 1], 3, 0))
    assert [trace.t[0, 0].item() for trace in chunk.record] == DDIM.steps.times(FLOW)[:-1].tolist()


def test_noise_belongs_to_sample_frame_and_step() -> None:
    noise = SeededNoise(3, "test", (4, 9))
    block = noise(SHAPE, [2, 2], 3, 1)
    assert torch.equal(noise(SHAPE, [3, 3], 1, 1)[:, 0], block[:, 1])
    assert torch.equal(SeededNoise(3, "test", (9,))(SHAPE, [2], 3, 1)[0], block[1])
    slots_apart = noise(SHAPE, [2, 7], 3, 1)
    assert torch.equal(slots_apart[0], block[0])
    assert torch.equal(slots_apart[1], SeededNoise(3, "test", (9,))(SHAPE, [7], 3, 1)[0])
    others = [noise(SHAPE, [2, 2], 3, 2), SeededNoise(4, "test", (4, 9))(SHAPE, [2, 2], 3, 1)]
    others.append(SeededNoise(3, "other", (4, 9))(SHAPE, [2, 2], 3, 1))
    assert not any(torch.equal(other, block) for other in others)
    assert len(block.unique()) == block.numel()
    many = SeededNoise(3, "test", tuple(range(50)))(SHAPE, [0] * 50, 10, 0)
    assert many.mean().abs() < 0.02 and (many.std() - 1).abs() < 0.02


def test_impossible_plans_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        plan(0)
    with pytest.raises(ValueError, match="rollout.window to at least 4"):
        plan(3, window=3, sink=1)
    with pytest.raises(ValueError, match="frames 0..5 asked for, 3 are there"):
        rollout(denoiser(tiny("joint")), FEW_STEP, videos(BATCH, 6, seed=0), GIVEN.frames(0, 3), plan(1), NOISE)
