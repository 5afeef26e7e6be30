"""Two ranks that share every network (FSDP2) against one process that has them whole."""

from functools import partial, partialmethod
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.distributed.tensor import DTensor

from tests.modules.making import dmd, fit, muon, network, self_rollout, sgd, teacher, teacher_file, vid2world
from tests.modules.making_wmsd import learn, wmsd
from tests.modules.sharded_ranks import RANKS, in_two_ranks
from tests.modules.test_counts_and_resume import Save, assert_same
from tests.modules.test_ranks import adam, assert_close
from wm_lightning.config import compose
from wm_lightning.config_check import check
from wm_lightning.modules.base import WorldModelModule
from wm_lightning.modules.sharding import Sharded, networks
from wm_lightning.modules.teacher import MaskMixture
from wm_lightning.tasks.build import build_trainer

checkpointing: Any = partial(network, gradient_checkpointing=True)
MAKERS: dict[str, Any] = {
    "teacher_in_micro_batches": lambda: teacher(iterations=3, micro_batches=2, optimizer=adam),
    # Adam's state on every rank, a rollout of several passes before one backward pass, a replay that ranks share.
    "dmd": lambda: dmd(
        iterations=4, critic_warmup=0, ratio=2, replay_slots=3, fresh_every=2, student_optimizer=adam,
        critic_optimizer=adam, rollout=self_rollout(lengths=(4, 7), scored=3, exits="per_chunk"),
    ),
    "sid_checkpointing": lambda: dmd(
        network=checkpointing, teacher=teacher_file(checkpointing(seed=1)), iterations=2, critic_warmup=0, ratio=1,
        variant="sid",
    ),
    "muon": lambda: teacher(iterations=2, optimizer=muon(0.01)),
    "vid2world": lambda: vid2world(iterations=2),
    "executor": lambda: wmsd(iterations=2, optimizer=sgd(0.1), micro_batch=3),
}  # fmt: skip


def train(name: str, folder: Path, ranks: int, resume: Path | None = None) -> WorldModelModule:
    """Trains a module to its end, or from a checkpoint on, and saves it after its second iteration and at the end."""
    module = MAKERS[name]()
    changes: dict[str, Any] = {"strategy": Sharded(), "devices": RANKS} if ranks == RANKS else {}
    run: Any = learn if name == "executor" else fit
    saves = [Save(2, folder / "second.ckpt"), Save(module.total_iterations, folder / "end.ckpt")]
    run(module, folder / "run", *saves, batch_size=2 * 2 // ranks, resume=resume, **changes)
    return module


def sharded(name: str, folder: Path, resume: Path | None = None) -> None:
    """One rank's part: what it holds is sharded, and whole it is the other's."""
    module = train(name, folder, RANKS, resume)
    for held in networks(module):
        assert all(isinstance(parameter, DTensor) for parameter in held.parameters())
        assert sum(p.to_local().numel() for p in held.parameters()) < 0.7 * sum(p.numel() for p in held.parameters())  # type: ignore[operator]


def read(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("name", MAKERS)
def test_ranks_that_share_networks_are_one_process(tmp_path: Path, name: str) -> None:
    """With equal parameters within 2e-6 and 2e-5 of their size, as of ranks that have all of them."""
    folders = {ranks: tmp_path / f"of{ranks}" for ranks in (1, RANKS)}
    for folder in folders.values():
        folder.mkdir()
    in_two_ranks(lambda: sharded(name, folders[RANKS]))
    train(name, folders[1], 1)
    alone, shared = (read(folder / "end.ckpt") for folder in folders.values())
    assert_close(shared["state_dict"], alone["state_dict"])
    start = MAKERS[name]().state_dict()
    moved = [key for key, value in start.items() if not torch.equal(value, shared["state_dict"][key])]
    assert len(moved) > 10
    assert [state["param_groups"] for state in shared["optimizer_states"]] == [
        state["param_groups"] for state in alone["optimizer_states"]
    ]


def test_a_checkpoint_of_shares_goes_on_whole_and_the_other_way_round(tmp_path: Path) -> None:
    """On as many ranks bit for bit, on others within rounding."""
    whole, resumed, alone, one, back = (tmp_path / name for name in ("whole", "resumed", "alone", "one", "back"))
    for folder in (whole, resumed, alone, one, back):
        folder.mkdir()
    in_two_ranks(lambda: sharded("dmd", whole))
    in_two_ranks(lambda: sharded("dmd", resumed, whole / "second.ckpt"))
    before, after = read(whole / "end.ckpt"), read(resumed / "end.ckpt")
    assert_same(before["state_dict"], after["state_dict"])
    assert_same(before["optimizer_states"], after["optimizer_states"])
    assert not (resumed / "second.ckpt").exists(), "it began anew"
    train("dmd", alone, 1, whole / "second.ckpt")
    assert_close(read(alone / "end.ckpt")["state_dict"], before["state_dict"])
    train("dmd", one, 1)
    in_two_ranks(lambda: sharded("dmd", back, one / "second.ckpt"))
    assert_close(read(back / "end.ckpt")["state_dict"], before["state_dict"])


@pytest.mark.nightly
def test_compiled_networks_are_shared_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))
    # The checks of types at run time, which are the tests' own, take what is traced for no tensor.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    made: Any = lambda compiled: teacher(iterations=2, masks=MaskMixture((3,), (1.0,)), compile=compiled)  # noqa: E731
    for name, compiled in (("plain", False), ("compiled", True)):
        monkeypatch.setitem(MAKERS, name, partial(made, compiled))
        (tmp_path / name).mkdir()

    def work() -> None:
        sharded("compiled", tmp_path / "compiled")
        assert counters["stats"]["unique_graphs"], "it was not compiled"

    in_two_ranks(work)
    train("plain", tmp_path / "plain", 1)
    alone, shared = (read(tmp_path / name / "end.ckpt")["state_dict"] for name in ("plain", "compiled"))
    assert not any("_orig_mod" in key for key in shared)
    assert_close(shared, alone)


def test_the_config_names_it(tmp_path: Path) -> None:
    words = ["experiment=teacher", "size=debug", "trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=2"]
    config = compose([*words, "trainer.precision=bf16-mixed", f"run_dir={tmp_path}", f"cache_dir={tmp_path}"])
    check(config)
    assert isinstance(build_trainer(config).strategy, Sharded)
