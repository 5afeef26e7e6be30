"""Two gloo processes with a task each against one process with both: rewards, advantages and updates are the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from tests.modules.making import sgd
from tests.modules.making_goals import goal_wmsd, goals
from tests.modules.making_wmsd import learn, tasks, wmsd
from wm_lightning.modules.wmsd import WMSDModule


class Witness(Callback):
    """Writes what a rank holds at the end, and which tasks it was given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.batches: list[list[int]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch.index.tolist())

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        state = {name: value.clone() for name, value in pl_module.state_dict().items()}
        torch.save({"state": state, "batches": self.batches}, self.folder / f"{trainer.global_rank}.pt")


GRID, GOALS = {"make": wmsd, "data": tasks}, {"make": goal_wmsd, "data": goals}


def run(folder: Path, ranks: int, make: Callable[..., WMSDModule], data: Any) -> list[dict[str, Any]]:
    folder.mkdir()
    many: dict[str, Any] = dict(strategy="ddp_fork_find_unused_parameters_true", devices=2) if ranks == 2 else {}
    module = make(iterations=3, optimizer=sgd(0.1), micro_batch=3)
    learn(module, folder, Witness(folder), batch_size=2 // ranks, data=data, **many)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(ranks)]


@pytest.mark.parametrize("what", [GRID, GOALS], ids=["grid", "goals"])
def test_two_ranks_are_one_process_with_both_tasks(tmp_path: Path, what: dict[str, Any]) -> None:
    (alone,), (first, second) = run(tmp_path / "one", 1, **what), run(tmp_path / "two", 2, **what)
    assert [a + b for a, b in zip(first["batches"], second["batches"], strict=True)] == alone["batches"]
    start = what["make"]().state_dict()
    moved = 0
    for key, value in alone["state"].items():
        assert torch.equal(first["state"][key], second["state"][key]), f"{key} differs between ranks"
        torch.testing.assert_close(first["state"][key], value, atol=2e-6, rtol=2e-5, msg=key)
        moved += key.startswith("network.") and not torch.equal(value, start[key])
    assert moved > 10
