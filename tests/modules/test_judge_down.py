"""A judge that stops answering: the training ends, and goes on as if nothing had been once the judge is back."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from tests.judge_server import Behaviour, Running, judge_server
from tests.modules.making_wmsd import learn, tasks, wmsd
from tests.modules.test_counts_and_resume import Save, assert_same, everything
from tests.rewards.making import judged_by
from wm_lightning.rewards.bus import RewardBus, TooManyFailures, Weighted
from wm_lightning.worlds.grid_reward import task_of


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    data = tasks(tmp_path / "cache")
    data.prepare_data()
    rows = [task for row in data.parts["train"] if (task := task_of(row)) is not None]
    with judge_server(rows, 2) as running:
        yield running


def judges(data: Any, *, server: Running) -> RewardBus:
    rewards = {"task": Weighted(judged_by(server, "task", concurrency=1), 1.0)}
    return RewardBus(rewards=rewards, max_invalid=0.2)  # type: ignore[arg-type]


class Down(Callback):
    """The judge answers no more from an iteration on."""

    def __init__(self, iteration: int, server: Running) -> None:
        self.iteration, self.server = iteration, server

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if pl_module.iterations == self.iteration:
            self.server.behaviour = Behaviour(noise=15.0, always="http 500")


def test_a_training_whose_judge_is_down_ends_and_goes_on_later(server: Running, tmp_path: Path) -> None:
    server.behaviour = Behaviour(noise=15.0)
    make = partial(wmsd, judges=partial(judges, server=server), iterations=3)
    whole, saved = make(), tmp_path / "saved.ckpt"
    wanted = everything(whole, learn(whole, tmp_path / "whole"))
    interrupted = make()
    with pytest.raises(TooManyFailures, match=r"reward task: 6 of 6 judgements failed \(http 500: 6\)"):
        learn(interrupted, tmp_path / "down", Save(2, saved), Down(2, server))
    # Nothing was learned from what was not judged.
    before = torch.load(saved, weights_only=True)["state_dict"]
    assert interrupted.iterations == 2
    assert_same(before, interrupted.state_dict())
    server.behaviour = Behaviour(noise=15.0)
    resumed = make()
    assert_same(wanted, everything(resumed, learn(resumed, tmp_path / "again", resume=saved)))
    start = make().state_dict()
    assert any(not torch.equal(value, start[key]) for key, value in before.items() if key.startswith("network."))
