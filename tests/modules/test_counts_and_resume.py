"""Exact numbers of updates, also across a stop in the middle of a cycle, and a continued run that is the same run."""

from math import ceil
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from tests.modules.making import adamw, dmd, fit, flat, muon, teacher, teacher_file, vid2world, vid2world_dmd
from wm_lightning.modules.base import WorldModelModule
from wm_lightning.modules.dmd import DMDModule
from wm_lightning.modules.initialisation import CausalConsistency, TeacherInit
from wm_lightning.modules.optimizers import Schedule

SETTINGS: dict[str, Any] = dict(
    iterations=9, replay_slots=2, fresh_every=2, student_optimizer=adamw(0.01), critic_optimizer=adamw(0.01),
    schedule=Schedule(warmup=2, decay_from=0.5, final=0.1),
)  # fmt: skip


class Journal(Callback):
    """Which networks every iteration changed; saves the checkpoint after one iteration."""

    def __init__(self, save: tuple[int, Path] | None = None) -> None:
        self.save = save
        self.changed: list[set[str]] = []
        self.before: dict[str, Tensor] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.before = _weights(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        after = _weights(pl_module)
        self.changed.append({name for name in after if not torch.equal(after[name], self.before[name])})
        if self.save is not None and pl_module.iterations == self.save[0]:
            trainer.save_checkpoint(self.save[1])


def _weights(module: Any) -> dict[str, Tensor]:
    parts = {name: getattr(module, name, None) for name in ("network", "student", "critic", "average", "teacher")}
    return {name: flat([p.detach().clone() for p in part.parameters()]) for name, part in parts.items() if part}


@pytest.mark.parametrize(("ratio", "warmup", "init"), [(2, 1, 0), (3, 0, 0), (1, 2, 0), (5, 2, 2), (2, 1, 3)])
def test_every_network_is_updated_exactly_as_often_as_planned(
    tmp_path: Path, ratio: int, warmup: int, init: int
) -> None:
    start = CausalConsistency(init, 8, 2.0) if init else TeacherInit()
    module, journal = dmd(**SETTINGS | dict(ratio=ratio, critic_warmup=warmup, init=start)), Journal()
    trainer = fit(module, tmp_path / "run", journal)
    left = 9 - init
    expected = {"critic": left, "student": ceil((left - warmup) / ratio)}
    assert (int(module.critic_updates), int(module.student_updates)) == (expected["critic"], expected["student"])
    assert int(module.average.updates) == expected["student"] + init
    changed = {name: sum(name in names for names in journal.changed) for name in ("student", "critic", "average")}
    assert changed == {"critic": left, "student": expected["student"] + init, "average": expected["student"] + init}
    learning = [i for i, names in enumerate(journal.changed) if "student" in names]
    assert learning == [*range(init), *range(init + warmup, 9, ratio)]
    assert not any("teacher" in names for names in journal.changed)
    assert module.iterations == 9 and trainer.global_step == sum(expected.values()) + init


@pytest.mark.parametrize(("make", "optimizer", "steps"), [(teacher, adamw(0.01), 4), (vid2world, muon(0.01), 8)])
def test_a_teacher_and_its_average_are_updated_in_every_iteration(
    tmp_path: Path, make: Any, optimizer: Any, steps: int
) -> None:
    module, journal = make(iterations=4, optimizer=optimizer, micro_batches=2), Journal()
    trainer = fit(module, tmp_path / "run", journal)
    assert journal.changed == [{"network", "average"}] * 4
    assert (module.iterations, int(module.average.updates)) == (4, 4)
    assert trainer.global_step == steps, "which counts every optimizer, so that nothing may hang on it"
    assert not int(module.skipped)


def everything(module: WorldModelModule, trainer: Trainer) -> dict[str, Any]:
    found = {"state": module.state_dict(), "optimizers": [o.state_dict() for o in trainer.optimizers]}
    if isinstance(module, DMDModule):
        found["replay"] = module.replay.state_dict(lambda rows: rows)
    return found


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif isinstance(one, Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


MAKERS: dict[str, Any] = {
    "dmd": lambda: dmd(**SETTINGS),
    "sid_after_init": lambda: dmd(**SETTINGS | dict(variant="sid", init=CausalConsistency(5, 8, 2.0))),
    "teacher": lambda: teacher(iterations=9, optimizer=adamw(0.01)),
    "vid2world": lambda: vid2world(iterations=5, optimizer=muon(0.01)),
    # Windows of its replay hold the first frame too, which the network is told of.
    "vid2world_dmd": lambda: vid2world_dmd(**SETTINGS | dict(iterations=4)),
}


@pytest.mark.parametrize(
    ("name", "stop"),
    [("dmd", 4), ("dmd", 5), ("sid_after_init", 4), ("teacher", 4), ("vid2world", 2), ("vid2world_dmd", 3)],
)
def test_a_continued_run_is_the_same_run(tmp_path: Path, name: str, stop: int) -> None:
    whole = MAKERS[name]()
    path = tmp_path / "saved.ckpt"
    before = everything(whole, fit(whole, tmp_path / "whole", Save(stop, path)))
    resumed = MAKERS[name]()
    after = everything(resumed, fit(resumed, tmp_path / "resumed", resume=path))
    assert_same(before, after)
    fresh = MAKERS[name]().state_dict()
    assert any(not torch.equal(value, before["state"][key]) for key, value in fresh.items())


class Save(Callback):
    """Saves after one iteration, for modules of any kind."""

    def __init__(self, iteration: int, path: Path) -> None:
        self.iteration, self.path = iteration, path

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if pl_module.iterations == self.iteration:
            trainer.save_checkpoint(self.path)


def test_a_checkpoint_holds_no_teacher_and_is_tied_to_it(tmp_path: Path) -> None:
    path = tmp_path / "saved.ckpt"
    module = dmd(**SETTINGS)
    fit(module, tmp_path / "run", Save(4, path))
    content = torch.load(path, weights_only=True)
    assert not [name for name in content["state_dict"] if name.startswith("teacher.")]
    assert content["teacher_hash"] == module.teacher_hash
    assert content["card"]["trained_for"]["steps"] == 2 and content["card"]["iterations"] == 4
    other = dmd(**SETTINGS | dict(teacher=teacher_file(module.critic)))
    with pytest.raises(ValueError, match="distilled from teacher .* name the same file"):
        fit(other, tmp_path / "other", resume=path)


@pytest.mark.parametrize("make", [teacher, vid2world])
def test_the_loss_of_a_teacher_step_does_not_depend_on_its_micro_batches(tmp_path: Path, make: Any) -> None:
    ends = []
    for parts in (1, 2, 3):
        module = make(iterations=2, micro_batches=parts)
        fit(module, tmp_path / f"run{parts}", batch_size=3)
        ends.append(flat([p.detach() for p in module.network.parameters()]))
    torch.testing.assert_close(ends[0], ends[1], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(ends[0], ends[2], atol=1e-6, rtol=1e-5)
