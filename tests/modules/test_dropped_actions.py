"""A student that goes without actions now and then: what it, its teacher and its critic are told, and what it says."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.modules.making import FRAMES, clip, dmd, teacher_file
from wm_lightning.clip import ActionState, Clip
from wm_lightning.modules.dmd import DMDModule
from wm_lightning.modules.teacher import ActionDropout

DROPPED = int(ActionState.DROPPED)


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[[ActionDropout | None], DMDModule]:
    monkeypatch.setattr(DMDModule, "log", lambda *args, **kwargs: None)
    return lambda dropout: dmd(action_dropout=dropout, teacher=teacher_file(action_dropout=BOTH))


BOTH = {"share": 0.1, "granularity": "both"}


def mirrored(of: Clip) -> Clip:
    """The same clip with other actions."""
    actions = of.condition.actions.roll(1, dims=-1)
    return Clip(of.video, type(of.condition)(actions, of.condition.state), of.index)


def losses(module: DMDModule, of: Clip) -> list[float]:
    window = module.generate(of, "critic rollout", learn=False)
    return [float(module.student_loss(of)), float(module.critic_loss(window))]


def test_nobody_hears_what_is_dropped(make: Callable[[ActionDropout | None], DMDModule]) -> None:
    """With all clips without actions neither rollouts nor scores hang on any; as a rule they do."""
    deaf, hearing = make(ActionDropout(1.0, "clip")), make(None)
    first, other = clip(), mirrored(clip())
    assert losses(deaf, first) == losses(deaf, other)
    assert all(one != two for one, two in zip(losses(hearing, first), losses(hearing, other), strict=True))


def test_a_share_of_whole_clips_loses_its_actions(make: Callable[[ActionDropout | None], DMDModule]) -> None:
    module, many = make(ActionDropout(0.3, "clip")), clip(batch=200)
    dropped = module.heard(many).state == DROPPED
    assert torch.equal(dropped.any(1), dropped.all(1)), "a clip loses all or none"
    assert 0.2 < dropped.any(1).float().mean() < 0.4
    assert torch.equal(module.heard(many).state, module.heard(many).state), "who looks twice is told the same"
    assert torch.equal(module.heard(many[:7]).state, module.heard(many).state[:7]), "whatever the batch"
    module.iteration += 1
    assert not torch.equal(module.heard(many).state == DROPPED, dropped)


def test_single_frames_may_lose_theirs(make: Callable[[ActionDropout | None], DMDModule]) -> None:
    dropped = make(ActionDropout(0.3, "frame")).heard(clip(batch=50)).state == DROPPED
    assert dropped.shape == (50, FRAMES) and bool((dropped.any(1) & ~dropped.all(1)).any())


def test_the_card_says_what_was_dropped(make: Callable[[ActionDropout | None], DMDModule]) -> None:
    trained = [make(dropout).trained_for()["action_dropout"] for dropout in (ActionDropout(0.2, "clip"), None)]
    assert trained == [{"share": 0.2, "granularity": "clip"}, {"share": 0.0, "granularity": "frame"}]


@pytest.mark.parametrize(
    ("granularity", "teacher"),
    [("clip", {"share": 0.0, "granularity": "clip"}), ("clip", {"share": 0.1, "granularity": "frame"}),
     ("frame", {"share": 0.1, "granularity": "clip"}), ("both", {"share": 0.1, "granularity": "clip"})],
)  # fmt: skip
def test_a_teacher_that_never_went_without_is_refused(granularity: Any, teacher: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"module.action_dropout.granularity={granularity} needs actions dropped by"):
        dmd(action_dropout=ActionDropout(0.2, granularity), teacher=teacher_file(action_dropout=teacher))
    dmd(action_dropout=ActionDropout(0.0, granularity), teacher=teacher_file(action_dropout=teacher))
