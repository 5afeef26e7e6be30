"""Scores are one process's own, also where torch.distributed runs."""

import math
import multiprocessing
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import distributed

from tests.metrics.conftest import moving_blocks
from wm_lightning.metrics.features import ClipFeatures
from wm_lightning.metrics.scores import Scores
from wm_lightning.metrics.set_distance import frechet
from wm_lightning.worlds.world import Measures


def score_alone(folder: Path, rank: int) -> None:
    """Both ranks join; the second never computes, so that a measure which waits for it raises."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2, timeout=timedelta(seconds=5)
    )
    truth = moving_blocks(2, seed=rank)
    scores = Scores(context=1, horizon=7, features=ClipFeatures.load())
    scores.add(truth.roll(1, dims=1), truth, None)
    if rank == 0:
        torch.save(torch.tensor([*scores.psnr(), *(scores.ssim() or ())]), folder / "found.pt")
    distributed.barrier()


def test_every_measure_is_kept_by_frame_and_says_nothing_where_it_is_not_defined() -> None:
    truth = moving_blocks(3, seed=0)
    made = truth.clone()
    made[:, 4] = 255 - made[:, 4]
    nothing = torch.full((3, 8), torch.nan)
    seen = nothing.clone()
    seen[0, 2], seen[1, 2] = 1.0, 0.0
    scores = Scores(context=1, horizon=7, features=ClipFeatures.load())
    scores.add(made, truth, Measures(action_error=nothing, object_error=seen, presence=nothing))
    found = scores.every_horizon()
    assert set(found) == {"psnr", "ssim", "mse", "perceptual", "action_error", "object_error", "presence"}
    assert all(len(values) == 7 for values in found.values())
    wanted = ((made[:, 4].float() - truth[:, 4].float()) / 255).square().mean()
    assert found["mse"] == pytest.approx([0, 0, 0, float(wanted), 0, 0, 0])
    assert found["psnr"][3] < found["psnr"][0] and found["ssim"][3] < 0.9 < found["ssim"][0]
    assert found["perceptual"] == pytest.approx([0, 0, 0, found["perceptual"][3], 0, 0, 0])
    assert 0 < found["perceptual"][3] <= 8  # two layers, each at most the squared distance of opposite unit vectors
    assert found["object_error"][1] == 0.5 and all(math.isnan(value) for value in found["action_error"])


def test_the_distance_of_frames_is_a_frechet_distance_that_does_not_see_their_order() -> None:
    truth = moving_blocks(6, seed=0)
    found = {}
    for name, made in {"truth": truth, "backwards": truth.flip(1), "noisy": noisy(truth)}.items():
        scores = Scores(context=0, horizon=8, features=ClipFeatures.load())
        scores.add(made, truth, None)
        found[name] = scores.frames_distance()
    assert found["truth"] == pytest.approx(0, abs=1e-6) and found["backwards"] == pytest.approx(0, abs=1e-6)
    features = ClipFeatures.load()
    wanted = frechet(*(features.of_frames(video).flatten(0, 1) for video in (noisy(truth), truth)))
    assert found["noisy"] == pytest.approx(wanted) and wanted > 0.01


def noisy(video: torch.Tensor) -> torch.Tensor:
    source = torch.Generator().manual_seed(1)
    return (video.float() + 40 * torch.randn(video.shape, generator=source)).clamp(0, 255).to(torch.uint8)


def test_a_table_is_made_by_one_rank_alone(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=score_alone, args=(tmp_path, rank)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(timeout=60)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    truth = moving_blocks(2, seed=0)
    alone = Scores(context=1, horizon=7, features=ClipFeatures.load())
    alone.add(truth.roll(1, dims=1), truth, None)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    assert torch.equal(found, torch.tensor([*alone.psnr(), *(alone.ssim() or ())])), "another rank's clips are in it"
