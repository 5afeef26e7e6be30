"""When checkpoints are written, and that a run continued from one ends as if it had never stopped."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from wm_lightning.callbacks.checkpoint import IterationCheckpoint
from wm_lightning.checkpoint_io import AtomicCheckpointIO
from wm_lightning.launchers.stopping import STOPPED

BATCHES = 12


class Killed(Exception):
    """The process ends here."""


class Data(DataLoader):
    """Hands out 0, 1, 2, ...; its state is the number of batches handed out."""

    def __init__(self) -> None:
        super().__init__(list(range(BATCHES)))
        self.handed_out = 0

    def __iter__(self) -> Any:
        while self.handed_out < BATCHES:
            self.handed_out += 1
            yield torch.tensor([float(self.handed_out)])
        self.handed_out = 0

    def state_dict(self) -> dict[str, int]:
        return {"handed_out": self.handed_out}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.handed_out = state["handed_out"]


class Alternating(LightningModule):
    """Two optimizers that take turns, an iteration counter of its own, a score that has its best in the middle."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.automatic_optimization = False
        torch.manual_seed(0)
        self.student, self.critic = nn.Linear(1, 1), nn.Linear(1, 1)
        self.iterations = 0
        self.scores = scores
        self.seen: list[int] = []
        self.validated: list[int] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        for optimizer, network in zip(self.optimizers(), (self.student, self.critic), strict=True):
            optimizer.zero_grad()
            self.manual_backward((network(batch[:, None]) - 1).square().mean())
            optimizer.step()
        self.seen.append(int(batch))
        self.iterations += 1

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        if batch_idx == 0:
            self.validated.append(self.iterations)
        self.log("val/distance", self.scores[self.iterations])

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam(network.parameters(), lr=0.01) for network in (self.student, self.critic)]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["iterations"] = self.iterations

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.iterations = checkpoint["iterations"]


class Kill(Callback):
    """Ends the process at an iteration, in training or in the middle of validation."""

    def __init__(self, iteration: int, where: str) -> None:
        self.iteration, self.where = iteration, where

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Tensor, batch_idx: int) -> None:
        if self.where == "training" and pl_module.iterations == self.iteration:
            raise Killed

    def on_validation_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if self.where == "validation" and pl_module.iterations == self.iteration:
            raise Killed


class Tell(Kill):
    """Sends a signal to this very process at an iteration."""

    def __init__(self, iteration: int, where: str, number: int) -> None:
        super().__init__(iteration, where)
        self.number = number

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Tensor, batch_idx: int) -> None:
        if self.where == "training" and pl_module.iterations == self.iteration:
            os.kill(os.getpid(), self.number)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if self.where == "validation" and pl_module.iterations == self.iteration:
            os.kill(os.getpid(), self.number)


SCORES = [9.0, 8, 7, 6, 5, 4, 1, 2, 3, 2, 2, 2, 2]


def make(folder: Path, every: int, **settings: Any) -> IterationCheckpoint:
    options = {"monitor": "val/distance", "mode": "min", "save_best": True, **settings}
    return IterationCheckpoint(run_dir=str(folder), every=every, **options)


def fit(
    folder: Path, every: int, *, resume: bool = False, kill: Kill | None = None, interval: int = 3, **settings: Any
) -> tuple[Alternating, IterationCheckpoint, Trainer]:
    module, callback = Alternating(SCORES), make(folder, every, **settings)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        check_val_every_n_epoch=None,
        val_check_interval=interval,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[callback] + ([kill] if kill else []),
        plugins=[AtomicCheckpointIO()],
    )
    path = callback.last_path if resume else None
    trainer.fit(module, Data(), DataLoader(torch.zeros(2, 1)), ckpt_path=path)
    return module, callback, trainer


def read(path: Path) -> dict[str, Any]:
    return AtomicCheckpointIO().load_checkpoint(path)


def state(folder: Path, name: str) -> dict[str, Any]:
    checkpoint = read(folder / "checkpoints" / name)
    return {key: checkpoint[key] for key in ("state_dict", "optimizer_states", "iterations", "callbacks")}


