"""Two gloo processes, each with half of the batch, against one process with all of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import nn

from tests.modules.making import PLAN, dmd, fit, self_rollout, teacher, vid2world
from wm_lightning.modules.base import WorldModelModule
from wm_lightning.modules.self_forcing import SelfRollout
from wm_lightning.networks.masks import FrameMask

TWO: dict[str, Any] = dict(strategy="ddp_fork_find_unused_parameters_true", devices=2)


def adam(network: nn.Module) -> list[torch.optim.Optimizer]:
    """Its step is steady where a gradient is nearly 0, so that rounding stays rounding."""
    return [torch.optim.AdamW(network.parameters(), lr=1e-2, betas=(0.0, 0.99), eps=1e-2)]


MAKERS: dict[str, Any] = {
    "dmd": lambda: dmd(
        iterations=9, critic_warmup=0, ratio=4, replay_slots=3, fresh_every=3,
        rollout=self_rollout(lengths=(4, 7), scored=3, exits="per_chunk"),
    ),
    # Ten student updates and more than a hundred exits, with the state of Adam on every rank.
    "dmd_adamw": lambda: dmd(
        iterations=10, critic_warmup=0, ratio=1, student_optimizer=adam, critic_optimizer=adam,
        plan=replace(PLAN, chunk=1, mask=FrameMask(1)), rollout=self_rollout(exits="per_chunk"),
    ),
    "sid": lambda: dmd(iterations=3, critic_warmup=0, variant="sid"),
    "teacher_in_micro_batches": lambda: teacher(iterations=3, micro_batches=2),
    # Convolutions, a base made causal, actions that are new to it and hidden frame by frame.
    "vid2world": lambda: vid2world(iterations=3),
}  # fmt: skip
WITHOUT_EXITS = ("teacher_in_micro_batches", "vid2world")


# The exit steps drawn in this process; a forked rank has a list of its own.
EXITS: list[list[int]] = []


@pytest.fixture(autouse=True)
def noted_exits(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = SelfRollout.draw_exits

    def noted(*args: Any) -> list[int]:
        EXITS.append(draw(*args))
        return EXITS[-1]

    monkeypatch.setattr(SelfRollout, "draw_exits", noted)


class Witness(Callback):
    """Writes what a rank holds at the end; saves a checkpoint after 5 iterations."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.batches: list[list[int]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch.index.tolist())

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if pl_module.iterations == 5:
            trainer.save_checkpoint(self.folder / f"of{trainer.world_size}.ckpt")

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        state = {name: value.clone() for name, value in pl_module.state_dict().items()}
        content = {"state": state, "exits": EXITS, "batches": self.batches}
        if hasattr(pl_module, "replay"):
            content["replay"] = pl_module.replay.state_dict(lambda rows: rows)
        torch.save(content, self.folder / f"{trainer.global_rank}of{trainer.world_size}.pt")


def run(folder: Path, module: WorldModelModule, *, ranks: int, resume: Path | None = None) -> list[dict[str, Any]]:
    """What every rank wrote."""
    folder.mkdir(parents=True, exist_ok=True)
    EXITS.clear()
    settings = TWO if ranks == 2 else {}
    fit(module, folder, Witness(folder), batch_size=4 // ranks, resume=resume, **settings)
    return [torch.load(folder / f"{rank}of{ranks}.pt", weights_only=True) for rank in range(ranks)]


def assert_close(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=2e-6, rtol=2e-5, msg=name)


@pytest.mark.parametrize("name", MAKERS)
def test_two_ranks_are_one_process_with_both_batches(tmp_path: Path, name: str) -> None:
    """With plain SGD equal parameters are equal gradients, within 2e-6 and 2e-5 of their size; ranks have the same."""
    first, second = run(tmp_path / "two", MAKERS[name](), ranks=2)
    (alone,) = run(tmp_path / "one", MAKERS[name](), ranks=1)
    assert all(a != b for a, b in zip(first["batches"], second["batches"], strict=True))
    assert [a + b for a, b in zip(first["batches"], second["batches"], strict=True)] == alone["batches"]
    for key, value in first["state"].items():
        assert torch.equal(value, second["state"][key]), f"{key} differs between ranks"
    assert_close(first["state"], alone["state"])
    assert first["exits"] == second["exits"] == alone["exits"]
    assert bool(first["exits"]) == (name not in WITHOUT_EXITS)
    if name == "dmd_adamw":
        assert int(alone["state"]["student_updates"]) == 10 and sum(map(len, first["exits"])) >= 100
    start = MAKERS[name]().state_dict()
    networks = [key for key in start if key.startswith(("student.", "critic.", "network.")) and "weight" in key]
    assert sum(not torch.equal(start[key], alone["state"][key]) for key in networks) > len(networks) / 2


def test_two_ranks_continue_with_the_windows_each_had(tmp_path: Path) -> None:
    whole = run(tmp_path / "two", MAKERS["dmd"](), ranks=2)
    resumed = run(tmp_path / "resumed", MAKERS["dmd"](), ranks=2, resume=tmp_path / "two/of2.ckpt")
    for before, after in zip(whole, resumed, strict=True):
        assert all(torch.equal(value, after["state"][key]) for key, value in before["state"].items())
        for old, new in zip(before["replay"]["windows"], after["replay"]["windows"], strict=True):
            assert old.keys() == new.keys() and all(torch.equal(old[name], new[name]) for name in old)
    windows = [rank["replay"]["windows"] for rank in whole]
    assert not torch.equal(windows[0][0]["x"], windows[1][0]["x"])
    (alone,) = run(tmp_path / "one", MAKERS["dmd"](), ranks=1, resume=tmp_path / "two/of2.ckpt")
    assert_close(whole[0]["state"], alone["state"])
