"""Remembering changes cost, never results: cached, full and by-definition forwards agree."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from tests.networks.tiny import (
    ATTENTIONS,
    Attention,
    assert_same_state,
    by_definition,
    chunks_of,
    clones,
    condition,
    labels,
    tiny,
    videos,
)
from wm_lightning.clip import Condition
from wm_lightning.networks.masks import FrameMask
from wm_lightning.networks.state import State, empty_state, evict
from wm_lightning.networks.video_dit import VideoDiT

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
DTYPES = list(TOLERANCE)
BATCH = 2


def inputs(frames: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Condition]:
    return (
        videos(BATCH, frames, seed=1, dtype=dtype),
        labels(BATCH, frames, seed=2, dtype=dtype),
        condition(BATCH, frames, seed=3, dtype=dtype),
    )


@torch.no_grad()
def rolled(
    network: VideoDiT, frames: int, chunks: Sequence[range], mask: FrameMask, window: int | None, sink: int
) -> Tensor:
    """Predictions of chunk after chunk behind a rolling state."""
    dtype = network.embed.weight.dtype
    x_t, label, given = inputs(frames, dtype)
    state, made = empty_state(BATCH), []
    for chunk in chunks:
        state = evict(state, window=window, sink=sink, incoming=len(chunk))
        part = x_t[:, chunk], label[:, chunk], given.frames(chunk.start, chunk.stop)
        prediction, state = network(*part, state, mask=mask)
        made.append(prediction)
    return torch.cat(made, dim=1)


def assert_near(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=TOLERANCE[actual.dtype], rtol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_cached_equals_full_forward(attention: Attention, chunk: int, dtype: torch.dtype) -> None:
    network, frames = tiny(attention, dtype=dtype), 9  # the last chunk of 3 is one of 2
    cached = rolled(network, frames, chunks_of(frames, 1, chunk), FrameMask(chunk), None, 0)
    with torch.no_grad():
        full, _ = network(*inputs(frames, dtype), mask=FrameMask(chunk))
    assert full.std() > 0.1, "a network that says nothing proves nothing"
    assert_near(cached, full)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("chunk", "window"), [(1, 2), (1, 4), (3, 4), (3, 5)])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_evicted_cache_equals_full_forward_with_banded_mask(
    attention: Attention, chunk: int, window: int, dtype: torch.dtype
) -> None:
    network, frames = tiny(attention, dtype=dtype), 9
    cached = rolled(network, frames, chunks_of(frames, 1, chunk), FrameMask(chunk), window, 0)
    with torch.no_grad():
        banded, _ = network(*inputs(frames, dtype), mask=FrameMask(chunk, window=window))
        full, _ = network(*inputs(frames, dtype), mask=FrameMask(chunk))
    assert_near(cached, banded)
    assert (banded - full)[:, -1].abs().max() > 1e-2, "the window hides nothing that matters"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("chunk", "window", "sink", "framewise"), [(1, 4, 1, True), (3, 5, 1, False), (3, 6, 2, True)])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_sinks_equal_attention_by_definition(
    attention: Attention, chunk: int, window: int, sink: int, framewise: bool, dtype: torch.dtype
) -> None:
    network, frames = tiny(attention, dtype=dtype), 10
    chunks = chunks_of(frames, 2, chunk)
    cached = rolled(network, frames, chunks, FrameMask(1 if framewise else chunk), window, sink)
    # The context comes in one pass, whose first frame is a block of its own whatever the mask.
    parts = chunks if framewise else [range(1), range(1, 2), *chunks[1:]]
    with torch.no_grad():
        expected, without = (
            by_definition(network, *inputs(frames, dtype), parts, framewise=framewise, window=window, sink=s)
            for s in (sink, 0)
        )
    assert_near(cached, expected)
    assert (expected - without)[:, -1].abs().max() > 1e-2, "the sinks do not matter here"


@pytest.mark.parametrize(("chunk", "window"), [(1, None), (3, None), (1, 3), (3, 4)])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_window_relative_positions_equal_absolute_ones_without_sinks(
    attention: Attention, chunk: int, window: int | None
) -> None:
    network, frames = tiny(attention), 9
    chunks = chunks_of(frames, 1, chunk)
    cached = rolled(network, frames, chunks, FrameMask(chunk), window, 0)
    given = inputs(frames, torch.float32)
    with torch.no_grad():
        absolute = by_definition(network, *given, chunks, framewise=chunk == 1, window=window, absolute=True)
    assert_near(cached, absolute)


def test_sinks_are_moved_next_to_the_window() -> None:
    """With sinks, positions in the memory and in the video are different functions; the project uses the first."""
    network, frames = tiny("joint"), 9
    chunks = chunks_of(frames, 1, 1)
    given = inputs(frames, torch.float32)
    with torch.no_grad():
        relative, absolute = (
            by_definition(network, *given, chunks, framewise=True, window=3, sink=1, absolute=a) for a in (False, True)
        )
    assert (relative - absolute)[:, -1].abs().max() > 1e-2
    assert_near(rolled(network, frames, chunks, FrameMask(1), 3, 1), relative)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_call_never_alters_its_past_and_appends_its_own_frames(attention: Attention) -> None:
    network = tiny(attention)
    x_t, label, given = inputs(7, torch.float32)
    with torch.no_grad():
        _, past = network(x_t[:, :4], label[:, :4], given.frames(0, 4), None, mask=FrameMask(1))
    past = past.reset(torch.tensor([True, False]))
    before = clones(past)
    for memory_only in (False, True):
        rest = (x_t[:, 4:], label[:, 4:], given.frames(4, 7), past)
        _, after = network(*rest, mask=FrameMask(3), memory_only=memory_only)
        assert_same_state(past, before)
        assert after.length == past.length + 3
        assert after.frame.tolist() == [3, 7]
        assert all(torch.equal(value[:, :4], before.memory[name]) for name, value in after.memory.items())
        assert not any(value.requires_grad for value in after.memory.values())


@pytest.mark.parametrize("history", ["empty", "past"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_memory_only_gives_the_state_of_a_full_call(attention: Attention, history: str) -> None:
    network = tiny(attention, dtype=torch.float64)
    x_t, label, given = inputs(7, torch.float64)
    past = None
    with torch.no_grad():
        if history == "past":
            _, past = network(x_t[:, :4], label[:, :4], given.frames(0, 4), None, mask=FrameMask(1))
        rest = (x_t[:, 4:], label[:, 4:], given.frames(4, 7), past)
        nothing, only = network(*rest, mask=FrameMask(3), memory_only=True)
        prediction, whole = network(*rest, mask=FrameMask(3))
    assert nothing is None and prediction is not None
    assert only.memory.keys() == whole.memory.keys()
    for name, value in whole.memory.items():
        torch.testing.assert_close(only.memory[name], value, atol=1e-12, rtol=0)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_gradient_checkpointing_changes_no_gradient(attention: Attention) -> None:
    x_t, label, given = inputs(7, torch.float64)
    gradients = []
    for checkpointing in (False, True):
        network = tiny(attention, dtype=torch.float64, gradient_checkpointing=checkpointing)
        _, past = network(x_t[:, :4], label[:, :4], given.frames(0, 4), None, mask=FrameMask(3))
        prediction, after = network(x_t[:, 4:], label[:, 4:], given.frames(4, 7), past, mask=FrameMask(3))
        # Between forward and backward a rollout commits: nothing saved for the backward pass may be touched by it.
        kept = evict(after, window=4, sink=0, incoming=3)
        network(x_t[:, 4:], label[:, 4:], given.frames(4, 7), kept, mask=FrameMask(3))
        prediction.square().mean().backward()
        gradients.append({name: p.grad for name, p in network.named_parameters()})
    # No frame with gradient is the first of an episode or has lost its action, so those vectors have none.
    still = {name for name, gradient in gradients[0].items() if gradient is None or not gradient.any()}
    assert still == {"action.none", "action.dropped"}
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-12, rtol=1e-9, msg=name)


def continued(
    network: VideoDiT, past: State, steps: Sequence[int], mask: FrameMask, window: int | None, sink: int
) -> tuple[Tensor, State]:
    """Predictions of further one-frame calls with inputs that depend on their number only."""
    made = []
    for step in steps:
        past = evict(past, window=window, sink=sink, incoming=1)
        x_t = videos(BATCH, 1, seed=50 + step, dtype=torch.float64)
        label = labels(BATCH, 1, seed=80 + step, dtype=torch.float64)
        prediction, past = network(x_t, label, condition(BATCH, 1, seed=9, dtype=torch.float64), past, mask=mask)
        made.append(prediction)
    return torch.cat(made, dim=1), past


@torch.no_grad()
@pytest.mark.parametrize(("window", "sink"), [(None, 0), (4, 0), (4, 1), (5, 2)])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_reset_slot_is_a_fresh_one_and_the_others_go_on(attention: Attention, window: int | None, sink: int) -> None:
    network, mask = tiny(attention, dtype=torch.float64), FrameMask(1)
    _, used = continued(network, empty_state(BATCH), range(6), mask, window, sink)
    again, after = continued(network, used.reset(torch.tensor([False, True])), range(6, 14), mask, window, sink)
    unbroken, _ = continued(network, used, range(6, 14), mask, window, sink)
    fresh, _ = continued(network, empty_state(BATCH), range(6, 14), mask, window, sink)
    torch.testing.assert_close(again[0], unbroken[0], atol=1e-12, rtol=0)
    torch.testing.assert_close(again[1], fresh[1], atol=1e-12, rtol=0)
    assert (fresh[1] - unbroken[1]).abs().max() > 1e-2
    assert after.frame.tolist() == [14, 8]


def test_eviction_keeps_sinks_and_newest() -> None:
    numbers = torch.arange(7.0)[None, :, None].expand(2, -1, -1)
    state = State({"k": numbers}, torch.tensor([7, 7]))
    assert evict(state, window=None, sink=3, incoming=9) is state
    assert evict(state, window=8, sink=1, incoming=1) is state
    assert evict(state, window=5, sink=1, incoming=1).memory["k"][0, :, 0].tolist() == [0, 4, 5, 6]
    assert evict(state, window=5, sink=0, incoming=3).memory["k"][0, :, 0].tolist() == [5, 6]
    assert evict(state, window=5, sink=2, incoming=3).memory["k"][0, :, 0].tolist() == [0, 1]
    assert evict(state, window=3, sink=0, incoming=3).length == 0
    assert evict(state, window=5, sink=1, incoming=1).frame.tolist() == [7, 7]
    with pytest.raises(ValueError, match="window of 3 frames cannot hold 1 sink"):
        evict(state, window=3, sink=1, incoming=3)


def test_subset_takes_one_branch() -> None:
    valid = torch.tensor([[True, False]])
    state = State({"a/k": torch.zeros(1, 2), "b/k": torch.ones(1, 2)}, torch.tensor([2]), valid)
    assert_same_state(state.subset("b/"), State({"k": torch.ones(1, 2)}, torch.tensor([2]), valid))
    assert empty_state(3).subset("a/").length == 0
