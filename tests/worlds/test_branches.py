"""From a saved state: the recorded actions give the recorded future, others another one from the same first frame."""

from pathlib import Path

import numpy as np
import pytest

from wm_lightning.data.formats.csgo import COLUMNS, MOUSE, MOUSE_X, CSGOSource
from wm_lightning.data.formats.recon import RECONSource
from wm_lightning.data.formats.source import load_arrays
from wm_lightning.data.formats.world_map import MOVES, WorldMapReader
from wm_lightning.worlds.maze import MazeWorld
from wm_lightning.worlds.pusher import PusherWorld
from wm_lightning.worlds.rover import RoverWorld
from wm_lightning.worlds.world_map import TEXTURES, WorldMap
from wm_lightning.worlds.world_map_branch import branch

START, STEPS = 5, 6


def quiet(done: int) -> None:
    """Nobody looks at the progress."""


def rows(folder: Path, pattern: str) -> dict[str, np.ndarray]:
    """The state of all episodes: arrays [episodes, frames, ...]."""
    found = [load_arrays(path) for path in sorted(folder.rglob(pattern))]
    return {key: np.stack([one[key] for one in found]) for key in found[0]}


def forked(first: np.ndarray, second: np.ndarray) -> None:
    """Two futures of equal length: the same first frame, and in every episode another later on."""
    assert np.array_equal(first[:, 0], second[:, 0])
    assert (first[:, 1:] != second[:, 1:]).any(axis=(1, 2, 3, 4)).all()


def test_the_maze(tmp_path: Path) -> None:
    world = MazeWorld(
        seed=0, length=16, episodes=dict(train=3, test=1), height=30, width=56, cells=9, wander=0.25,
        policies=dict(walker=0.4, watcher=0.3, random=0.3),
    )  # fmt: skip
    world.write(tmp_path, quiet)
    state = rows(tmp_path, "*.state.npz")
    source = CSGOSource(tmp_path, colours="bgr")
    recorded = [source.read(number) for number in range(4)]
    assert all(np.array_equal(one.truth["yaw"], state["yaw"][n]) for n, one in enumerate(recorded))
    actions = np.stack([one.actions[START : START + STEPS] for one in recorded])
    turned = np.diff(state["bot_yaw"], axis=1)[:, START : START + STEPS]
    # A bot that was stuck turned by 2 more.
    turned = (turned + np.pi) % (2 * np.pi) - np.pi
    stuck = np.abs(turned) > 1.2
    turns = np.where(stuck, (turned - 2.0 + np.pi) % (2 * np.pi) - np.pi, turned)
    saved = {key: values[:, START] for key, values in state.items()}
    video, after = world.branch(saved, actions, turns)
    for key in ("place", "yaw", "pitch", "weapon", "ammunition"):
        assert np.array_equal(after[key], state[key][:, START : START + STEPS + 1]), key
    expected = np.stack([one.video[START : START + STEPS + 1] for one in recorded])
    assert np.array_equal(video[:, 0], expected[:, 0]) and (video != expected).mean() < 1e-3
    other = actions.copy()
    other[:, :, MOUSE["x"]] = np.eye(len(MOUSE_X))[MOUSE_X.index(100)]
    forked(video, world.branch(saved, other, turns)[0])
    assert np.array_equal(world.branch(saved, actions, turns)[0], video)
    assert actions.shape[2] == len(COLUMNS)


def test_the_rover(tmp_path: Path) -> None:
    world = RoverWorld(seed=0, length=14, episodes=dict(train=2, val=1, test=1), height=24, width=32, posts=8, roll=0.1)
    world.write(tmp_path, quiet)
    state = rows(tmp_path, "*.state.npz")
    source = RECONSource(tmp_path / "rover", names=None)
    recorded = [source.read(number) for number in range(4)]
    assert all(np.array_equal(one.truth["ball"], state["ball"][n]) for n, one in enumerate(recorded))
    actions = np.stack([one.actions[START : START + STEPS] for one in recorded]).astype(np.float64)
    rolls = np.diff(state["ball"], axis=1)[:, START : START + STEPS]
    saved = {key: values[:, START] for key, values in state.items()}
    video, after = world.branch(saved, actions, rolls)
    np.testing.assert_allclose(after["position"], state["position"][:, START : START + STEPS + 1], atol=1e-5)
    turned = after["yaw"] - state["yaw"][:, START : START + STEPS + 1]
    np.testing.assert_allclose((turned + np.pi) % (2 * np.pi) - np.pi, 0, atol=1e-5)
    expected = np.stack([one.video[START : START + STEPS + 1] for one in recorded])
    assert np.abs(video.astype(int) - expected).mean() < 4  # JPEG
    other = actions.copy()
    other[..., 2] += 0.2
    forked(video, world.branch(saved, other, rolls)[0])


