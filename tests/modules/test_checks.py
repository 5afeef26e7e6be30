"""Distillations that cannot work are refused before they start, with what to change."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from tests.modules.making import FRAMES, LAW, PLAN, dmd, score, self_rollout, teacher, teacher_file, vid2world
from tests.networks.tiny_unet import tiny_unet
from wm_lightning.modules.initialisation import CausalConsistency
from wm_lightning.networks.masks import FrameMask
from wm_lightning.objectives.denoising import FrameLevels

FOUR = replace(PLAN, chunk=2, mask=FrameMask(2))
CD = CausalConsistency(2, 8, 2.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(plan=replace(PLAN, chunk=4)), "leaves 6 after 1 of context, which chunks of 4 do not divide"),
        (dict(rollout=self_rollout(lengths=(7, 8), scored=3)), "leaves 7 after 1 of context, which chunks of 3"),
        (dict(rollout=self_rollout(lengths=(10,))), "10 frames needs as many actions, clips have 7"),
        (dict(rollout=self_rollout(scored=7)), "7 scored frames and their context do not fit into 7"),
        (dict(rollout=self_rollout(lengths=(4, 7), scored=6)), "6 scored frames .* do not fit into 4"),
        (dict(score=score(context=2)), "6 scored frames and their context do not fit into 7"),
        (dict(context=4, rollout=self_rollout(scored=6)), "6 scored frames and their context do not fit into 7"),
        (dict(rollout=self_rollout(grad_frames=0)), "grad_frames=0 lets nothing learn"),
        (dict(plan=FOUR), r"rollout.mask needs the mask chunkwise \(2\), the teacher was trained with: framewise"),
        (dict(plan=FOUR, init=CD), r"rollout.mask needs the mask chunkwise \(2\)"),
        (dict(score=score(mask=FrameMask(2))), r"module.score.mask needs the mask chunkwise \(2\)"),
        (dict(teacher=teacher_file(frames=6)), "module.rollout.scored spans 7 frames, .* on clips of 6"),
        (dict(teacher=teacher_file(chunks=[3])), "module.score.mask needs the mask bidirectional"),
    ],
)
def test_what_cannot_be_distilled_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dmd(**changes)


@pytest.mark.parametrize(("share", "granularity"), [(0.0, "clip"), (0.1, "frame")])
def test_guidance_needs_a_teacher_whose_clips_lost_their_actions(share: float, granularity: str) -> None:
    dropout = {"share": share, "granularity": granularity}
    file = teacher_file(action_dropout=dropout)
    with pytest.raises(ValueError, match="guidance of the teacher's score needs actions dropped by clip or both"):
        dmd(teacher=file, score=score(guidance=1.5))
    dmd(teacher=file)
    dmd(score=score(guidance=1.5))


@pytest.mark.parametrize("changes", [dict(init=CD), dict(regression=CD)], ids=["init", "regression"])
def test_lessons_need_a_network_that_can_be_teacher_forced(changes: dict[str, Any]) -> None:
    """Convolutions along time would show noisy frames the end of their clean copy."""
    made = partial(tiny_unet, tokens=None)
    framewise = dict(plan=replace(PLAN, chunk=1, mask=FrameMask(1)), score=score(mask=FrameMask(1)))
    with pytest.raises(ValueError, match=r"which a VideoUNet cannot be.*init=teacher and module\.regression=null"):
        dmd(network=made, teacher=teacher_file(made()), **framewise, **changes)


def test_teacher_weights_of_another_network_are_named() -> None:
    file = teacher_file()
    weights = {name: value for name, value in file.weights.items() if name != "head.linear.bias"}
    with pytest.raises(ValueError, match="the teacher's checkpoint .* missing head.linear.bias"):
        dmd(teacher=replace(file, weights=weights))


def test_a_students_card_declares_its_own_rollout() -> None:
    module = dmd()
    card = replace(module.teacher_card, kind="student", trained_for=module.trained_for())
    assert card.trained_for["teacher"] == module.teacher_hash and card.trained_for["steps"] == 2
    card.require_mask(3, "rollout.mask")
    card.require_commit("clean", 0.0, "rollout.commit")
    for refused in (lambda: card.require_mask(1, "x"), lambda: card.require_null("all", "x")):
        with pytest.raises(ValueError, match="the student was trained with"):
            refused()
    for mode, t in (("last", 0.0), ("noised", 0.1), ("scaled", 0.1)):
        with pytest.raises(ValueError, match="the student was trained with: clean at t <= 0"):
            card.require_commit(mode, t, "rollout.commit")


def test_frames_that_are_clean_at_random_are_declared() -> None:
    levels = FrameLevels(
        law=replace(LAW, uniform_share=0.0), context=0, clean_history=0.0, history_level=0.5, shared=0.0
    )
    commits = [
        [entry["mode"] for entry in teacher(levels=chosen).trained_for()["commit"]]
        for chosen in (levels, replace(levels, clean_share=0.5))
    ]
    assert commits == [["noised"], ["clean", "noised"]]
    assert teacher().trained_for()["frames"] == FRAMES
    assert vid2world().trained_for()["frames"] is None, "there are no places in time that could run out"
