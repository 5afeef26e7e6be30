"""The rover among posts: along them, never through, with a state that says so."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from wm_lightning.data.formats.recon import normalised
from wm_lightning.data.formats.source import load_arrays
from wm_lightning.worlds.rover import RoverWorld
from wm_lightning.worlds.rover_dynamics import CLEAR, TOUCH, cleared, driven
from wm_lightning.worlds.rover_ground import CELL, CELLS, Ground
from wm_lightning.worlds.rover_render import EYE, FIELD, HORIZON, Poses, render

WORLD = RoverWorld(
    seed=0,
    length=40,
    episodes=dict(train=6, val=1, test=1),
    height=24,
    width=32,
    posts=60,
    roll=0.1,
    hills=0.08,
    workers=1,
)
GOLDEN = [-5.852506, 1.098065, 1.425035, 0.242132, -0.01571425, -1.43807, -3.422154, 133.4874]
POST = np.array([[[1.0, 0.0]]])


def at(x: float, y: float) -> np.ndarray:
    return np.array([[x, y]])


def test_a_post_is_slid_along_and_not_passed_through() -> None:
    ahead = driven(at(0.4, 0.1), at(0.7, 0.1), POST)
    assert np.linalg.norm(ahead - POST[0]) >= CLEAR - 1e-9 and ahead[0, 1] > 0.1, "it is not led past the post"
    assert np.array_equal(driven(at(0.4, 0.0), at(1.6, 0.0), POST), at(0.4, 0.0)), "a long step jumped through"
    assert np.array_equal(driven(at(0.4, 0.9), at(0.7, 0.9), POST), at(0.7, 0.9)), "a free step is altered"
    again = driven(at(0.4, 0.1), ahead, POST)
    np.testing.assert_allclose(again, ahead, atol=1e-12)
    assert np.linalg.norm(cleared(at(1.1, 0.0), POST) - POST[0]) >= CLEAR - 1e-9


def test_no_episode_enters_a_post_and_contact_is_stored(tmp_path: Path) -> None:
    WORLD.write(tmp_path, lambda done: None)
    states = [load_arrays(path) for path in sorted(tmp_path.rglob("*.state.npz"))]
    contacts = 0
    for state in states:
        split, episode = state["ground"][0]
        posts = WORLD._ground(int(split), int(episode)).posts
        near = np.linalg.norm(state["position"][:, None] - posts, axis=-1).min(1)
        assert (near >= CLEAR - TOUCH).all()
        assert np.array_equal(state["contact"], near < CLEAR + TOUCH)
        contacts += int(state["contact"].sum())
    assert contacts > 5, "nothing was touched, so nothing is tried"


def test_branches_that_drive_at_a_post_end_at_it(tmp_path: Path) -> None:
    WORLD.write(tmp_path, lambda done: None)
    states = [load_arrays(path) for path in sorted(tmp_path.rglob("*.state.npz"))]
    saved = {key: np.stack([state[key][5] for state in states]) for key in states[0]}
    steps = 30
    actions = np.zeros((len(states), steps, 3))
    actions[..., :2] = normalised(at(0.4, 0.0))
    rolls = np.zeros((len(states), steps, 2))
    _, after = WORLD.branch(saved, actions, rolls)
    for row, (split, episode) in enumerate(saved["ground"].tolist()):
        near = np.linalg.norm(after["position"][row][:, None] - WORLD._ground(split, episode).posts, axis=-1).min(1)
        assert (near >= CLEAR - TOUCH).all() and np.array_equal(after["contact"][row], near < CLEAR + TOUCH)
    assert after["contact"].any()
    # Every episode by itself goes as it does beside others.
    alone = WORLD.branch({key: values[2:3] for key, values in saved.items()}, actions[2:3], rolls[2:3])[1]
    assert all(np.array_equal(alone[key][0], after[key][2]) for key in after)


def hilly(seed: int, hills: float = 0.08) -> Ground:
    return Ground.drawn(np.random.default_rng(seed), 1, 12.0, hills)


def test_hills_are_smooth_repeat_and_are_as_steep_as_asked() -> None:
    ground, places = hilly(0), np.random.default_rng(1).uniform(-24, 24, (4000, 2))
    step = np.array([1e-4, 0.0])
    for axis in range(2):
        rise = (ground.height(places + np.roll(step, axis)) - ground.height(places - np.roll(step, axis))) / 2e-4
        np.testing.assert_allclose(ground.slope(places)[:, axis], rise, atol=1e-6)
    np.testing.assert_allclose(ground.height(places + [0, CELL * CELLS]), ground.height(places), atol=1e-9)
    slopes = np.stack([hilly(seed).slope(places) for seed in range(20)])
    assert 0.07 < slopes.std() < 0.09 and np.abs(slopes).max() < 0.3
    assert not hilly(0, 0.0).height(places).any()
    uphill = ground.pitch(places[:1], np.arctan2(*ground.slope(places[:1])[0, ::-1])[None])
    assert uphill > 0, "the nose is not up where it looks uphill"


def horizon_of(ground: Ground, place: np.ndarray, yaw: float, pitch: float) -> float:
    """Rows of sky in the middle columns of a picture, mean; posts and ball stand behind."""
    back = place - 5 * np.array([[np.cos(yaw), np.sin(yaw)]])
    apart = Ground(ground.waves, ground.texture, back, ground.colours)
    poses = Poses(place, np.array([yaw]), ground.height(place), np.array([pitch]), back)
    picture = render(apart, poses, 96, 128)[0].astype(int)
    return float((picture[..., 2] > picture[..., 0] + 20).sum(0)[54:74].mean())


def test_the_picture_shows_the_grounds_shape() -> None:
    level, hills = hilly(0, 0.0), [hilly(seed, 0.2) for seed in range(30)]
    place = np.zeros((1, 2))
    flat = horizon_of(level, place, 0.3, 0.0)
    focus = 64 / np.tan(0.5 * FIELD)
    assert abs(flat - HORIZON * 96) < 3, "haze makes the last metres as blue as sky"
    assert abs(horizon_of(level, place, 0.3, 0.1) - flat - focus * np.tan(0.1)) < 1.5, "a nose up lowers the horizon"
    # A ray by brute force: how high the steepest line of sight to the ground is, and so the row it is seen in.
    seen, told, away = [], [], []
    for ground in hills:
        far = np.linspace(0.3, 60, 20000)
        rise = ground.height(far[:, None] * [np.cos(0.3), np.sin(0.3)]) - ground.height(place) - EYE
        told.append(HORIZON * 96 - focus * (rise / far).max())
        away.append(far[(rise / far).argmax()])
        seen.append(horizon_of(ground, place, 0.3, 0.0))
    near = np.array(away) < 12  # what is farther off is as blue as the sky
    off = np.abs(np.array(seen) - np.array(told))[near]
    assert near.sum() >= 4 and np.array(told)[near].std() > 2 and off.max() < 1, (seen, told)


def test_a_picture_hangs_on_its_own_pose_alone() -> None:
    videos, drives = WORLD.simulate("train", range(3))
    ground, drive = WORLD._ground(0, 1), drives[1]
    poses = drive.on(ground)
    for start, stop in ((0, 40), (7, 8), (13, 40)):
        part = slice(start, stop)
        some = Poses(poses.place[part], poses.yaw[part], poses.height[part], poses.pitch[part], poses.ball[part])
        assert np.array_equal(render(ground, some, 24, 32), videos[1, part])
    assert np.array_equal(WORLD.simulate("train", range(1, 2))[0][0], videos[1])


def test_hills_hide_what_stands_behind_them() -> None:
    """A post sinks behind a hill: fewer of its rows are seen than on level ground as far away."""
    place, away = np.zeros((1, 2)), np.array([[9.0, 0.0]])
    colours = np.array([[255.0, 0.0, 255.0]], np.float32)
    rows = []
    for high in (0.0, 0.35):
        hill = np.array([[2 * np.pi / 9, 0.0, high, -np.pi / 2]])  # a valley here and there, a crest between
        ground = Ground(hill, np.zeros((CELLS, CELLS)), away, colours)
        poses = Poses(place, np.zeros(1), ground.height(place), np.zeros(1), -away)
        picture = render(ground, poses, 96, 128)[0].astype(int)
        rows.append(int((picture[..., 0] - picture[..., 1] > 60)[:, 64].sum()))
    assert 0 < rows[1] < 0.7 * rows[0], rows


def test_the_bytes_do_not_depend_on_workers_and_height_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wm_lightning.worlds.rover.SMALL", 0)
    settings: dict[str, Any] = dict(
        seed=1, length=8, episodes=dict(train=2, val=1, test=1), height=24, width=32, posts=4
    )
    for workers in (1, 2):
        RoverWorld(**settings, roll=0.1, hills=0.08, workers=workers).write(tmp_path / str(workers), lambda done: None)
    first, second = (sorted(path for path in (tmp_path / name).rglob("*.*")) for name in "12")
    assert [path.name for path in first] == [path.name for path in second] and len(first) == 11
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True))
    state = load_arrays(tmp_path / "1" / "rover" / "jackal_000000.state.npz")
    with h5py.File(tmp_path / "1" / "rover" / "jackal_000000.hdf5") as file:
        stored = np.asarray(file["jackal/position"])
    assert np.array_equal(stored, np.column_stack([state["position"], state["height"]])) and state["height"].std() > 0


def test_a_known_episode_comes_out_as_it_did() -> None:
    """Other numbers here are other data: raise the world's VERSION."""
    videos, (drive,) = WORLD.simulate("train", range(1))
    poses = drive.on(WORLD._ground(0, 0))
    found = [*poses.place[-1], poses.yaw[-1], poses.height[-1], poses.pitch[-1], *poses.ball[-1], videos.mean()]
    np.testing.assert_allclose(found, GOLDEN, rtol=1e-5)


@pytest.mark.parametrize(("change", "said"), [(dict(hills=0.5), "hills"), (dict(workers=0), "workers")])
def test_wrong_settings_are_refused(change: dict[str, Any], said: str) -> None:
    settings: dict[str, Any] = dict(seed=1, length=8, episodes=dict(train=2, val=1, test=1), height=24, width=32)
    settings |= dict(posts=4, roll=0.1, hills=0.08, workers=1)
    with pytest.raises(ValueError, match=said):
        RoverWorld(**(settings | change))