def test_the_pusher(tmp_path: Path) -> None:
    world = PusherWorld(
        seed=0, length=14, episodes=dict(train=2, val=1, test=1), pixels=32, fps=20, crf=20, reach=0.08, jump=0.04,
        policies=dict(scripted=0.4, noisy=0.25, failing=0.1, random=0.25), workers=1,
    )  # fmt: skip
    course = world.simulate("train", range(2))
    world.write(tmp_path, quiet)
    state = rows(tmp_path, "train/*.state.npz")
    saved = {key: values[:, START] for key, values in state.items()}
    actions, jumps = course.actions[:, START : START + STEPS], np.full((2, STEPS, 2), 0.01)
    video, after = world.branch(saved, actions, jumps)
    np.testing.assert_allclose(after.gripper, course.gripper[:, START : START + STEPS + 1], atol=1e-5)
    np.testing.assert_allclose(after.blocks, course.blocks[:, START : START + STEPS + 1], atol=1e-5)
    other = actions.copy()
    other[..., :2] = -np.sign(actions[..., :2]) - (actions[..., :2] == 0)
    forked(video, world.branch(saved, other, jumps)[0])


def test_the_world_map(tmp_path: Path) -> None:
    world = WorldMap(
        seed=0, map_tiles=16, view=6, smoothness=2.0, stickiness=0.6, length=14, maps=dict(train=2, val=1, test=1),
        walks=dict(train=3, val=1, test=1),
    )  # fmt: skip
    world.write(tmp_path / "map", quiet)
    reader = WorldMapReader(tmp_path / "map", "train", action_shift=1, cached_maps=4)
    grids = np.stack([world.grid(index) for index in reader.walks.map.tolist()])
    position = reader.positions[:, START].astype(np.int64)
    actions = reader.walks.actions[:, START : START + STEPS].astype(np.int64)
    video, places = branch(grids, position, actions, 6, TEXTURES)
    state = {"map": reader.walks.map.astype(np.int64), "position": position}
    again, after = world.branch(state, np.eye(len(MOVES), dtype=np.float32)[actions], np.zeros((3, STEPS, 0)))
    assert np.array_equal(again, video) and np.array_equal(after["position"], places)
    assert np.array_equal(after["map"][:, -1], reader.walks.map)
    expected = np.stack([reader.read(walk, START, START + STEPS + 1).video for walk in range(3)])
    assert np.array_equal(np.moveaxis(video, -1, 2), expected)
    assert np.array_equal(places, reader.positions[:, START : START + STEPS + 1])
    opposite = [list(MOVES).index(name) for name in ("stay", "right", "left", "down", "up")]
    towards = np.where(position[:, :1] > 5, opposite[4], opposite[3])  # away from the nearer border
    forked(
        branch(grids, position, np.repeat(towards, STEPS, 1), 6, TEXTURES)[0],
        branch(grids, position, 0 * actions, 6, TEXTURES)[0],
    )


@pytest.mark.parametrize("key", ["yaw", "place"])
def test_a_state_that_is_cut_short_is_no_truth(tmp_path: Path, key: str) -> None:
    world = MazeWorld(
        seed=0, length=6, episodes=dict(train=1, test=1), height=24, width=32, cells=9, wander=0.25,
        policies=dict(walker=1.0, watcher=0.0, random=0.0),
    )  # fmt: skip
    world.write(tmp_path, quiet)
    path = sorted(tmp_path.rglob("*.state.npz"))[0]
    arrays = load_arrays(path)
    np.savez(path, **{**arrays, key: arrays[key][:4]})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"state\.npz: {key} has shape"):
        CSGOSource(tmp_path, colours="bgr").read(0)
