"""Levels over the frames of a clip, and the denoising loss."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.networks.tiny import randn
from wm_lightning.networks.masks import chunk_blocks
from wm_lightning.noising import NoiseLaw, RectifiedFlow, VPDiffusion
from wm_lightning.objectives.denoising import FrameLevels, denoising_weight, weighted_mse
from wm_lightning.randomness import generator

PATH = RectifiedFlow(prediction="x0", loss_sigma_floor=0.05, label_scale=1.0)
# Levels close to 1, so that a history below 0.2 is told apart from them.
HIGH = NoiseLaw(mean=3.0, std=0.2, uniform_share=0.0, shift=1.0)
LEVELS = FrameLevels(law=HIGH, context=0, clean_history=0.6, history_level=0.2, shared=0.7)
DRAWS = 2000


def draws(levels: FrameLevels, chunk: int | None, frames: int = 10) -> Tensor:
    blocks = chunk_blocks(frames, chunk, first_alone=True)
    return torch.stack([levels.sample(PATH, blocks, generator(1, "levels", i)) for i in range(DRAWS)])


def share(cases: Tensor) -> float:
    return float(cases.float().mean())


@pytest.mark.parametrize("chunk", [1, 3, None])
@pytest.mark.parametrize("context", [0, 1, 4])
def test_context_is_clean_and_nothing_else_is(chunk: int | None, context: int) -> None:
    t = draws(replace(LEVELS, context=context, clean_history=0.0), chunk)
    assert not t[:, :context].any()
    assert bool((t[:, context:] > 0).all())


def test_a_faint_history_is_never_clean_where_the_path_knows_steps_only() -> None:
    """A level that rounds to no noise would be weighted as one with noise, whose target cannot be known."""
    path = VPDiffusion(prediction="v", loss_sigma_floor=0.05, steps=20, start=-3.0, end=3.0, tau=1.0)
    levels = replace(LEVELS, clean_history=1.0)
    blocks = chunk_blocks(10, 1, first_alone=True)
    t = torch.stack([levels.sample(path, blocks, generator(1, "levels", i)) for i in range(DRAWS)])
    assert bool(((path.alpha_sigma(t)[1] > 0) | (t == 0)).all())
    assert torch.equal(t, torch.where(t > 0, path.noisy(t), t))


@pytest.mark.parametrize("chunk", [1, 3])
def test_every_block_has_a_level_of_its_own(chunk: int) -> None:
    blocks = chunk_blocks(10, chunk, first_alone=True)
    for t in draws(replace(LEVELS, clean_history=0.0), chunk)[:50]:
        per_block = [t[blocks == block].unique() for block in range(int(blocks[-1]) + 1)]
        assert all(len(levels) == 1 for levels in per_block)
        assert len(torch.cat(per_block).unique()) == len(per_block)


@pytest.mark.parametrize("chunk", [1, 3])
def test_a_share_of_blocks_stays_clean_each_by_itself(chunk: int) -> None:
    t = draws(replace(LEVELS, clean_history=0.0, clean_share=0.3), chunk)
    blocks = chunk_blocks(10, chunk, first_alone=True)
    first = torch.stack([t[:, blocks == block][:, 0] for block in range(int(blocks[-1]) + 1)], 1)
    assert torch.equal(t, first[:, blocks]), "a block has one level"
    assert share(first == 0) == pytest.approx(0.3, abs=0.02)
    both = (first[:, 1:] == 0) & (first[:, :-1] == 0)
    assert share(both) == pytest.approx(0.09, abs=0.02), "neighbours are drawn apart"


@pytest.mark.parametrize("chunk", [1, 3])
def test_history_is_a_prefix_of_blocks_clean_or_lightly_noised_in_its_shares(chunk: int) -> None:
    blocks = chunk_blocks(10, chunk, first_alone=True)
    t = draws(LEVELS, chunk)
    history = t <= LEVELS.history_level
    assert share(history[:, 0]) == pytest.approx(0.6, abs=0.03)
    chosen = t[history[:, 0]]
    assert share(chosen[:, 0] == 0) == pytest.approx(0.5, abs=0.04)
    noised = chosen[chosen[:, 0] > 0, 0]
    assert float(noised.max()) > 0.9 * LEVELS.history_level and float(noised.min()) < 0.1 * LEVELS.history_level
    lengths = (chosen <= LEVELS.history_level).sum(1)
    for row, length in zip(chosen, lengths.tolist(), strict=True):
        assert len(row[:length].unique()) == 1 and bool((row[length:] > LEVELS.history_level).all())
    # The first `cut` blocks, cut uniform over all that leave at least one block to learn.
    last = int(blocks[-1])
    ends = [int((blocks < cut).sum()) for cut in range(1, last + 1)]
    counts = np.array([int((lengths == end).sum()) for end in ends])
    assert counts.sum() == len(chosen)
    assert ((counts - len(chosen) / last) ** 2 / (len(chosen) / last)).sum() < last + 4 * (2 * last) ** 0.5


def test_a_bidirectional_clip_shares_one_level_or_has_one_per_frame() -> None:
    t = draws(LEVELS, None)
    different = torch.tensor([len(row.unique()) for row in t])
    assert set(different.tolist()) == {1, 10}
    assert share(different == 1) == pytest.approx(0.7, abs=0.03)
    assert bool((t > LEVELS.history_level).all())


def test_levels_are_a_function_of_the_generator_alone() -> None:
    blocks = chunk_blocks(10, 3, first_alone=True)
    one, again = (LEVELS.sample(PATH, blocks, generator(1, "levels", 7)) for _ in range(2))
    assert torch.equal(one, again)
    assert not torch.equal(one, LEVELS.sample(PATH, blocks, generator(1, "levels", 8)))


def test_mean_of_two_halves_is_the_mean_of_the_batch_whatever_they_leave_out() -> None:
    prediction, target = randn(4, 5, 2, 3, 3, seed=1), randn(4, 5, 2, 3, 3, seed=2)
    weight = torch.rand(4, 5, generator=torch.Generator().manual_seed(3))
    weight[0], weight[2, 1:3] = 0, 0
    halves = [weighted_mse(prediction[rows], target[rows], weight[rows]) for rows in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(torch.stack(halves).mean(), weighted_mse(prediction, target, weight))


def test_loss_is_the_weighted_mean_over_all_elements() -> None:
    prediction, target = randn(2, 3, 2, 3, 3, seed=1), randn(2, 3, 2, 3, 3, seed=2)
    weight = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.5]])
    error = (weight[..., None, None, None] * (prediction - target) ** 2).sum() / prediction.numel()
    torch.testing.assert_close(weighted_mse(prediction, target, weight), error)


@pytest.mark.parametrize("prediction", ["x0", "velocity"])
def test_clean_frames_have_no_weight_and_others_that_of_the_velocity(prediction: str) -> None:
    path = RectifiedFlow(prediction=prediction, loss_sigma_floor=0.05, label_scale=1.0)  # type: ignore[arg-type]
    t = torch.tensor([[0.0, 0.01, 0.5, 1.0]])
    weights = {"x0": [[0.0, 400.0, 4.0, 1.0]], "velocity": [[0.0, 1.0, 1.0, 1.0]]}
    torch.testing.assert_close(denoising_weight(path, t), torch.tensor(weights[prediction]))
