"""WMSD among actions: who is told what, what a fresh reader of goals adds at first, and a run that goes on."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.modules.making import flat, network
from tests.modules.making_goals import FRAMES, SIZES, goal_wmsd, goals, student, student_file
from tests.modules.making_wmsd import PLAN, STEPS, WORDS, algorithm, learn
from tests.modules.test_counts_and_resume import Save, assert_same, everything
from wm_lightning.clip import ActionState, Clip
from wm_lightning.modules.wmsd import WMSDModule
from wm_lightning.modules.wmsd_rollouts import Rollouts, rolled, said_by
from wm_lightning.networks.denoiser import Denoiser
from wm_lightning.networks.lora import LoRA
from wm_lightning.networks.prompt import PromptReader


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def clip(cache: Path) -> Clip:
    data = goals(cache)
    data.prepare_data()
    return next(data.clips("train", 2, FRAMES, 2))


def staged(module: WMSDModule, clip: Clip, cache: Path) -> tuple[Rollouts, Any, Any]:
    """One iteration's rollouts with both conditions, without a training."""
    module.trainer = type("Trainer", (), {"datamodule": goals(cache)})()  # type: ignore[assignment]
    asked, told = module.conditions(clip)
    return module.rollouts(clip, asked, module.network), asked, told


def made_by_student(module: WMSDModule, clip: Clip, condition: Any, made: Rollouts) -> Rollouts:
    """The same rollouts by the student itself, which has no reader."""
    model, noise = Denoiser(student().eval(), module.path), module.draws(clip).noise("wmsd")
    return rolled(model, STEPS, made.context, replace(condition, prompt=None), PLAN, noise, made.task)


def test_an_executor_is_told_the_goal_alone_and_a_demonstrator_the_actions_alone(clip: Clip, cache: Path) -> None:
    _, asked, told = staged(goal_wmsd(), clip, cache)
    assert bool((asked.state == int(ActionState.DROPPED)).all()) and asked.prompt is not None
    assert told.prompt is None and bool((told.state[:, 1:] == int(ActionState.GIVEN)).all())
    torch.testing.assert_close(told.actions, clip.condition.actions.repeat_interleave(3, 0), atol=0, rtol=0)


def test_before_the_first_update_a_goal_adds_nothing(clip: Clip, cache: Path) -> None:
    """The executor is the student without actions, to the bit."""
    module = goal_wmsd()
    made, asked, _ = staged(module, clip, cache)
    alone = made_by_student(module, clip, asked, made)
    assert torch.equal(made.made, alone.made) and torch.equal(made.velocities, alone.velocities)


def test_the_demonstrator_is_the_student_that_is_told_the_actions(clip: Clip, cache: Path) -> None:
    """To the bit, at the executor's states and in videos of its own."""
    module = goal_wmsd()
    made, _, told = staged(module, clip, cache)
    plain = Denoiser(student().eval(), module.path)
    assert torch.equal(module.taught(made, told), said_by(plain, made, told, PLAN.mask, module.sweep_batch))
    own = module.rollouts(clip, told, module.demonstrator)
    assert torch.equal(own.made, made_by_student(module, clip, told, own).made)
    assert float((module.taught(made, told) - made.velocities).abs().max()) > 1e-3, "actions change nothing"


def test_no_recorded_action_reaches_the_executor(clip: Clip, cache: Path) -> None:
    module = goal_wmsd(network=partial(network, seed=7, **SIZES, prompt=READER), start=student_file())
    made, _, told = staged(module, clip, cache)
    other = replace(clip, condition=replace(clip.condition, actions=-clip.condition.actions))
    again, _, others = staged(module, other, cache)
    assert torch.equal(again.made, made.made) and not torch.equal(told.actions, others.actions)


READER = partial(PromptReader, buckets=WORDS.buckets, depth=1, heads=2)


def test_only_what_is_named_as_new_may_be_missing() -> None:
    with pytest.raises(ValueError, match=r"module.start does not fit the network .*missing blocks\.2\."):
        goal_wmsd(network=partial(network, depth=3, **SIZES, prompt=READER))
    with pytest.raises(ValueError, match=r"missing blocks\.0\.prompt"):
        goal_wmsd(start_new=())
    with pytest.raises(ValueError, match=r"module.start_new=\['prompt'\] with module.lora"):
        goal_wmsd(lora=LoRA(rank=2, alpha=4.0, targets="blocks.*qkv"))


VARIANTS: dict[str, dict[str, Any]] = {
    "wmsd": {},
    "off_policy": {"rl": False, "states": "demonstrator"},
    "alternating": {"demonstrator": "rewarded", "turns": (1, 2)},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_kind_of_algorithm_learns_to_read_goals(tmp_path: Path, name: str) -> None:
    module = goal_wmsd(algorithm=algorithm(**VARIANTS[name]))
    before = {part: weights(module, part) for part in ("network", "average", "demonstrator")}
    assert module.network.prompt is not None
    words = module.network.prompt.words.weight.detach().clone()  # type: ignore[union-attr]
    learn(module, tmp_path / "run", data=goals)
    assert not torch.equal(before["network"], weights(module, "network"))
    assert not torch.equal(before["average"], weights(module, "average"))
    assert torch.equal(before["demonstrator"], weights(module, "demonstrator")) == (name != "alternating")
    assert not torch.equal(words, module.network.prompt.words.weight), "what the goal says is not learned"  # type: ignore[union-attr]
    assert module.iterations == 4 and not int(module.skipped)


def weights(module: WMSDModule, part: str) -> Tensor:
    return flat([parameter.detach().clone() for parameter in getattr(module, part).parameters()])


def test_a_continued_run_is_the_same_run(tmp_path: Path) -> None:
    whole, path = goal_wmsd(), tmp_path / "saved.ckpt"
    before = everything(whole, learn(whole, tmp_path / "whole", Save(2, path), data=goals))
    resumed = goal_wmsd()
    after = everything(resumed, learn(resumed, tmp_path / "resumed", resume=path, data=goals))
    assert_same(before, after)


def test_validation_judges_videos_of_goals(tmp_path: Path) -> None:
    module = goal_wmsd(iterations=2)
    made = learn(module, tmp_path / "run", data=goals, val_check_interval=2, limit_val_batches=2)
    assert {"val/score", "val/task_met", "val/consistency_met"} <= made.callback_metrics.keys()


def test_the_reader_of_a_fresh_network_is_not_silent_by_chance(clip: Clip, cache: Path) -> None:
    """With its output layers filled, the goal is heard: else the tests above would prove nothing."""
    module = goal_wmsd()
    made, asked, _ = staged(module, clip, cache)
    for block in module.network.blocks:  # type: ignore[union-attr]
        torch.nn.init.normal_(block.prompt.out.weight, std=0.1)  # type: ignore[union-attr,arg-type]
    again = module.rollouts(clip, asked, module.network)
    assert not torch.equal(again.made, made.made)
