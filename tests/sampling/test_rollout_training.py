"""The training rollout is the inference rollout, and its gradient goes where the algorithm says."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.networks.tiny import ATTENTIONS, Attention, condition, randn, tiny, videos
from tests.sampling.recording import COMMITS, Recorder, commit_name, denoiser, noise_of, plan
from wm_lightning.networks.rerun import Rerun
from wm_lightning.networks.video_dit import VideoDiT
from wm_lightning.sampling.rollout import Commit, rollout
from wm_lightning.sampling.samplers import DDIMSampler, FewStepSampler, Sampler, StepList

BATCH, FRAMES, CHUNK = 2, 8, 3  # one given, two chunks and a shorter one
CHUNKS = STEPS = 3
FEW_STEP = FewStepSampler(StepList(kind="matched", steps=STEPS, shift=2.0))
DDIM = DDIMSampler(StepList(kind="uniform", steps=STEPS), eta=0.0)


def run(
    model: Any, commit: Commit, exits: Sequence[int] | None, *, grad_from: int = 0, sampler: Sampler = FEW_STEP,
    noise: Any = None, context: Tensor | None = None, dtype: torch.dtype = torch.float64,
) -> Tensor:  # fmt: skip
    first = videos(BATCH, 1, seed=1, dtype=dtype) if context is None else context
    return rollout(
        model, sampler, first, condition(BATCH, FRAMES, seed=3, dtype=dtype), plan(CHUNK, commit=commit, window=5),
        noise_of((4, 9), dtype) if noise is None else noise, exits=exits, grad_from=grad_from,
    )  # fmt: skip


def gradients(network: VideoDiT, loss: Tensor) -> dict[str, Tensor | None]:
    network.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad for name, p in network.named_parameters()}


def score(frames: Tensor, start: int) -> Tensor:
    """A loss in which every number of every frame counts differently, wherever in the video it stands."""
    weight = randn(BATCH, FRAMES, *frames.shape[2:], seed=8, dtype=frames.dtype)
    return (weight[:, start : start + frames.shape[1]] * frames.square()).mean((0, 2, 3, 4)).sum()


@pytest.mark.parametrize(("attention", "sampler"), [("joint", FEW_STEP), ("factorised", DDIM)])
@pytest.mark.parametrize("commit", COMMITS, ids=commit_name)
def test_leaving_at_the_last_step_is_the_inference_rollout_bit_for_bit(
    attention: Attention, commit: Commit, sampler: Sampler
) -> None:
    model = denoiser(tiny(attention))
    training = run(model, commit, [STEPS - 1] * CHUNKS, sampler=sampler, dtype=torch.float32)
    with torch.no_grad():
        inference = run(model, commit, None, sampler=sampler, dtype=torch.float32)
    assert training.requires_grad and not inference.requires_grad
    assert torch.equal(training, inference)


@pytest.mark.parametrize("commit", COMMITS, ids=commit_name)
def test_a_chunk_that_stops_early_is_remembered_as_inference_remembers_one(commit: Commit) -> None:
    """Same input level and label of every committed chunk, whatever step the training left at."""

    def labels(exits: Sequence[int] | None) -> dict[int, list[float]]:
        recorder = Recorder(denoiser(tiny("joint", dtype=torch.float64)))
        with torch.no_grad():
            run(recorder, commit, exits)
        return {start: call.t[0].tolist() for start, call in recorder.committed().items() if start < 7}

    for exits in ((0, 0, 0), (1, 0, 2), (2, 1, 0)):
        assert labels(exits) == labels(None)


@pytest.mark.parametrize("cached", [True, False], ids=["cached_checkpointing", "rerun"])
@pytest.mark.parametrize("commit", COMMITS, ids=commit_name)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_gradient_is_that_of_the_exit_passes_with_frozen_past(
    attention: Attention, commit: Commit, cached: bool
) -> None:
    exits = (1, 0, 2)
    network = tiny(attention, dtype=torch.float64, gradient_checkpointing=cached)
    model = denoiser(network if cached else Rerun(network))
    made = run(model, commit, exits)
    found = gradients(network, score(made, 0))

    with torch.no_grad():
        recorder = Recorder(model)
        run(recorder, commit, exits)
    loss = torch.zeros((), dtype=torch.float64)
    for index, exit_step in enumerate(exits):
        start = 1 + index * CHUNK
        call = [c for c in recorder.passes() if c.start == start][exit_step]
        x0, _ = model.x0(call.x_t, call.t, call.condition, call.past, plan(CHUNK).mask)
        loss = loss + score(x0, start)
    for name, expected in gradients(network, loss).items():
        torch.testing.assert_close(found[name], expected, atol=1e-12, rtol=1e-9, msg=name)
    assert sum(g is not None and bool(g.abs().sum() > 0) for g in found.values()) > 30


@pytest.mark.parametrize("commit", COMMITS, ids=commit_name)
def test_no_gradient_crosses_chunks(commit: Commit) -> None:
    """Of all that was given or drawn, a chunk's gradient reaches the noise its exit pass starts from, if any."""
    leaves: dict[tuple[int, int], Tensor] = {}
    source = noise_of((4, 9), torch.float64)

    def noise(shape: tuple[int, ...], first: Sequence[int], frames: int, step: int) -> Tensor:
        return leaves.setdefault((first[0], step), source(shape, first, frames, step).requires_grad_())

    context = leaves[0, 0] = videos(BATCH, 1, seed=1, dtype=torch.float64).requires_grad_()
    made = run(denoiser(tiny("joint", dtype=torch.float64)), commit, (0, 2, 0), noise=noise, context=context)
    for start, exit_step in ((1, 0), (4, 2), (7, 0)):
        loss = made[:, start : start + CHUNK].square().sum()
        found = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True, allow_unused=True)
        reached = [place for place, g in zip(leaves, found, strict=True) if g is not None and g.any()]
        assert reached == ([(start, 0)] if exit_step == 0 else [])


