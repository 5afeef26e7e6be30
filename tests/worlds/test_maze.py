"""What the maze's keys and clicks do, one frame at a time."""

from dataclasses import replace

import numpy as np
import pytest

from wm_lightning.data.formats.csgo import COLUMNS
from wm_lightning.worlds.maze_dynamics import KEY, MAGAZINE, RADIUS, RELOAD, RUN, Scene, advance, first_scene
from wm_lightning.worlds.maze_policies import ASIDE
from wm_lightning.worlds.maze_render import render

# A room of 3 x 3 free cells; the player in its middle looks along x, and the picture's right is along y.
ROOM = np.ones((1, 5, 5), np.uint8)
ROOM[0, 1:4, 1:4] = 0
MIDDLE = np.array([[2.5, 2.5]])


@pytest.fixture
def start() -> Scene:
    scene = first_scene(ROOM, [np.random.default_rng(0)])
    return replace(scene, place=MIDDLE, yaw=np.zeros(1), bot=np.array([[1.5, 1.5]]))


def after(scene: Scene, *keys: str, frames: int = 1) -> Scene:
    action = np.zeros((1, len(COLUMNS)))
    action[:, [KEY[key] for key in keys]] = 1
    for _ in range(frames):
        scene = advance(scene, ROOM, action, np.zeros(1))
    return scene


@pytest.mark.parametrize(
    ("keys", "step"),
    [("w", (RUN, 0)), ("s", (-RUN, 0)), ("d", (0, RUN)), ("a", (0, -RUN)), ("ws", (0, 0)), ("ad", (0, 0))],
)
def test_keys_walk_ahead_back_and_aside(start: Scene, keys: str, step: tuple[float, float]) -> None:
    # No column of the mouse is set, which is its leftmost step: the turn comes before the stride, so it is undone.
    turned = after(start)
    start = replace(start, yaw=start.yaw - turned.yaw)
    np.testing.assert_allclose(after(start, *keys).place - MIDDLE, [step], atol=1e-12)


def test_aside_is_to_the_pictures_right(start: Scene) -> None:
    """After a step to the right, things ahead stand further left."""
    bot = replace(start, bot=np.array([[3.5, 2.5]]))
    here, there = (render(scene, ROOM, 40, 60)[0].astype(int) for scene in (bot, replace(bot, place=MIDDLE + [0, 0.2])))
    middle = [np.nonzero((np.minimum(p[..., 0], p[..., 2]) - p[..., 1] > 60).any(0))[0].mean() for p in (here, there)]
    assert middle[1] < middle[0] - 3


def test_nobody_walks_through_walls(start: Scene) -> None:
    for key in "wasd":
        place = after(start, key, frames=200).place
        assert (place >= 1 + RADIUS - 1e-9).all() and (place <= 4 - RADIUS + 1e-9).all()
    steps = [after(start, "w", frames=count).bot for count in range(1, 100, 7)]
    assert all(((bot >= 1 + RADIUS - 1e-9) & (bot <= 4 - RADIUS + 1e-9)).all() for bot in steps)


def test_a_shot_costs_a_cartridge_and_flashes_until_none_is_left(start: Scene) -> None:
    shot = after(start, "left_click")
    assert shot.flash[0] and shot.ammunition[0] == MAGAZINE - 1 and not after(shot).flash[0]
    lit, dark = render(shot, ROOM, 40, 60)[0], render(replace(shot, flash=np.zeros(1, bool)), ROOM, 40, 60)[0]
    assert lit[30:36, 27:33].astype(int).sum() > dark[30:36, 27:33].astype(int).sum() + 2000
    empty = after(start, "left_click", frames=MAGAZINE + 3)
    assert empty.ammunition[0] == 0 and not empty.flash[0]
    assert after(after(empty, "r"), frames=RELOAD).ammunition[0] == MAGAZINE
    assert not after(after(empty, "r"), "left_click").flash[0], "one does not shoot while one loads"


def test_a_right_click_does_nothing_and_no_policy_makes_one(start: Scene) -> None:
    with_click, without = after(start, "right_click"), after(start)
    assert all(np.array_equal(getattr(with_click, name), getattr(without, name)) for name in Scene.__annotations__)
    assert "right_click" not in ASIDE
