"""An executor's iteration as `task=doctor` looks at it: sound ones pass, and every fault is told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from rich.console import Console

from wm_lightning.config import compose
from wm_lightning.modules import wmsd
from wm_lightning.modules.wmsd import WMSDModule
from wm_lightning.tasks import doctor_executor
from wm_lightning.tasks.doctor_executor import examine_executor

SMALL = ["experiment=wmsd_full", "data.world.scenes={train: 8, val: 4, test: 4}", "module.copies=2"]


def tiny(tmp_path: Path, *words: str) -> DictConfig:
    return compose(["size=debug", f"cache_dir={tmp_path}", f"run_dir={tmp_path / 'run'}", "trainer=cpu", *words])


def said(config: DictConfig) -> tuple[list[str], str]:
    console = Console(width=200, record=True, quiet=False)
    return examine_executor(console, config), console.export_text()


@pytest.mark.parametrize(
    "words",
    [[], ["surrogate=grpo", "sampler=cps", "surrogate.draws=1"], ["algorithm=on_policy_anchor"], ["algorithm=dmd"]],
    ids=["awm", "grpo", "anchor", "dmd"],
)
def test_a_sound_iteration_passes(words: list[str], tmp_path: Path) -> None:
    wrong, text = said(tiny(tmp_path, *SMALL, *words))
    assert wrong == [] and "WRONG" not in text and text.count("sound: ") >= 1
    assert ("ratio of the first update: 1.0" in text) is ("algorithm" not in "".join(words))


def shifted(own: Callable[..., Any]) -> Callable[..., Any]:
    """Rollouts by somebody else than who learns from them."""

    def rolled(self: WMSDModule, clip: Any, condition: Any, role: Any) -> Any:
        before = [parameter.detach().clone() for parameter in role.parameters()]
        with torch.no_grad():
            for parameter in role.parameters():
                parameter.mul_(2.0)
        made = own(self, clip, condition, role)
        with torch.no_grad():
            for parameter, value in zip(role.parameters(), before, strict=True):
                parameter.copy_(value)
        return made

    return rolled


def test_ratios_of_another_policy_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wmsd.WMSDModule, "rollouts", shifted(wmsd.WMSDModule.rollouts))
    wrong, text = said(tiny(tmp_path, *SMALL, "surrogate=grpo", "sampler=cps", "surrogate.draws=1"))
    assert any("ratio of the first update" in line for line in wrong) and "WRONG: ratio" in text
    assert any("told what the executor is" in line for line in wrong)


def test_solutions_that_say_nothing_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = doctor_executor.first_batch

    def deaf(*given: Any) -> Any:
        batch = looked(*given)
        return batch._replace(told=batch.asked)

    monkeypatch.setattr(doctor_executor, "first_batch", deaf)
    [wrong] = said(tiny(tmp_path, *SMALL))[0]
    assert wrong.startswith("a demonstrator that is told the solution: 0 of a velocity away")


def test_given_frames_that_change_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = wmsd.WMSDModule.rollouts

    def spoilt(self: WMSDModule, *told: Any) -> Any:
        made = own(self, *told)
        made.context.add_(0.1)
        return made

    monkeypatch.setattr(wmsd.WMSDModule, "rollouts", spoilt)
    assert "given frames: changed by the rollout" in said(tiny(tmp_path, *SMALL))[0]


def test_what_is_too_large_is_not_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_executor, "MOST_WEIGHTS", 10)
    monkeypatch.setattr(doctor_executor, "first_batch", lambda *_: pytest.fail("built"))
    wrong, text = said(tiny(tmp_path, *SMALL))
    assert not wrong and "An iteration is not looked at" in text
