"""Nothing reaches back in time: a frame, an action or a level changes its own block and those behind it only."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from tests.networks.tiny import ATTENTIONS, Attention, condition, labels, other_action, tiny, videos
from wm_lightning.clip import Condition
from wm_lightning.networks.masks import FrameMask, TeacherForcingMask
from wm_lightning.networks.video_dit import VideoDiT

BATCH, FRAMES = 2, 7
DTYPES = [torch.float32, torch.float64]


@dataclass(frozen=True)
class Inputs:
    x_t: Tensor
    label: Tensor
    condition: Condition

    def call(self, network: VideoDiT, mask: FrameMask) -> Tensor:
        with torch.no_grad():
            prediction, _ = network(self.x_t, self.label, self.condition, None, mask=mask)
        return prediction


def inputs(dtype: torch.dtype, seed: int = 1) -> Inputs:
    return Inputs(
        videos(BATCH, FRAMES, seed=seed, dtype=dtype),
        labels(BATCH, FRAMES, seed=seed + 1, dtype=dtype),
        condition(BATCH, FRAMES, seed=seed + 2, dtype=dtype),
    )


def other_frame(given: Inputs, frame: int) -> Inputs:
    x_t = given.x_t.clone()
    x_t[:, frame] += 1
    return replace(given, x_t=x_t)


def other_level(given: Inputs, frame: int) -> Inputs:
    label = given.label.clone()
    label[:, frame] += 5
    return replace(given, label=label)


def other_action_of(given: Inputs, frame: int) -> Inputs:
    given_state = torch.zeros_like(given.condition.state)
    return replace(given, condition=replace(other_action(given.condition, frame), state=given_state))


CHANGES = [other_frame, other_level, other_action_of]


def block(frame: int, chunk: int) -> int:
    return 0 if frame == 0 else 1 + (frame - 1) // chunk


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_change_reaches_its_own_block_and_later_ones(
    attention: Attention, change: Callable[[Inputs, int], Inputs], chunk: int, dtype: torch.dtype
) -> None:
    network, given = tiny(attention, dtype=dtype), inputs(dtype)
    if change is other_action_of:  # every frame's action has to count, that of frame 0 and the dropped one too
        given = replace(given, condition=replace(given.condition, state=torch.zeros_like(given.condition.state)))
    before = given.call(network, FrameMask(chunk))
    for frame in (0, 2, 4, 6):
        after = change(given, frame).call(network, FrameMask(chunk))
        for other in range(FRAMES):
            same = torch.equal(after[:, other], before[:, other])
            assert same == (block(other, chunk) < block(frame, chunk)), (frame, other)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_bidirectional_frames_all_see_each_other(attention: Attention) -> None:
    network, given = tiny(attention), inputs(torch.float32)
    before = given.call(network, FrameMask(None))
    after = other_frame(given, 6).call(network, FrameMask(None))
    assert all(not torch.equal(after[:, frame], before[:, frame]) for frame in range(FRAMES))


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_window_hides_what_lies_before_it(attention: Attention) -> None:
    """Depth 2 reaches back two windows of frames at most; a sink is seen from everywhere."""
    network, given = tiny(attention), inputs(torch.float32)
    for sink in (0, 1):
        mask = FrameMask(1, window=2, sink=sink)
        before, after = given.call(network, mask), other_frame(given, 0).call(network, mask)
        changed = [not torch.equal(after[:, frame], before[:, frame]) for frame in range(FRAMES)]
        assert changed == [True] * 3 + [sink == 1] * 4


def teacher_forced(network: VideoDiT, clean: Inputs, noisy: Inputs, chunk: int) -> Tensor:
    with torch.no_grad():
        _, past = network(clean.x_t, clean.label, clean.condition, None, mask=FrameMask(chunk), memory_only=True)
        prediction, _ = network(noisy.x_t, noisy.label, noisy.condition, past, mask=TeacherForcingMask(chunk))
    return prediction


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_teacher_forcing_sees_clean_blocks_before_its_own_only(attention: Attention, chunk: int) -> None:
    network, clean, noisy = tiny(attention), inputs(torch.float32, seed=1), inputs(torch.float32, seed=11)
    before = teacher_forced(network, clean, noisy, chunk)
    for frame in range(FRAMES):
        clean_changed = teacher_forced(network, other_frame(clean, frame), noisy, chunk)
        noisy_changed = teacher_forced(network, clean, other_frame(noisy, frame), chunk)
        for other in range(FRAMES):
            unaffected = torch.equal(clean_changed[:, other], before[:, other])
            assert unaffected == (block(other, chunk) <= block(frame, chunk)), (frame, other)
            unaffected = torch.equal(noisy_changed[:, other], before[:, other])
            assert unaffected == (block(other, chunk) != block(frame, chunk)), (frame, other)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_teacher_forcing_trains_what_a_rollout_computes(attention: Attention, chunk: int, dtype: torch.dtype) -> None:
    """One pass over [clean | noisy] gives, block by block, the prediction behind a clean cache."""
    network, clean, noisy = tiny(attention, dtype=dtype), inputs(dtype, seed=1), inputs(dtype, seed=11)
    forced = teacher_forced(network, clean, noisy, chunk)
    past = None
    for start in [0, *range(1, FRAMES, chunk)]:
        stop = start + (chunk if start else 1)
        part = slice(start, stop)
        with torch.no_grad():
            own = noisy.x_t[:, part], noisy.label[:, part], noisy.condition.frames(start, stop)
            prediction, _ = network(*own, past, mask=FrameMask(chunk))
            own = clean.x_t[:, part], clean.label[:, part], clean.condition.frames(start, stop)
            _, past = network(*own, past, mask=FrameMask(chunk), memory_only=True)
        tolerance = 1e-5 if dtype == torch.float32 else 1e-12
        torch.testing.assert_close(prediction, forced[:, part], atol=tolerance, rtol=0)
