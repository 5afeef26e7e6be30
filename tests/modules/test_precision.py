"""Trainings in bfloat16 on the CPU: weights stay float32, gradients are as in float32, and a stop changes nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn

from tests.modules.making import dmd, fit, flat, teacher
from tests.modules.test_counts_and_resume import MAKERS, Save, assert_same, everything

BF16: dict[str, Any] = {"precision": "bf16-mixed"}


class Losses(Callback):
    """What every iteration logged."""

    def __init__(self) -> None:
        self.found: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.found.append({k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("train/")})


def seen(network: nn.Module) -> set[torch.dtype]:
    """Fills with the types that the first block's MLP gives."""
    types: set[torch.dtype] = set()
    network.blocks[0].mlp.register_forward_hook(lambda _, __, out: types.add(out.dtype))  # type: ignore[index]
    return types


@pytest.mark.parametrize("name", ["teacher", "dmd", "sid_after_init"])
def test_a_training_computes_in_bfloat16_and_keeps_float32(tmp_path: Path, name: str) -> None:
    module, losses = MAKERS[name](), Losses()
    networks = [module.network] if name == "teacher" else [module.student, module.critic, module.teacher.network]
    types = [seen(network) for network in networks]
    before = flat([p.detach().clone() for p in module.deployed.parameters()])
    made = fit(module, tmp_path / "run", losses, **BF16)
    assert types == [{torch.bfloat16}] * len(networks), "the precision was not applied"
    assert len(losses.found) == 9 and all(losses.found)
    assert all(torch.isfinite(torch.tensor(value)) for found in losses.found for value in found.values())
    assert not int(module.skipped)
    kept = [value for value in module.state_dict().values() if value.is_floating_point()]
    kept += [value for o in made.optimizers for state in o.state.values() for value in state.values()]
    assert {value.dtype for value in kept if isinstance(value, Tensor)} == {torch.float32}
    assert not torch.equal(flat([p.detach() for p in module.deployed.parameters()]), before)


@pytest.mark.parametrize("name", ["teacher", "student", "critic"])
def test_gradients_are_those_of_float32_but_for_rounding(tmp_path: Path, name: str) -> None:
    """Of every parameter: autocast that reuses weights cast without gradient leaves them none, and says nothing."""
    steps: dict[str, dict[str, Tensor]] = {}
    for precision in ("32-true", "bf16-mixed"):
        module = teacher(iterations=1) if name == "teacher" else dmd(iterations=1, critic_warmup=0, ratio=1)
        network: Any = module.network if name == "teacher" else getattr(module, name)
        before = {key: value.clone() for key, value in network.state_dict().items()}
        fit(module, tmp_path / precision, precision=precision)
        steps[precision] = {key: value - before[key] for key, value in network.state_dict().items()}
    exact, rounded = steps.values()
    assert {key for key, value in exact.items() if value.any()} == {k for k, value in rounded.items() if value.any()}
    ours, theirs = (flat(list(step.values())) for step in (rounded, exact))
    # 0.006 was measured.
    assert float((ours - theirs).norm()) < 0.03 * float(theirs.norm())
    assert not torch.equal(ours, theirs)


@pytest.mark.parametrize(("name", "stop"), [("teacher", 4), ("dmd", 5), ("sid_after_init", 4)])
def test_a_continued_run_is_the_same_run_in_bfloat16(tmp_path: Path, name: str, stop: int) -> None:
    whole, path = MAKERS[name](), tmp_path / "saved.ckpt"
    before = everything(whole, fit(whole, tmp_path / "whole", Save(stop, path), **BF16))
    resumed = MAKERS[name]()
    after = everything(resumed, fit(resumed, tmp_path / "resumed", resume=path, **BF16))
    assert_same(before, after)
    exact = MAKERS[name]()
    fit(exact, tmp_path / "exact")
    assert any(not torch.equal(value, before["state"][key]) for key, value in exact.state_dict().items())
