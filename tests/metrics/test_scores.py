"""Scores are one process's own, also where torch.distributed runs."""

import multiprocessing
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

from tests.metrics.conftest import moving_blocks
from wm_lightning.metrics.features import ClipFeatures
from wm_lightning.metrics.scores import Scores


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
