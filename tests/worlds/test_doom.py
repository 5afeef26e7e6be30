"""Doom's recordings: the same every time, in Counter-Strike's layout, with actions that do what they say."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wm_lightning.config import compose
from wm_lightning.data.formats.csgo import COLUMNS, KEYS, MOUSE, MOUSE_X
from wm_lightning.data.formats.source import load_arrays
from wm_lightning.tasks.build import build_data
from wm_lightning.worlds.doom import STATE, DoomWorld, Recording, buttons
from wm_lightning.worlds.doom_branch import branch
from wm_lightning.worlds.doom_player import pressed

needs_doom = pytest.mark.skipif(
    find_spec("vizdoom") is None, reason="ViZDoom is not installed: pip install -e '.[doom]'"
)


def small_world(**changes: Any) -> DoomWorld:
    settings: dict[str, Any] = dict(seed=0, length=40, episodes=dict(train=2, test=1), height=60, width=112)
    settings |= dict(levels=dict(train=["map01"], test=["map05"]), warm_up=10, workers=1)
    settings |= dict(policies=dict(hunter=0.0, walker=0.0, random=1.0))
    return DoomWorld(**(settings | changes))


@pytest.fixture(scope="module")
def played() -> list[Recording]:
    return small_world().record("train", range(3))


def test_the_mouse_is_told_in_degrees_to_the_right() -> None:
    action = pressed({"w", "shift"}, 100.0, -20.0)
    assert action[MOUSE["x"]].sum() == action[MOUSE["y"]].sum() == 1 and action[COLUMNS.index("w")] == 1
    told = buttons(action)
    assert told[0] == 1 and told[KEYS.index("shift")] == 0, "shift walks, Doom's key runs"
    assert told[-2] == pytest.approx(np.degrees(0.09) / 2) and told[-1] > 0
    assert buttons(pressed(set(), 0.0))[KEYS.index("shift")] == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"levels": dict(train=["map01"], test=["map01"])}, "others for test"),
        ({"height": 400}, "within 24x24 and 180x320"),
        ({"policies": dict(hunter=1.0, walker=0.5, random=0.0)}, "sum to 1"),
    ],
)
def test_wrong_settings_are_refused(changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        small_world(**changes)


def test_without_vizdoom_the_refusal_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("wm_lightning.worlds.doom.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[doom\]'"):
        build_data(compose(["experiment=teacher", "data=doom", "size=debug", f"cache_dir={tmp_path}"]))
    assert not list(tmp_path.iterdir())


@needs_doom
def test_an_episode_hangs_on_seed_and_number_alone(played: list[Recording]) -> None:
    again = small_world().record("train", range(2, 3))[0]
    assert np.array_equal(again.video, played[2].video) and np.array_equal(again.actions, played[2].actions)
    assert not np.array_equal(played[1].video, played[2].video)


@needs_doom
def test_actions_lead_to_the_next_frame(played: list[Recording]) -> None:
    """The view turns by the mouse of the frame before, counts for radians; nothing else turns it."""
    for one in played:
        counts = np.array(MOUSE_X)[one.actions[:, MOUSE["x"]].argmax(1)]
        turned = -np.diff(np.unwrap(np.radians(one.state[:, STATE.index("ANGLE")])))
        assert counts.std() > 10
        np.testing.assert_allclose(turned, 0.0009 * counts[:-1], atol=1e-3)


@needs_doom
def test_hunters_hunt_and_walkers_walk() -> None:
    way = dict(levels=dict(train=["map02"], test=["map05"]), length=120)
    hunted = small_world(policies=dict(hunter=1.0, walker=0.0, random=0.0), **way).record("train", range(2))
    assert max(one.state[-1, STATE.index("KILLCOUNT")] for one in hunted) >= 1
    (walked,) = small_world(policies=dict(hunter=0.0, walker=1.0, random=0.0), **way).record("train", range(1))
    assert np.linalg.norm(np.diff(walked.state[:, :2], axis=0), axis=1).mean() > 2


def test_batches_hold_every_episode_once_and_fill_every_worker() -> None:
    for workers in (1, 3, 64):
        batches = list(small_world(workers=workers, episodes=dict(train=150, test=5))._batches())
        names = [batch.first + episode for batch in batches for episode in batch.episodes]
        assert names == list(range(155)) and len(batches) >= min(workers, 5)


@needs_doom
def test_it_is_read_as_counter_strike_is(tmp_path: Path) -> None:
    data = build_data(compose(["experiment=teacher", "data=doom", "size=debug", f"cache_dir={tmp_path}",
                               "data.world.episodes={train: 4, test: 2}", "data.world.length=14", "data.val_clips=2",
                               "data.world.warm_up=0"]))  # fmt: skip
    assert data.name == "simulated-doom" and data.world is None
    assert {split: len(data.reader(split)) for split in ("train", "test")} == {"train": 3, "test": 2}
    one = data.reader("train").read(0, 0, 14)
    assert one.video.shape == (14, 3, 24, 48) and one.actions.shape == (14, 51) and one.video.std() > 5
    files = sorted((data.folder / "doom").glob("*.state.npz"))
    assert sorted(path.name for path in data.folder.rglob("*_vizdoom*")) == []
    assert len(files) == 6 and np.load(files[0])["angle"].shape == (14,)


@needs_doom
def test_from_a_saved_frame_other_actions_give_another_future(tmp_path: Path) -> None:
    world, start, steps = small_world(policies=dict(hunter=0.4, walker=0.3, random=0.3)), 12, 6
    world.write(tmp_path, lambda done: None)
    recorded = world.record("train", range(2))
    states = [load_arrays(tmp_path / "doom" / f"hdf5_dm_july2021_{number}.state.npz") for number in (1, 2)]
    saved = {key: np.stack([one[key][start] for one in states]) for key in states[0]}
    actions = np.stack([one.actions[start : start + steps] for one in recorded])
    video, after = branch(world, saved, actions)
    for row, one in enumerate(recorded):
        assert np.array_equal(video[row], one.video[start : start + steps + 1])
        assert all(np.array_equal(after[key][row], states[row][key][start : start + steps + 1]) for key in after)
    turned = np.stack([[pressed({"w"}, 100.0)] * steps] * 2)
    other = branch(world, saved, turned)[0]
    assert np.array_equal(other[:, 0], video[:, 0]) and (other[:, 1:] != video[:, 1:]).any(axis=(1, 2, 3, 4)).all()
