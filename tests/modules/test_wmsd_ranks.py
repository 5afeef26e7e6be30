"""Two gloo processes with a task each against one process with both: rewards, advantages and updates are the same."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from tests.modules.making import sgd
from tests.modules.making_wmsd import learn, wmsd


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


def run(folder: Path, ranks: int) -> list[dict[str, Any]]:
    folder.mkdir()
    many: dict[str, Any] = dict(strategy="ddp_fork_find_unused_parameters_true", devices=2) if ranks == 2 else {}
    module = wmsd(iterations=3, optimizer=sgd(0.1), micro_batch=3)
    learn(module, folder, Witness(folder), batch_size=2 // ranks, **many)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(ranks)]


def test_two_ranks_are_one_process_with_both_tasks(tmp_path: Path) -> None:
    (alone,), (first, second) = run(tmp_path / "one", 1), run(tmp_path / "two", 2)
    assert [a + b for a, b in zip(first["batches"], second["batches"], strict=True)] == alone["batches"]
    start = wmsd().state_dict()
    moved = 0
    for key, value in alone["state"].items():
        assert torch.equal(first["state"][key], second["state"][key]), f"{key} differs between ranks"
        torch.testing.assert_close(first["state"][key], value, atol=2e-6, rtol=2e-5, msg=key)
        moved += key.startswith("network.") and not torch.equal(value, start[key])
    assert moved > 10
