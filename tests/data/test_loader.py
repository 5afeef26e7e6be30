import wm_lightning  # noqa: F401, I001  (before lightning: it makes a CPU torch and torchvision agree)

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer

from wm_lightning.clip import Clip
from wm_lightning.data.worldmap import WorldMapDataModule

MakeData = Callable[..., WorldMapDataModule]


class Recorder(LightningModule):
    """Writes down every batch it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.trained: list[Clip] = []
        self.validated: list[list[int]] = []

    def training_step(self, clip: Clip, batch_idx: int) -> None:
        self.trained.append(clip)
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward((self.weight * clip.video.float().mean()).sum())
        optimizer.step()

    def validation_step(self, clip: Clip, batch_idx: int) -> None:
        self.validated.append(clip.index.tolist())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class SaveAt(Callback):
    """Saves after a training batch, or after the validation that follows it."""

    def __init__(self, path: Path, batch: int, hook: str) -> None:
        self.path, self.batch, self.hook = path, batch, hook

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if self.hook == "batch" and len(trainer.lightning_module.trained) == self.batch:
            trainer.save_checkpoint(self.path)

    def on_validation_end(self, trainer: Any, *args: Any) -> None:
        if self.hook == "validation" and len(trainer.lightning_module.trained) == self.batch:
            trainer.save_checkpoint(self.path)


def fit(data: WorldMapDataModule, callback: Callback | None = None, resume: Path | None = None) -> Recorder:
    module = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        val_check_interval=4,
        check_val_every_n_epoch=None,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        callbacks=callback and [callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data, ckpt_path=resume)
    return module


def equal(first: list[Clip], second: list[Clip]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(torch.equal(a.index, b.index) and torch.equal(a.video, b.video) for a, b in pairs)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("batch", "hook"), [(5, "batch"), (8, "batch"), (8, "validation"), (11, "batch")])
def test_a_resumed_training_sees_the_remaining_batches(
    make_data: MakeData, tmp_path: Path, workers: int, batch: int, hook: str
) -> None:
    path = tmp_path / "middle.ckpt"
    whole = fit(make_data(num_workers=workers), SaveAt(path, batch, hook))
    assert [clip.index[0].item() for clip in whole.trained] == list(range(0, 36, 3))
    assert len(whole.validated) == 3
    resumed = fit(make_data(num_workers=workers), resume=path)
    assert equal(resumed.trained, whole.trained[batch:])


def test_state_counts_what_was_handed_out_not_what_workers_prepared(make_data: MakeData) -> None:
    data = make_data(num_workers=2)
    data.prepare_data()
    loader = data.train_dataloader()
    seen = list(islice(loader, 3))
    assert len(seen) == 3
    assert loader.state_dict() == {"handed_out": 3}


def test_a_pass_ends_with_its_epoch_and_the_next_brings_new_batches(data: WorldMapDataModule) -> None:
    loader = data.train_dataloader()
    loader.load_state_dict({"handed_out": 10})
    first = [clip.index.tolist() for clip in loader]
    second = [clip.index.tolist() for clip in loader]
    assert first == [[30, 31, 32], [33, 34, 35]]
    assert second[0] == [36, 37, 38]
    assert len(second) == len(loader) == 12


def test_ranks_share_what_one_rank_reads_with_the_whole_batch(make_data: MakeData) -> None:
    whole = make_data(batch_size=6)
    whole.prepare_data()
    loaders = []
    for rank in range(2):
        part = make_data(batch_size=3)
        part.trainer = SimpleNamespace(global_rank=rank, world_size=2)  # pyright: ignore[reportAttributeAccessIssue]
        loaders.append(part.train_dataloader())
    for clip, *parts in zip(whole.train_dataloader(), *loaders, strict=True):
        assert equal([Clip.cat(parts)], [clip])


def test_ranks_validate_disjoint_clips_that_are_all(make_data: MakeData) -> None:
    indices = []
    for rank in range(2):
        part = make_data()
        part.prepare_data()
        part.trainer = SimpleNamespace(global_rank=rank, world_size=2)  # pyright: ignore[reportAttributeAccessIssue]
        indices.append([i for clip in part.val_dataloader() for i in clip.index.tolist()])
    assert sorted(indices[0] + indices[1]) == [0, 1, 2, 3]
    assert len(indices[0]) == len(indices[1])
    odd = make_data(val_clips=3)
    odd.trainer = SimpleNamespace(global_rank=0, world_size=2)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match="val_clips=3 gives 2 ranks no equal number"):
        odd.val_dataloader()


def test_loading_draws_nothing_from_the_global_generator(data: WorldMapDataModule) -> None:
    before = torch.get_rng_state()
    next(iter(data.train_dataloader()))
    next(iter(data.val_dataloader()))
    assert torch.equal(torch.get_rng_state(), before)
