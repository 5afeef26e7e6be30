"""What a training takes: held against the same step on real tensors, against the allocator, and against a machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch.optim import Optimizer
from torch.profiler import ProfilerActivity, profile

from tests.modules.making import ACTIONS, FRAMES, SIDE, adamw, card, clip, dmd, network, teacher
from tests.tiny_run import DMD, tiny
from wm_lightning.config import compose
from wm_lightning.modules.base import WorldModelModule
from wm_lightning.modules.teacher import MaskMixture, TeacherModule
from wm_lightning.tasks import estimate
from wm_lightning.tasks.build import declare_actions, plain_node
from wm_lightning.tasks.machine import free_memory, product_rate
from wm_lightning.tasks.meter import Meter, size_of
from wm_lightning.tasks.needs import Needs, needs_of, shares_of
from wm_lightning.tasks.planned import Planned, on_meta, plan_training
from wm_lightning.tasks.preflight import check_training
from wm_lightning.tasks.rehearsal import Batch, Rehearsal, _steps, _take_state, rehearse
from wm_lightning.tasks.speed import _highest

CLIPS = 4
BATCH = Batch(CLIPS, FRAMES, (3, SIDE, SIDE), ACTIONS)


def one_mask(*, checkpointing: bool = False, micro_batches: int = 1) -> TeacherModule:
    net = lambda: network(dim=48, gradient_checkpointing=checkpointing)  # noqa: E731
    masks = MaskMixture((None,), (1.0,))
    changes = {"masks": masks, "micro_batches": micro_batches, "optimizer": adamw(1e-3), "batch_size": CLIPS}
    return teacher(network=net, transfer=None, **changes)


def weightless(module: WorldModelModule) -> WorldModelModule:
    return module.to("meta")


def planned(module: WorldModelModule) -> Rehearsal:
    return rehearse(weightless(module), BATCH, precision="32-true")


def steps_of(module: WorldModelModule) -> Iterator[object]:
    """The same steps with values."""
    optimizers: list[Optimizer] = module.configure_optimizers()  # type: ignore[assignment]
    _take_state(optimizers)
    states = [value for o in optimizers for state in o.state.values() for value in state.values()]
    yield [*module.parameters(), *module.buffers(), *states]
    for _, step in _steps(module, optimizers, CLIPS):
        yield step


@pytest.mark.parametrize("make", [one_mask, lambda: one_mask(checkpointing=True), lambda: one_mask(micro_batches=2)])
def test_a_step_without_values_takes_what_one_with_values_does(make: object) -> None:
    held, *steps = steps_of(make())  # type: ignore[operator]
    meter, batch = Meter(), clip(CLIPS)
    meter.hold(held)  # type: ignore[arg-type]
    with meter:
        for step in steps:
            step(batch)  # type: ignore[operator]
    found = planned(make())  # type: ignore[operator]
    assert found.flops > 0
    # The clip's own pixels are bytes there and numbers here.
    assert abs(meter.most - found.most) <= size_of([batch.x0]) * 2
    assert found.most > 1.2 * (sum(found.weights.values()) + sum(found.optimizer.values()))


def test_the_allocator_says_the_same() -> None:
    held, step = steps_of(one_mask())
    batch = clip(CLIPS)
    step(batch)  # type: ignore[operator]  what is made once
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step(batch)  # type: ignore[operator]
    found = planned(one_mask())
    passing = found.most - size_of(held)  # type: ignore[arg-type]
    assert passing == pytest.approx(_highest(profiler), rel=0.15)


def test_recomputed_activations_and_smaller_micro_batches_take_less() -> None:
    made = (one_mask(), one_mask(checkpointing=True), one_mask(micro_batches=4))
    usual, again, split = map(planned, made)
    assert again.passing < 0.8 * usual.passing
    assert split.passing < 0.5 * usual.passing
    assert again.flops > usual.flops
    assert split.flops == pytest.approx(usual.flops, rel=0.01)


def test_roles_of_a_distillation_add_up() -> None:
    found = planned(dmd(student_optimizer=adamw(1e-3), critic_optimizer=adamw(1e-3), batch_size=CLIPS))
    size = size_of(network().parameters())
    assert {name: found.weights[name] for name in ("student", "teacher", "critic")} == dict.fromkeys(
        ("student", "teacher", "critic"), size
    )
    assert found.gradients["student"] == found.gradients["critic"] == size
    assert found.gradients["teacher"] == found.gradients["average"] == 0
    # AdamW keeps two values a parameter and counts its steps.
    tensors = len(list(network().parameters()))
    assert found.optimizer["student"] == found.optimizer["critic"] == 2 * size + 4 * tensors
    kept = sum(found.weights.values()) + sum(found.optimizer.values())
    assert kept + found.passing <= found.most <= kept + sum(found.gradients.values()) + found.passing


def test_muon_keeps_one_value_of_a_matrix(tmp_path: Path) -> None:
    found = needs_of(plan_of(tiny(tmp_path, "experiment=teacher"))[-1])
    assert found.roles["network's optimizer"] < 1.9 * found.roles["network's weights"]


def test_what_is_sharded_is_divided_by_the_devices_that_share_it(tmp_path: Path) -> None:
    words = ["experiment=teacher", "trainer=fsdp", "trainer.precision=32-true"]
    alone, shared, split = (
        needs_of(plan_of(tiny(tmp_path, *words, f"trainer.devices={devices}", *more))[-1])
        for devices, *more in ((1,), (4,), (2, "+trainer.num_nodes=2", "module.micro_batches=2"))
    )
    for role in ("network's weights", "average's weights", "network's optimizer"):
        assert shared.roles[role] == split.roles[role] == -(-alone.roles[role] // 4) > 0
    assert shared.roles["network's gradients"] == -(-alone.roles["network's gradients"] // 4)
    # They are added up whole, and shared out at the end.
    assert split.roles["network's gradients"] == alone.roles["network's gradients"]
    whole = shared.roles["blocks that are whole while they run"]
    assert 0 < whole <= 2 * alone.roles["network's weights"] and alone.flops == shared.flops
    assert shared.most <= alone.most - 0.75 * alone.roles["network's optimizer"] + whole
    assert "one of 4 shares" in str(shared) and "shares" not in str(alone)


@pytest.mark.parametrize(
    ("devices", "shares"), [(4, 4), ("2", 2), ([0, 3], 2), ("0,3,5", 3), ("auto", 1), (-1, 1)], ids=str
)
def test_shares_are_as_many_as_devices(tmp_path: Path, devices: object, shares: int) -> None:
    config = tiny(tmp_path, "experiment=teacher", "trainer=fsdp", "trainer.accelerator=cpu", "+trainer.num_nodes=3")
    config.trainer.devices = devices
    assert shares_of(config) == 3 * shares
    assert shares_of(tiny(tmp_path, "experiment=teacher", "trainer=ddp", "trainer.devices=4")) == 1


def plan_of(config: DictConfig) -> tuple[Planned, ...]:
    data = instantiate(config.data, _convert_="all")
    declare_actions(config, data)
    return plan_training(config, data).trainings


def test_the_full_size_network_is_that_of_dynamicrafter() -> None:
    words = ["experiment=vid2world_base", "size=paper", "data=rt1", "network.channels=4", "network.actions=10"]
    words += ["network.height=40", "network.width=64"]
    net = on_meta(instantiate(plain_node(compose(words), "network"), _convert_="all"))
    assert sum(p.numel() for p in net.parameters()) == 1_438_854_980


RECIPE = ["module.teacher.ckpt_path=null", "module.teacher.recipe.batch_size=4"]


@pytest.mark.parametrize(("words", "keys"), [
    # One mask of three, for the sake of time.
    pytest.param(
        ["experiment=teacher", "module.masks.shares=[0.0,1.0,0.0]"], ("module.micro_batches=", "module.batch_size="),
        marks=pytest.mark.slow,
    ),
    pytest.param(["experiment=dmd_chunkwise", *RECIPE, *DMD], ("module.teacher.recipe.",), marks=pytest.mark.nightly),
])  # fmt: skip
def test_a_machine_too_small_is_told_what_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], keys: tuple[str, ...]
) -> None:
    words = [*words, "module.batch_size=4", "estimate.say=true"]
    config = tiny(tmp_path, *words)
    needs = needs_of(plan_of(tiny(tmp_path, *words))[0])
    monkeypatch.setattr(estimate, "free_memory", lambda device: int(0.7 * needs.most))
    with pytest.raises(ValueError, match="what would fit") as refused:
        check_training(config)
    message = str(refused.value)
    assert "weights" in message
    assert "activations" in message
    assert all(key in message for key in (*keys, "estimate.refuse=false"))
    assert not (tmp_path / "cache").exists(), "data were simulated before the refusal"
    for way in message.split("what would fit: ")[1].split(";")[0].split(" or "):
        assert needs_of(plan_of(tiny(tmp_path, *words, *way.split()))[0]).most <= 0.95 * 0.7 * needs.most
    check_training(tiny(tmp_path, *words, "estimate.refuse=false"))


@pytest.mark.nightly
def test_where_weights_alone_do_not_fit_nothing_is_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "free_memory", lambda device: 1000)
    with pytest.raises(ValueError, match="no smaller batch"):
        check_training(tiny(tmp_path, "experiment=teacher", "estimate.say=true"))


@pytest.mark.parametrize(
    ("place", "name", "word"),
    [
        ("module.start.module", "pretraining", "module.start=FILE"),
        ("module.teacher.recipe", "teacher", "module.teacher.ckpt_path=FILE"),
        ("module.start.module.teacher.recipe", "teacher", "module.start.module.teacher.ckpt_path=FILE"),
        ("module", "vid2world", None),
    ],
)
def test_a_training_that_comes_first_is_told_what_spares_it(place: str, name: str, word: str | None) -> None:
    first = Planned(place, OmegaConf.create({"name": name}), one_mask(), card(), None)
    said = estimate.refusal(first, Needs(name, {"weights": 2000}, 2000, 1.0, 5), 1000, 0.95)
    assert (f"; {word} takes a network that is there, without this training" in said) == (word is not None)
    assert "FILE" not in said or word is not None


def test_free_memory_is_what_the_system_and_the_container_allow(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  4096 kB\nMemAvailable:  2048 kB\n")
    cpu, nowhere = torch.device("cpu"), tmp_path / "none"
    assert free_memory(cpu, meminfo=meminfo, cgroup=nowhere) == 2048 * 1024
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    assert free_memory(cpu, meminfo=meminfo, cgroup=tmp_path) == 600_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(cpu, meminfo=meminfo, cgroup=tmp_path) == 2048 * 1024


def test_products_have_a_rate() -> None:
    assert 1e8 < product_rate(torch.device("cpu"), torch.float32) < 1e15


def test_shares_are_shares() -> None:
    with pytest.raises(ValueError, match="estimate.usable=1.5"):
        estimate.Limits(say=True, refuse=True, usable=1.5, efficiency=0.5)
