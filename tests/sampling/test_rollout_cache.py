"""Rollouts with a cache equal rollouts that run everything again, and full forwards over what was committed."""

import pytest
import torch
from torch import Tensor

from tests.networks.tiny import ATTENTIONS, Attention, by_definition, chunks_of, condition, tiny, videos
from tests.sampling.recording import (
    COMMITS,
    DDIM,
    DIFFUSION,
    FEW_STEP,
    FLOW,
    STEPS,
    Call,
    Recorder,
    commit_name,
    denoiser,
    noise_of,
    plan,
)
from wm_lightning.clip import Condition
from wm_lightning.networks.masks import FrameMask
from wm_lightning.networks.rerun import Rerun
from wm_lightning.networks.video_dit import VideoDiT
from wm_lightning.noising import GaussianPath
from wm_lightning.sampling.rollout import Commit, rollout
from wm_lightning.sampling.samplers import PyramidSampler, Sampler

BATCH, FRAMES = 2, 6  # one given, then single frames, or a chunk of 3 and a shorter one of 2
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("commit", COMMITS, ids=commit_name)
@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_cached_rollout_equals_rerunning_everything(
    attention: Attention, chunk: int, commit: Commit, dtype: torch.dtype
) -> None:
    frames = 4 if chunk == 1 else FRAMES
    network, given = tiny(attention, dtype=dtype), condition(BATCH, frames, seed=3, dtype=dtype)
    context = videos(BATCH, 1, seed=1, dtype=dtype)
    cached, again = (
        rollout(denoiser(n), FEW_STEP, context, given, plan(chunk, commit=commit), noise_of((4, 9), dtype))
        for n in (network, Rerun(network))
    )
    assert cached.shape[1] == frames and cached[:, 1:].std() > 0.1
    torch.testing.assert_close(cached, again, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("path", [FLOW, DIFFUSION], ids=["flow", "diffusion"])
@pytest.mark.parametrize("sampler", [DDIM, PyramidSampler(DDIM)], ids=["ddim", "pyramid"])
def test_every_sampler_and_path_agrees_with_rerunning(sampler: Sampler, path: GaussianPath) -> None:
    network, dtype = tiny("joint", dtype=torch.float64), torch.float64
    given, context = condition(BATCH, FRAMES, seed=3, dtype=dtype), videos(BATCH, 2, seed=1, dtype=dtype)
    setting = plan(3, commit=Commit("scaled", 0.015), mask=FrameMask(1))
    cached, again = (
        rollout(denoiser(n, path), sampler, context, given, setting, noise_of((4, 9), dtype))
        for n in (network, Rerun(network))
    )
    torch.testing.assert_close(cached, again, atol=1e-9, rtol=0)


def test_a_window_in_the_mask_holds_for_reruns_too() -> None:
    network, given = tiny("joint", dtype=torch.float64), condition(BATCH, FRAMES, seed=3, dtype=torch.float64)
    setting = plan(1, mask=FrameMask(1, window=2, sink=1))
    cached, again, open_ = (
        rollout(denoiser(n), FEW_STEP, videos(BATCH, 1, seed=1).double(), given, p, noise_of((4, 9), torch.float64))
        for n, p in ((network, setting), (Rerun(network), setting), (network, plan(1)))
    )
    torch.testing.assert_close(cached, again, atol=1e-9, rtol=0)
    assert (cached - open_)[:, -1].abs().max() > 1e-3


def full_inputs(recorder: Recorder, call: Call) -> tuple[Tensor, Tensor]:
    """What a full forward is shown for one pass: all that was committed before it, and its own input."""
    before = [kept for start, kept in sorted(recorder.committed().items()) if start < call.start]
    return torch.cat([c.x_t for c in (*before, call)], 1), torch.cat([c.t for c in (*before, call)], 1)


def recorded(
    network: VideoDiT, chunk: int, commit: Commit, window: int | None, sink: int, dtype: torch.dtype
) -> tuple[Recorder, Condition]:
    recorder, given = Recorder(denoiser(network)), condition(BATCH, FRAMES, seed=3, dtype=dtype)
    setting = plan(chunk, commit=commit, window=window, sink=sink)
    rollout(recorder, FEW_STEP, videos(BATCH, 1, seed=1, dtype=dtype), given, setting, noise_of((4, 9), dtype))
    return recorder, given


@pytest.mark.parametrize("commit", COMMITS, ids=commit_name)
@pytest.mark.parametrize(("chunk", "window"), [(3, None), (1, 3), (3, 4)])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_every_pass_equals_a_full_forward_over_the_committed_inputs(
    attention: Attention, chunk: int, window: int | None, commit: Commit
) -> None:
    """With "last" the history inputs are the stored x_t with their own times; a window is a band."""
    network = tiny(attention, dtype=torch.float64)
    recorder, given = recorded(network, chunk, commit, window, 0, torch.float64)
    for call in recorder.passes():
        x_t, t = full_inputs(recorder, call)
        with torch.no_grad():
            prediction, _ = network(
                x_t, FLOW.label(t), given.frames(0, x_t.shape[1]), None, mask=FrameMask(chunk, window=window)
            )
        expected = FLOW.x0(x_t, prediction, t)[:, call.start :]
        assert call.x0 is not None
        torch.testing.assert_close(call.x0, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize(("chunk", "window", "sink"), [(1, 3, 1), (3, 5, 1)])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_with_sinks_every_pass_equals_attention_by_definition(
    attention: Attention, chunk: int, window: int, sink: int
) -> None:
    network = tiny(attention, dtype=torch.float64)
    recorder, given = recorded(network, chunk, COMMITS[0], window, sink, torch.float64)
    for call in recorder.passes():
        x_t, t = full_inputs(recorder, call)
        frames = x_t.shape[1]
        with torch.no_grad():
            prediction = by_definition(
                network, x_t, FLOW.label(t), given.frames(0, frames), chunks_of(frames, 1, chunk),
                framewise=chunk == 1, window=window, sink=sink,
            )  # fmt: skip
        assert call.x0 is not None
        torch.testing.assert_close(call.x0, FLOW.x0(x_t, prediction, t)[:, call.start :], atol=1e-9, rtol=0)


@pytest.mark.parametrize("commit", COMMITS, ids=commit_name)
def test_committed_inputs_are_what_the_mode_says(commit: Commit) -> None:
    """Every frame enters the memory once, with noise of its own where noise is asked for."""
    dtype = torch.float64
    network = tiny("joint", dtype=dtype)
    recorder, _ = recorded(network, 3, commit, None, 0, dtype)
    made = {call.start: call.x0 for call in recorder.passes()}  # the few-step sampler ends on the last x0
    for start, kept in recorder.committed().items():
        x0 = videos(BATCH, 1, seed=1, dtype=dtype) if start == 0 else made[start]
        assert x0 is not None
        if start == 4:
            continue  # the last chunk is not committed
        if commit.mode == "last":
            level = 0.0 if start == 0 else FEW_STEP.levels(FLOW, 1)[-2].item()
            assert torch.allclose(kept.t, torch.full_like(kept.t, level))
            continue
        noise = noise_of((4, 9), dtype)(tuple(x0.shape[2:]), [start] * 2, x0.shape[1], 10_000)
        factor = {"clean": (1.0, 0.0), "noised": (0.9, 0.1), "scaled": (0.9, 0.0)}[commit.mode]
        torch.testing.assert_close(kept.x_t, factor[0] * x0 + factor[1] * noise, atol=1e-12, rtol=0)
        assert torch.equal(kept.t, torch.full_like(kept.t, commit.t))
    # Every chunk but the last is committed, and so is the context; "last" spends a pass on the context only.
    assert len(recorder.passes()) == STEPS * 2
    assert len(recorder.calls) == STEPS * 2 + (1 if commit.mode == "last" else 2)


@pytest.mark.parametrize(("chunk", "window", "sink"), [(1, 2, 0), (3, 4, 0), (3, 4, 1), (1, 4, 2)])
def test_no_pass_exceeds_its_window_and_all_of_a_chunk_see_the_same_past(chunk: int, window: int, sink: int) -> None:
    recorder, _ = recorded(tiny("joint"), chunk, COMMITS[0], window, sink, torch.float32)
    full = 0
    for call in recorder.calls:
        mask = FrameMask(chunk)
        queries, keys = mask.positions(call.past.length, call.x_t.shape[1])
        assert keys.tolist() == list(range(len(keys))) and len(keys) <= window
        assert queries.tolist() == keys.tolist()[-len(queries) :]
        full += len(keys) == window
        pasts = [other.past for other in recorder.calls if other.start == call.start]
        assert all(past.memory.keys() == call.past.memory.keys() for past in pasts)
        assert all(past.memory[name] is call.past.memory[name] for past in pasts for name in past.memory)
    assert full
