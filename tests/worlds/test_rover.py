"""The rover among posts: along them, never through, with a state that says so."""

from pathlib import Path

import numpy as np

from wm_lightning.data.formats.recon import normalised
from wm_lightning.data.formats.source import load_arrays
from wm_lightning.worlds.rover import RoverWorld
from wm_lightning.worlds.rover_dynamics import CLEAR, TOUCH, cleared, driven

WORLD = RoverWorld(seed=0, length=40, episodes=dict(train=6, val=1, test=1), height=24, width=32, posts=60, roll=0.1)
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
