"""Two gloo processes with a task each against one process with both: rewards, advantages and updates are the same."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from tests.modules.making import sgd
from tests.modules.making_goals import goal_wmsd, goals
from tests.modules.making_wmsd import learn, tasks, wmsd
from tests.modules.test_wmsd import SURROGATES
from wm_lightning.modules.wmsd import WMSDModule
from wm_lightning.networks.lora import LoRA


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


def adapted(**changes: Any) -> WMSDModule:
    """An executor of adapters, which begin alike whenever it is made."""
    torch.manual_seed(5)
    targets = r"blocks\.\d+\.(attention\.projections\.(qkv|out)|prompt\.(q|kv|out)|mlp\.[02])"
    return wmsd(lora=LoRA(rank=4, alpha=8.0, targets=targets), **changes)


GRID, GOALS = {"make": wmsd, "data": tasks}, {"make": goal_wmsd, "data": goals}
GRPO, NFT = ({"make": partial(wmsd, **SURROGATES[name]), "data": tasks} for name in ("grpo", "nft"))
WITH_PEFT = pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed")
LORA = pytest.param({"make": adapted, "data": tasks}, marks=WITH_PEFT)


def run(folder: Path, ranks: int, make: Callable[..., WMSDModule], data: Any) -> list[dict[str, Any]]:
    folder.mkdir()
    many: dict[str, Any] = dict(strategy="ddp_fork_find_unused_parameters_true", devices=2) if ranks == 2 else {}
    module = make(iterations=3, optimizer=sgd(0.1), micro_batch=3)
    learn(module, folder, Witness(folder), batch_size=2 // ranks, data=data, **many)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(ranks)]


@pytest.mark.parametrize("what", [GRID, GOALS, LORA, GRPO, NFT], ids=["grid", "goals", "lora", "grpo", "nft"])
def test_two_ranks_are_one_process_with_both_tasks(tmp_path: Path, what: dict[str, Any]) -> None:
    """Within 3e-7, a hundredth of what ten and more of the weights have moved by; on both ranks the same."""
    (alone,), (first, second) = run(tmp_path / "one", 1, **what), run(tmp_path / "two", 2, **what)
    assert [a + b for a, b in zip(first["batches"], second["batches"], strict=True)] == alone["batches"]
    start = what["make"]().state_dict()
    moved = 0
    for key, value in alone["state"].items():
        assert torch.equal(first["state"][key], second["state"][key]), f"{key} differs between ranks"
        torch.testing.assert_close(first["state"][key], value, atol=3e-7, rtol=0.0, msg=key)
        moved += key.startswith("network.") and bool(((value - start[key]).abs() > 3e-5).any())
    assert moved > 10