@pytest.mark.parametrize(("grad_from", "free"), [(0, [1, 4, 7]), (3, [1, 4, 7]), (4, [4, 7]), (7, [7]), (8, [])])
def test_chunks_that_end_before_grad_from_carry_no_gradient(grad_from: int, free: list[int]) -> None:
    network = tiny("factorised", dtype=torch.float64)
    made = run(denoiser(network), COMMITS[0], (1, 0, 2), grad_from=grad_from)
    assert torch.equal(made, run(denoiser(network), COMMITS[0], (1, 0, 2)))
    assert made.requires_grad == bool(free)
    for start in (1, 4, 7) if free else ():
        weights = list(network.parameters())
        loss = made[:, start : start + CHUNK].square().sum()
        found = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
        assert any(g is not None and bool(g.any()) for g in found) == (start in free)


@pytest.mark.parametrize("commit", COMMITS, ids=commit_name)
def test_without_gradient_there_is_no_graph(commit: Commit) -> None:
    """Neither under no_grad, nor with gradients on when no exit is asked for; and the memory never has one."""
    network = tiny("joint", dtype=torch.float64, gradient_checkpointing=True)
    recorder = Recorder(denoiser(network))
    with torch.no_grad():
        assert not run(recorder, commit, (1, 0, 2)).requires_grad
    assert not run(recorder, commit, None).requires_grad
    assert not any(call.x0 is not None and call.x0.requires_grad for call in recorder.calls)
    run(recorder, commit, (1, 0, 2))
    with_graph = [call for call in recorder.passes() if call.x0 is not None and call.x0.requires_grad]
    assert len(with_graph) == CHUNKS
    assert not any(value.requires_grad for call in recorder.calls for value in call.past.memory.values())


@pytest.mark.parametrize("exits", [(1, 0), (1, 0, 2, 2), (1, STEPS, 0), (-1, 0, 0)])
def test_impossible_exits_are_refused(exits: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="exit"):
        run(denoiser(tiny("joint", dtype=torch.float64)), COMMITS[0], exits)
