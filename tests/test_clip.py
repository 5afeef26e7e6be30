"""Clips and conditions: slices, nulls and joins keep every part in step, and originals as they were."""

from dataclasses import replace

import pytest
import torch

from wm_lightning.clip import ActionSpec, ActionState, Clip, Condition, to_pixels, to_unit

GIVEN, NONE, DROPPED = (int(state) for state in ActionState)


def condition(batch: int = 2, frames: int = 6) -> Condition:
    state = torch.full((batch, frames), GIVEN)
    state[:, 0] = NONE
    return Condition(torch.arange(batch * frames * 3.0).view(batch, frames, 3), state)


def clip(batch: int = 2, frames: int = 4, actions: int = 6) -> Clip:
    video = torch.arange(batch * frames * 2 * 2 * 2).view(batch, frames, 2, 2, 2).to(torch.uint8)
    truth = {"place": torch.arange(batch * frames).view(batch, frames)}
    return Clip(video, condition(batch, actions), torch.arange(batch) + 10, truth)


def test_frames_of_a_condition() -> None:
    part = condition().frames(1, 4)
    assert torch.equal(part.actions, condition().actions[:, 1:4])
    assert part.state.tolist() == [[GIVEN] * 3] * 2
    with pytest.raises(ValueError, match=r"frames 4\.\.6 asked for, 6 are there"):
        condition().frames(4, 7)


def test_null_drops_all_or_the_named_frames_and_leaves_the_original() -> None:
    given = condition()
    assert given.null().state.tolist() == [[DROPPED] * 6] * 2
    assert given.null([1, 5]).state.tolist() == [[NONE, DROPPED, GIVEN, GIVEN, GIVEN, DROPPED]] * 2
    assert given.null([]).state.equal(given.state)
    assert given.state.equal(condition().state)
    assert given.null().actions is given.actions


def test_drop_marks_where_the_mask_holds() -> None:
    mask = torch.zeros(2, 6, dtype=torch.bool)
    mask[1, 2] = True
    given = condition()
    expected = given.state.clone()
    expected[1, 2] = DROPPED
    assert given.drop(mask).state.equal(expected)
    assert given.state.equal(condition().state)


def test_conditions_join_over_batch_and_time() -> None:
    given = condition()
    over_time = Condition.cat([given.frames(0, 2), given.frames(2, 6)], dim=1)
    over_batch = Condition.cat([given[:1], given[1:]])
    for joined in (over_time, over_batch):
        assert joined.actions.equal(given.actions) and joined.state.equal(given.state)
    assert len(given[:1]) == 1


def test_a_clip_is_cut_in_all_its_parts_with_actions_longer_than_video() -> None:
    part = clip().frames(1, 3)
    assert part.video.equal(clip().video[:, 1:3])
    assert part.truth["place"].equal(clip().truth["place"][:, 1:3])
    assert part.condition.actions.equal(clip().condition.actions[:, 1:3])
    assert part.index.tolist() == [10, 11]
    row = clip()[1:]
    assert len(row) == 1 and row.index.tolist() == [11]
    assert row.truth["place"].tolist() == [[4, 5, 6, 7]]
    again = Clip.cat([clip()[:1], row])
    assert again.video.equal(clip().video) and again.index.equal(clip().index)
    assert again.condition.state.equal(clip().condition.state) and again.truth["place"].equal(clip().truth["place"])


def test_latents_are_cut_in_step_and_are_what_a_network_sees() -> None:
    of_pixels = clip()
    assert of_pixels.x0.equal(to_unit(of_pixels.video))
    latents = torch.arange(2 * 4 * 5 * 3 * 3).view(2, 4, 5, 3, 3).half()
    given = replace(of_pixels, latents=latents)
    assert given.x0.dtype == torch.float32 and given.x0.equal(latents.float())
    assert given.frames(1, 3).x0.equal(given.x0[:, 1:3])
    assert given[1:].x0.equal(given.x0[1:]) and given[torch.tensor([1, 0])].x0.equal(given.x0.flip(0))
    assert given.to("cpu").x0.equal(given.x0)
    assert Clip.cat([given[:1], given[1:]]).x0.equal(given.x0)
    assert given[torch.tensor([1])].index.tolist() == [11]


def test_every_pixel_value_survives() -> None:
    pixels = torch.arange(256).to(torch.uint8).view(1, 1, 1, 16, 16)
    unit = to_unit(pixels)
    assert unit.min() == -1 and unit.max() == 1
    assert to_pixels(unit).equal(pixels)
    assert to_pixels(torch.full((1, 1, 1, 1, 2), 7.0)).eq(255).all()
    assert to_pixels(torch.full((1, 1, 1, 1, 2), -7.0)).eq(0).all()


def test_action_spec_survives_plain_values() -> None:
    spec = ActionSpec(names=("x", "y"), low=(-1.0, 0.0), high=(1.0, 2.0), kind="discrete")
    plain = spec.to_dict()
    assert all(isinstance(value, list | str) for value in plain.values())
    assert ActionSpec.from_dict(plain) == spec and spec.dim == 2
    with pytest.raises(ValueError, match="must be equal"):
        ActionSpec(names=("x",), low=(0.0, 0.0), high=(1.0,))