def assert_equal(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    elif isinstance(one, Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def test_last_and_best_count_the_modules_iterations(tmp_path: Path) -> None:
    _, callback, trainer = fit(tmp_path, every=5)
    assert trainer.global_step == 2 * BATCHES  # what a file named by it would say
    assert read(callback.last_path)["iterations"] == BATCHES
    assert read(callback.best_path)["iterations"] == 6
    assert (callback.best, callback.best_iteration) == (1.0, 6)
    assert read(tmp_path / "checkpoints/previous.ckpt")["iterations"] == 10


def test_the_direction_of_the_metric_and_none_at_all(tmp_path: Path) -> None:
    _, callback, _ = fit(tmp_path / "max", every=5, mode="max")
    assert callback.best_iteration == 3
    _, callback, _ = fit(tmp_path / "none", every=5, save_best=False)
    assert not callback.best_path.exists() and callback.last_path.exists()


@pytest.mark.parametrize("every", [2, 3, 4])
@pytest.mark.parametrize(("iteration", "where"), [(5, "training"), (6, "validation"), (8, "training"), (9, "training")])
def test_a_killed_run_ends_as_one_that_was_not(tmp_path: Path, every: int, iteration: int, where: str) -> None:
    whole, _, _ = fit(tmp_path / "whole", every)
    with pytest.raises(Killed):
        fit(tmp_path / "killed", every, kill=Kill(iteration, where))
    start = read(tmp_path / "killed/checkpoints/last.ckpt")["iterations"]
    resumed, _, _ = fit(tmp_path / "killed", every, resume=True)
    assert 0 < start <= iteration
    assert resumed.seen == whole.seen[start:], "a batch was lost or seen twice"
    assert resumed.validated == [done for done in whole.validated if done > start]
    for name in ("last.ckpt", "best.ckpt"):
        assert_equal(state(tmp_path / "whole", name), state(tmp_path / "killed", name))


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
@pytest.mark.parametrize(("told", "where", "saved"), [(3, "training", 4), (5, "training", 6), (6, "validation", 6)])
def test_a_run_that_is_told_to_stop_saves_at_once_and_ends_as_one_that_was_not(
    tmp_path: Path, told: int, where: str, saved: int, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WM_POINT_DIARY", str(tmp_path / "stopped/point.jsonl"))
    before = [signal.getsignal(one) for one in (signal.SIGUSR1, signal.SIGTERM)]
    whole, _, _ = fit(tmp_path / "whole", 50)
    with pytest.raises(SystemExit) as ended:
        fit(tmp_path / "stopped", 50, kill=Tell(told, where, number))
    assert ended.value.code == STOPPED
    assert read(tmp_path / "stopped/checkpoints/last.ckpt")["iterations"] == saved
    assert json.loads((tmp_path / "stopped/point.jsonl").read_text())["state"] == "stopped"
    resumed, _, _ = fit(tmp_path / "stopped", 50, resume=True)
    assert resumed.seen == whole.seen[saved:], "a batch was lost or seen twice"
    assert resumed.validated == [done for done in whole.validated if done > saved]
    assert_equal(state(tmp_path / "whole", "last.ckpt"), state(tmp_path / "stopped", "last.ckpt"))
    # The best one says as well when the last was written before it, which differs.
    best = [read(tmp_path / name / "checkpoints/best.ckpt") for name in ("whole", "stopped")]
    assert_equal(best[0]["state_dict"], best[1]["state_dict"])
    assert [signal.getsignal(one) for one in (signal.SIGUSR1, signal.SIGTERM)] == before


def test_a_best_checkpoint_left_elsewhere_counts_no_more(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        fit(tmp_path / "old", 1, kill=Kill(8, "training"))
    (tmp_path / "new/checkpoints").mkdir(parents=True)
    shutil.copy(tmp_path / "old/checkpoints/last.ckpt", tmp_path / "new/checkpoints/last.ckpt")
    _, callback, _ = fit(tmp_path / "new", 1, resume=True)
    assert callback.best_iteration == 9 and read(callback.best_path)["iterations"] == 9


def test_a_finished_run_continued_does_nothing_more(tmp_path: Path) -> None:
    fit(tmp_path, every=5)
    before = state(tmp_path, "last.ckpt")
    module, _, _ = fit(tmp_path, every=5, resume=True)
    assert module.seen == []
    assert_equal(before, state(tmp_path, "last.ckpt"))


def test_stale_partials_are_cleared_at_the_start(tmp_path: Path) -> None:
    stale = tmp_path / "checkpoints/last.ckpt.partial"
    stale.parent.mkdir()
    stale.write_bytes(b"half")
    fit(tmp_path, every=5)
    assert not list(stale.parent.glob("*.partial"))


def test_a_metric_that_is_not_logged_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"monitor=val/distanse was not logged.*val/distance"):
        fit(tmp_path, every=5, monitor="val/distanse")


@pytest.mark.parametrize(("settings", "said"), [({"every": 0}, "every is 0"), ({"mode": "least"}, "mode is least")])
def test_settings_out_of_range_are_refused(tmp_path: Path, settings: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make(tmp_path, **{"every": 1, **settings})
