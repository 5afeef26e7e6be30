"""Trainings in bfloat16 on the CPU: weights stay float32, gradients are as in float32, and a stop changes nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from tests.modules.making import dmd, fit, flat, teacher, vid2world
from tests.modules.test_counts_and_resume import MAKERS, Save, assert_same, everything
from wm_lightning.modules.teacher import TeacherModule
from wm_lightning.networks.video_unet import VideoUNet

BF16: dict[str, Any] = {"precision": "bf16-mixed"}


class Losses(Callback):
    """What every iteration logged."""

    def __init__(self) -> None:
        self.found: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.found.append({k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("train/")})


def layers(network: Any) -> list[Any]:
    """The first block's MLP, or what a video UNet has at its bottom: layers within frames, and layers along time."""
    if not isinstance(network, VideoUNet):
        return [network.blocks[0].mlp]
    stage: Any = network.middle[0]
    return [stage.res.conv1, stage.res.temporal[0], stage.spatial.mlp, stage.temporal.attention1]


def seen(network: Any) -> set[torch.dtype]:
    """Fills with the types that these layers give."""
    types: set[torch.dtype] = set()
    for layer in layers(network):
        layer.register_forward_hook(lambda _, __, out: types.add(out.dtype))
    return types


@pytest.mark.parametrize("name", ["teacher", "vid2world", "dmd", "sid_after_init"])
def test_a_training_computes_in_bfloat16_and_keeps_float32(tmp_path: Path, name: str) -> None:
    module, losses = MAKERS[name](), Losses()
    one = isinstance(module, TeacherModule)
    networks = [module.network] if one else [module.student, module.critic, module.teacher.network]
    types = [seen(network) for network in networks]
    before = flat([p.detach().clone() for p in module.deployed.parameters()])
    made = fit(module, tmp_path / "run", losses, **BF16)
    assert types == [{torch.bfloat16}] * len(networks), "the precision was not applied"
    assert len(losses.found) == module.total_iterations and all(losses.found)
    assert all(torch.isfinite(torch.tensor(value)) for found in losses.found for value in found.values())
    assert not int(module.skipped)
    kept = [value for value in module.state_dict().values() if value.is_floating_point()]
    kept += [value for o in made.optimizers for state in o.state.values() for value in state.values()]
    assert {value.dtype for value in kept if isinstance(value, Tensor)} == {torch.float32}
    assert not torch.equal(flat([p.detach() for p in module.deployed.parameters()]), before)


ONE: dict[str, Any] = {"teacher": lambda: teacher(iterations=1), "vid2world": lambda: vid2world(iterations=1)}


@pytest.mark.parametrize("name", ["teacher", "vid2world", "student", "critic"])
def test_gradients_are_those_of_float32_but_for_rounding(tmp_path: Path, name: str) -> None:
    """Of every parameter: autocast that reuses weights cast without gradient leaves them none, and says nothing."""
    steps: dict[str, dict[str, Tensor]] = {}
    for precision in ("32-true", "bf16-mixed"):
        module = ONE[name]() if name in ONE else dmd(iterations=1, critic_warmup=0, ratio=1)
        network: Any = module.network if name in ONE else getattr(module, name)
        before = {key: value.clone() for key, value in network.state_dict().items()}
        fit(module, tmp_path / precision, precision=precision)
        steps[precision] = {key: value - before[key] for key, value in network.state_dict().items()}
    exact, rounded = steps.values()
    assert {key for key, value in exact.items() if value.any()} == {k for k, value in rounded.items() if value.any()}
    ours, theirs = (flat(list(step.values())) for step in (rounded, exact))
    # 0.006 was measured, and 0.027 of the UNet, in which a gradient passes through some sixty products.
    most = 0.06 if name == "vid2world" else 0.03
    assert float((ours - theirs).norm()) < most * float(theirs.norm())
    assert not torch.equal(ours, theirs)


@pytest.mark.parametrize(("name", "stop"), [("teacher", 4), ("vid2world", 2), ("dmd", 5), ("sid_after_init", 4)])
def test_a_continued_run_is_the_same_run_in_bfloat16(tmp_path: Path, name: str, stop: int) -> None:
    whole, path = MAKERS[name](), tmp_path / "saved.ckpt"
    before = everything(whole, fit(whole, tmp_path / "whole", Save(stop, path), **BF16))
    resumed = MAKERS[name]()
    after = everything(resumed, fit(resumed, tmp_path / "resumed", resume=path, **BF16))
    assert_same(before, after)
    exact = MAKERS[name]()
    fit(exact, tmp_path / "exact")
    assert any(not torch.equal(value, before["state"][key]) for key, value in exact.state_dict().items())
