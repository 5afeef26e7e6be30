"""Alignment of actions and motion: lags are found, and where evidence is thin nothing is claimed."""

import numpy as np
import pytest

from wm_lightning.data.alignment import Moves, Verdict, align, motion


def recordings(
    count: int, frames: int, *, late: int = 0, strength: float = 1.0, other: int = 0, seed: int = 0
) -> list[Moves]:
    """Episodes that start and end slowly; motion follows the size of the action `late` frames before.

    `other` episodes further stand the actions that moved them.
    """
    source = np.random.default_rng(seed)
    slow = 0.5 * np.sin(np.linspace(0, np.pi, frames))
    sizes = [slow + source.uniform(0, 1, frames) for _ in range(count)]
    moved = [strength * np.roll(size, late)[:-1] + slow[:-1] + source.normal(0, 0.3, frames - 1) for size in sizes]
    signs = [source.choice([-1, 1], frames) for _ in range(count)]
    actions = [np.stack([size * sign, np.zeros(frames)], 1) for size, sign in zip(sizes, signs, strict=True)]
    return [Moves(actions[(number + other) % count], moved[number]) for number in range(count)]


@pytest.mark.parametrize("late", [0, 1, 2])
def test_right_lags_fit(late: int) -> None:
    found = align(recordings(8, 30, late=late))
    assert found.peak == late and found.verdict is Verdict.FITS and found.used == found.looked == 8


@pytest.mark.parametrize("late", [-2, -1, 3])
def test_wrong_lags_are_told(late: int) -> None:
    found = align(recordings(8, 30, late=late))
    assert found.peak == late and found.verdict is Verdict.LAGGED


@pytest.mark.parametrize("count", [4, 8, 16])
@pytest.mark.parametrize("strength", [0.0, 0.15])
def test_thin_evidence_refuses_hardly_ever(count: int, strength: float) -> None:
    """Of weakly related sets at most one in twelve is called late; of unrelated ones too."""
    found = [align(recordings(count, 33, strength=strength, seed=seed)).verdict for seed in range(12)]
    assert found.count(Verdict.LAGGED) <= 1
    assert strength == 0 or found.count(Verdict.UNRELATED) <= 1


def test_actions_of_other_episodes_are_told_where_there_are_enough() -> None:
    assert align(recordings(60, 30)).verdict is Verdict.FITS
    found = align(recordings(60, 30, other=1))
    # What episodes have in common correlates all the same.
    assert max(found.own) > 0.1 and found.verdict is Verdict.UNRELATED
    assert align(recordings(6, 30, other=1)).verdict is Verdict.UNTOLD


def test_short_episodes_are_looked_at_with_the_lags_they_have() -> None:
    found = align(recordings(25, 10, late=1))
    assert found.used == 25 and found.peak == 1 and found.verdict is Verdict.FITS
    assert align(recordings(25, 8, late=1)).lags == (-2, -1, 0, 1)
    # A lag that was not looked at may be the right one.
    assert align(recordings(25, 8, late=-1)).verdict is not Verdict.LAGGED
    for few in (align(recordings(25, 5)), align(recordings(4, 30)), align([])):
        assert few.verdict is Verdict.UNTOLD and few.peak is None
    mixed = align(recordings(10, 30) + recordings(3, 5))
    assert (mixed.used, mixed.looked, mixed.verdict) == (10, 13, Verdict.FITS)


def test_what_never_changes_tells_nothing() -> None:
    still = [Moves(one.actions, np.zeros_like(one.motion)) for one in recordings(8, 30)]
    constant = [Moves(np.ones_like(one.actions), one.motion) for one in recordings(8, 30)]
    assert align(still).used == align(constant).used == 0


def test_motion_is_the_change_from_every_frame_to_the_next() -> None:
    video = np.zeros((3, 4, 4, 3), np.uint8)
    video[1] = 10
    np.testing.assert_allclose(motion(video), [10, 10])
