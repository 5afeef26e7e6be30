"""Validation by rollout: any batch size, any number of clips, any number of ranks."""

from pathlib import Path
from typing import Any

import pytest

from tests.modules.making import data, dmd, trainer


def validated(folder: Path, batch_size: int, val_clips: int, **settings: Any) -> dict[str, float]:
    runner = trainer(folder / "run", limit_val_batches=1.0, **settings)
    clips = data(folder / "cache", batch_size=batch_size, val_clips=val_clips)
    runner.validate(dmd(), datamodule=clips, verbose=False)
    return {name: float(value) for name, value in runner.callback_metrics.items()}


@pytest.mark.parametrize("val_clips", [32, 31])
def test_batches_of_one_are_validated_as_those_of_two(tmp_path: Path, val_clips: int) -> None:
    """Of an odd number of clips the last has no partner and is left out."""
    one, two = (validated(tmp_path, size, val_clips) for size in (1, 2))
    assert one == two
    assert {"val/psnr", "val/action_error", "val/excess", "val/score"} <= one.keys()


def test_ranks_report_the_mean_over_all(tmp_path: Path) -> None:
    two = validated(tmp_path, 2, 32, strategy="ddp_fork_find_unused_parameters_true", devices=2)
    # Clip i goes to rank i mod 2, so batches of four start with the same clips' rollouts as two ranks' batches of two.
    alone = validated(tmp_path, 4, 32)
    assert two["val/psnr"] == pytest.approx(alone["val/psnr"], abs=0.01)
    assert two["val/presence"] == alone["val/presence"]


def test_every_rank_validates_as_many_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The split has 35 clips: four ranks take eight each and leave three."""
    clips = data(tmp_path, batch_size=2, val_clips=36)
    clips.prepare_data()
    clips.setup("fit")
    whole = clips._fixed("val", 35, clips.val_frames)
    monkeypatch.setattr(type(clips), "_fixed", lambda *asked: whole)
    taken = []
    for rank in range(4):
        monkeypatch.setattr(type(clips), "_place", lambda _, rank=rank: (rank, 4))
        taken.append([int(index) for batch in clips.val_dataloader() for index in batch.index])
    assert [len(own) for own in taken] == [8] * 4 and len({index for own in taken for index in own}) == 32
