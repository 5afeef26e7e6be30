"""Updates without a finite gradient are skipped by all ranks, their clips are named, and too many end the training."""

import logging
import multiprocessing.resource_sharer
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader, Dataset

from tests.modules.making import adamw, dmd, fit, flat, teacher
from tests.modules.sharded_ranks import RANKS, in_two_ranks
from wm_lightning.callbacks.trouble import Trouble, meaning_of
from wm_lightning.config_errors import refusal
from wm_lightning.modules.base import WorldModelModule
from wm_lightning.modules.sharding import Sharded


class Poison(Callback):
    """Gives clips actions that are no number, in some iterations, on one rank; notes which clips, and what is left."""

    def __init__(self, iterations: range, rank: int = 0) -> None:
        self.iterations, self.rank = iterations, rank
        self.poisoned: list[int] = []
        self.weights: list[torch.Tensor] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.weights.append(flat([p.detach().clone() for p in pl_module.deployed.parameters()]))
        if batch_idx in self.iterations and trainer.global_rank == self.rank:
            batch.condition.actions.fill_(torch.nan)
            self.poisoned += batch.index.tolist()


def module(name: str, **changes: Any) -> WorldModelModule:
    if name == "teacher":
        return teacher(iterations=6, optimizer=adamw(0.01), micro_batches=2, **changes)
    return dmd(iterations=6, critic_warmup=0, ratio=1, **changes)


@pytest.mark.parametrize(("name", "updates"), [("teacher", 1), ("dmd", 2)])
def test_a_batch_without_a_finite_gradient_is_skipped_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, updates: int
) -> None:
    poison, made = Poison(range(2, 3)), module(name)
    with caplog.at_level(logging.WARNING):
        fit(made, tmp_path / "run", Trouble(most=2), poison)
    assert int(made.skipped) == updates and made.iterations == 6
    (said,) = [record.message for record in caplog.records if "skipped" in record.message]
    assert said.startswith(
        f"Iteration 3: {updates} updates skipped, as their gradient is not finite. Its clips: episode"
    )
    assert said.count("from frame") == len(poison.poisoned) == 2
    weights = poison.weights
    assert all(torch.isfinite(one).all() for one in weights)
    assert not torch.equal(weights[3], weights[4]), "it learns again afterwards"


def test_too_many_in_a_row_end_the_training(tmp_path: Path) -> None:
    made = module("teacher")
    with pytest.raises(
        ValueError, match=r"3 iterations in a row have taught nothing.*last at episode \d+ from frame"
    ) as end:
        fit(made, tmp_path / "run", Trouble(most=3), Poison(range(1, 6)))
    assert refusal(end.value) is not None and made.iterations == 4
    assert all(torch.isfinite(value).all() for value in made.state_dict().values())
    # With one that teaches between them, they are not in a row.
    again = module("teacher")
    fit(again, tmp_path / "other", Trouble(most=2), Poison(range(1, 6, 2)))
    assert int(again.skipped) == 3


@pytest.mark.parametrize("strategy", ["ddp_find_unused_parameters_true", "sharded"])
def test_all_ranks_skip_what_is_not_finite_on_one(tmp_path: Path, strategy: str) -> None:
    def work() -> None:
        made = module("teacher")
        chosen = Sharded() if strategy == "sharded" else strategy
        trainer = fit(
            made, tmp_path / "run", Trouble(most=9), Poison(range(2, 3), rank=1), strategy=chosen, devices=RANKS
        )
        state = trainer.strategy.lightning_module_state_dict() or {"skipped": made.skipped}
        torch.save(state, tmp_path / f"{trainer.global_rank}.pt")

    in_two_ranks(work)
    states = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]
    assert [int(state["skipped"]) for state in states] == [1, 1]
    assert all(torch.isfinite(value).all() for state in states for value in state.values())
    for key, value in states[1].items():
        assert torch.equal(states[0][key], value), key


def test_the_end_by_an_error_of_the_machine_says_how_to_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
            raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")

    with caplog.at_level(logging.ERROR), pytest.raises(RuntimeError):
        fit(module("teacher"), tmp_path / "run", Broken(), Trouble(most=2))
    assert "a process that loads data was ended from outside" in caplog.text and "ckpt_path=last goes on" in caplog.text
    with pytest.raises(ValueError, match="most=0 counts iterations"):
        Trouble(most=0)


class Tensors(Dataset):
    """Two of them, or an error where their file should be."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> torch.Tensor:
        if self.error is not None:
            raise self.error
        return torch.ones(2)


@pytest.mark.parametrize(
    "error",
    [ConnectionResetError(104, "Connection reset by peer"), BrokenPipeError(32, "Broken pipe"), EOFError(),
     FileNotFoundError(2, "No such file or directory"), ConnectionRefusedError(111, "Connection refused")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_a_worker_that_is_gone_before_its_tensor_is_fetched_is_known(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Its socket is closed, and torch does not see yet that the process has ended."""

    def gone(_: Any) -> int:
        raise error

    monkeypatch.setattr(multiprocessing.resource_sharer.DupFd, "detach", gone)
    with pytest.raises(type(error)) as raised:
        next(iter(DataLoader(Tensors(), num_workers=1)))
    assert "a process that loads data was ended from outside" in (meaning_of(raised.value) or "")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_file_is_not_taken_for_the_end_of_a_worker(workers: int) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        next(iter(DataLoader(Tensors(FileNotFoundError(2, "No such file or directory")), num_workers=workers)))
    assert meaning_of(raised.value) is None
    assert "another rank ended" in (meaning_of(ConnectionResetError(104, "Connection reset by peer")) or "")
