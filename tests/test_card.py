"""A card refuses what its network was not trained for, and says so in words that help."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from wm_lightning.card import Card

TRAINED: dict[str, Any] = {
    "chunks": [1, 3, None], "context": 1, "clean_history": 0.7, "history_level": 0.12, "shared": 0.7, "steps": None,
    "commit": [{"mode": "clean", "t": 0.0}, {"mode": "noised", "t": 0.12}],
    "action_dropout": {"share": 0.1, "granularity": "clip"},
}  # fmt: skip
CARD = Card(
    kind="teacher",
    network={"_target_": "some.Network", "_partial_": True, "dim": 24, "gradient_checkpointing": False},
    path={"_target_": "some.Path", "shift": 1.0},
    action_spec={"names": ["x", "y"], "low": [0.0, 0.0], "high": [1.0, 1.0], "kind": "continuous"},
    action_shift=1,
    frame_shape=(3, 24, 24),
    trained_for=TRAINED,
    data="simulated-worldmap",
    iterations=7,
)


def trained(**changes: Any) -> Card:
    return replace(CARD, trained_for=TRAINED | changes)


def test_a_card_survives_json_and_a_checkpoint_without_pickle(tmp_path: Any) -> None:
    assert Card.from_dict(json.loads(json.dumps(CARD.to_dict()))) == CARD
    torch.save({"card": CARD.to_dict()}, tmp_path / "card.pt")
    assert Card.from_dict(torch.load(tmp_path / "card.pt", weights_only=True)["card"]) == CARD
    with pytest.raises(TypeError, match="later"):
        Card.from_dict({**CARD.to_dict(), "later": 1})


@pytest.mark.parametrize("chunk", [1, 3, None])
def test_trained_masks_are_allowed(chunk: int | None) -> None:
    CARD.require_mask(chunk, "rollout.mask")


@pytest.mark.parametrize(("chunk", "name"), [(2, r"chunkwise \(2\)"), (None, "bidirectional"), (1, "framewise")])
def test_other_masks_are_refused_with_the_known_ones(chunk: int | None, name: str) -> None:
    known = r"chunkwise \(3\), chunkwise \(4\)"
    message = rf"^rollout.mask needs the mask {name}, the teacher was trained with: {known}; choose"
    with pytest.raises(ValueError, match=message):
        trained(chunks=[3, 4]).require_mask(chunk, "rollout.mask")


ALLOWED = {("all", "clip"), ("all", "both"), ("newest", "frame"), ("newest", "both")}


@pytest.mark.parametrize("share", [0.0, 0.1])
@pytest.mark.parametrize("granularity", ["clip", "frame", "both"])
@pytest.mark.parametrize("pattern", ["all", "newest"])
def test_a_null_pattern_needs_its_own_dropout(pattern: str, granularity: str, share: float) -> None:
    card = trained(action_dropout={"share": share, "granularity": granularity})
    if share and (pattern, granularity) in ALLOWED:
        card.require_null(pattern, "guidance")
        return
    needed = "clip" if pattern == "all" else "frame"
    # What drops them one way already needs the other beside it.
    advised = "both" if share else needed
    message = f"guidance needs actions dropped by {needed}.*share={share} by {granularity}.*granularity={advised}"
    with pytest.raises(ValueError, match=message) as refused:
        card.require_null(pattern, "guidance")
    assert ("module.action_dropout.share above 0" in str(refused.value)) == (share == 0)


@pytest.mark.parametrize(("mode", "t"), [("clean", 0.0), ("noised", 0.0), ("noised", 0.12), ("scaled", 0.1)])
def test_commits_within_the_trained_history_are_allowed(mode: str, t: float) -> None:
    CARD.require_commit(mode, t, "rollout.commit")


@pytest.mark.parametrize(("mode", "t"), [("clean", 0.1), ("noised", 0.13), ("scaled", 0.2), ("last", 0.0)])
def test_other_commits_are_refused(mode: str, t: float) -> None:
    message = rf"rollout.commit commits with mode '{mode}' at t={t:g}, .*clean at t <= 0.0, noised at t <= 0.12"
    with pytest.raises(ValueError, match=message):
        CARD.require_commit(mode, t, "rollout.commit")


def test_a_commit_with_the_last_pass_counts_only_where_it_was_trained() -> None:
    """Its level is that of the sampler's last step, which its own t of 0 does not tell."""
    trained(commit=[{"mode": "last", "t": 0.0}]).require_commit("last", 0.0, "rollout.commit")
    with pytest.raises(ValueError, match="mode 'last'"):
        trained(commit=[{"mode": "clean", "t": 0.0}], history_level=0.0).require_commit("last", 0.0, "x")


def test_equal_cards_do_not_differ_however_they_were_stored() -> None:
    other = Card.from_dict(json.loads(json.dumps(CARD.to_dict())))
    other = replace(other, network={**other.network, "gradient_checkpointing": True}, iterations=9, revision="abc")
    assert CARD.differences(other) == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"network": {"_target_": "some.Network", "dim": 48}}, "network.dim: 24 against 48"),
        ({"network": {"_target_": "some.Network", "dim": 24, "new": 1}}, "network.new: None against 1"),
        ({"path": {"_target_": "other.Path", "shift": 1.0}}, "path._target_: 'some.Path' against 'other.Path'"),
        ({"action_shift": 0}, "action_shift: 1 against 0"),
        ({"first_action": "none"}, "first_action: 'stored' against 'none'"),
        ({"autoencoder": {"kind": "patch"}}, "autoencoder.kind: None against 'patch'"),
        ({"frame_shape": (3, 32, 24)}, "frame_shape: [3, 24, 24] against [3, 32, 24]"),
        (
            {"action_spec": {**CARD.action_spec, "names": ["x", "z"]}},
            "action_spec.names: ['x', 'y'] against ['x', 'z']",
        ),
    ],
)
def test_differences_name_the_very_value(changes: dict[str, Any], line: str) -> None:
    assert CARD.differences(replace(CARD, **changes)) == [line]


@pytest.mark.parametrize(("trained_context", "commit", "context"), [(1, "clean", 0), (0, "noised", 1), (2, "clean", 1)])
def test_given_frames_must_have_been_given_in_training(trained_context: int, commit: str, context: int) -> None:
    card = trained(context=trained_context, commit=[{"mode": commit, "t": 0.1}])
    with pytest.raises(ValueError, match=rf"module.score.context={context}: .*set it to {trained_context}"):
        card.require_context(context, "module.score.context")
    card.require_context(trained_context, "module.score.context")
    trained(context=1).require_context(3, "module.score.context")  # clean history is shown behind the first frame too


def test_a_score_of_whole_windows_needs_one_level_for_all_frames() -> None:
    never = trained(shared=0.0)
    with pytest.raises(ValueError, match="module.score noises all frames to one level.*bidirectional"):
        never.require_one_level(None, "module.score")
    never.require_one_level(3, "module.score")
    CARD.require_one_level(None, "module.score")


def test_a_student_steps_as_it_was_trained_to() -> None:
    sampler = {"name": "FewStepSampler", "steps": {"kind": "uniform", "steps": 4}}
    trained(sampler=sampler).require_sampler(sampler)
    CARD.require_sampler(sampler)  # a teacher's steps are free
    with pytest.raises(ValueError, match="was trained for the steps.*set sampler="):
        trained(sampler=sampler).require_sampler({**sampler, "name": "FewStepODESampler"})


def test_a_student_is_no_teacher() -> None:
    assert CARD.differences(replace(CARD, kind="student")) == ["kind: 'teacher' against 'student'"]
