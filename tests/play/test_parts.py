"""The parts of play by themselves: keys, messages, games, terminals."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from wm_lightning.clip import ActionSpec
from wm_lightning.config import CONFIG_DIR
from wm_lightning.data.formats import csgo, map_image, recon, robot_actions, world_map
from wm_lightning.data.formats.own import OwnSource, read_rest, read_spec
from wm_lightning.play.controls import controls_of, made_groups
from wm_lightning.play.game import Game
from wm_lightning.play.messages import LONGEST, BadMessage, Held, Pause, Record, Restart, pack, read_message
from wm_lightning.play.panels import ModelPanel
from wm_lightning.play.recording import enlarged

HAND = ActionSpec(("x", "y", "grip"), (-1.0, -0.5, 0.0), (1.0, 0.5, 1.0))


def test_the_key_pressed_last_counts_within_its_group() -> None:
    groups = {"x": {"a": {"x": -1}, "d": {"x": 1}}, "y": {"w": {"y": 9}}, "other": {"z": {"is_none": 1}}}
    controls = controls_of(HAND, groups=groups, rest={"grip": 0.25, "is_none": 1}, waits=False)
    for held, action in (
        ([], [0, 0, 0.25]), (["a"], [-1, 0, 0.25]), (["a", "d"], [1, 0, 0.25]), (["d", "a", "w"], [-1, 0.5, 0.25])
    ):  # fmt: skip
        assert controls.action(held).tolist() == action
    assert [key.name for key in controls.keys] == ["a", "d", "w"], "a key that sets no column of the data is left out"
    with pytest.raises(ValueError, match="'q' does nothing here; one of a, d, w is expected"):
        controls.action(["q"])
    with pytest.raises(ValueError, match="every key belongs to one group"):
        controls_of(HAND, groups={"x": {"a": {"x": 1}}, "y": {"a": {"y": 1}}}, rest={}, waits=False)


def test_keys_are_made_for_any_columns() -> None:
    controls = controls_of(HAND, groups={}, rest={}, waits=False)
    assert controls.action(["ArrowLeft", "ArrowUp", "3"]).tolist() == [-1, 0.5, 1]
    many = made_groups(csgo.SPEC)
    keys = [key for group in many.values() for key in group]
    assert len(set(keys)) == len(keys) == csgo.SPEC.dim


def test_the_keys_of_data_sets_name_their_columns() -> None:
    """A slip of the pen in a column's name would leave its key out without a word."""
    known = {*world_map.MOVES, *map_image.MOVES, *csgo.COLUMNS, *recon.COLUMNS}
    known |= {name for order in robot_actions.ORDERS for name in robot_actions.columns(order)}
    files = sorted((CONFIG_DIR / "task/controls").glob("*.yaml"))
    assert len(files) >= 6
    for path in files:
        content = yaml.safe_load(path.read_text())
        assert "rest" not in content, f"{path.name}: what doing nothing is the data say"
        named = {c for group in content.get("groups", {}).values() for key in group.values() for c in key}
        assert named <= known, f"{path.name}: {named - known}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "text is expected"), ("{", "no JSON"), ("[" * 3000, "no JSON"), ("3", "an object"), ("{}", "`type`"),
        ('{"type": "open", "path": "x"}', "`type` must be"), ("x" * (LONGEST + 1), "at most 4096 are read"),
        ('{"type": "keys"}', "`held` must be"), ('{"type": "keys", "held": [1]}', "`held` must be"),
        (json.dumps({"type": "keys", "held": ["a"] * 17}), "at most 16 names"),
        ('{"type": "keys", "held": [], "id": -1}', "`id` must"), ('{"type": "keys", "held": [], "id": true}', "`id`"),
        ('{"type": "reset", "start": "x.png"}', "`start` must be the number"),
        ('{"type": "reset", "start": 1e999}', "`start`"), ('{"type": "record"}', "`on` must be"),
        ('{"type": "pause", "on": 1}', "`on` must be"),
    ],
)  # fmt: skip
def test_what_is_no_message_is_told_so(text: str | None, said: str) -> None:
    with pytest.raises(BadMessage, match=said):
        read_message(text)


def test_messages_are_read() -> None:
    assert read_message('{"type": "keys", "held": ["a", "w"], "id": 7}') == Held(("a", "w"), 7)
    assert read_message('{"type": "reset"}') == Restart(None)
    assert read_message('{"type": "reset", "start": 2}') == Restart(2)
    assert read_message('{"type": "record", "on": true}') == Record(True)
    assert read_message('{"type": "pause", "on": false}') == Pause(False)


def test_frames_are_packed_by_panel() -> None:
    videos = [np.full((2, 3, 4, 3), value, np.uint8) for value in (1, 2)]
    content = pack({"key_id": 5}, videos)
    (length,) = struct.unpack(">I", content[:4])
    assert json.loads(content[4 : 4 + length]) == {"key_id": 5, "frames": 2}
    assert content[4 + length :] == b"\x01" * 72 + b"\x02" * 72


def test_keys_make_the_video(game: Game) -> None:
    def played(held: list[str]) -> np.ndarray:
        game.begun = 0  # the same noise
        game.reset(1)
        return np.stack([game.step(held).frames[0] for _ in range(2)])

    still = played([])
    assert np.array_equal(played([]), still) and not np.array_equal(played(["ArrowUp"]), still)
    assert not np.array_equal(played(["ArrowUp"]), played(["ArrowDown"]))


def test_the_simulator_beside_it_obeys_the_same_keys(game: Game) -> None:
    game.reset(0)
    assert game.panels[-1].name == "true simulator"
    first = game.start_frame(0)
    assert np.array_equal(game.step([]).frames[-1][-1], first), "staying shows the same"
    there, back = (game.step([key]).frames[-1] for key in ("ArrowRight", "ArrowLeft"))
    moved = not np.array_equal(there[-1], first)
    assert moved or not np.array_equal(back[-1], first), "at a border one of the two moves"


def test_recordings_hold_what_was_played(game: Game) -> None:
    """Frames as they were, and beside each the action that is chosen there."""
    game.reset(0)
    game.record(True)
    frames = [game.step(held).frames[-1] for held in ([], ["ArrowUp"], ["ArrowLeft"])]
    saved = game.record(False)
    assert saved is not None and Path(saved).is_file() and Path(saved).with_suffix(".mp4").is_file()
    assert game.record(False) is None
    folder = game.recorder.panels[-1][1]
    source = OwnSource(folder, read_spec(folder), decoder="pyav", trim_tail=False)
    episode = source.read(len(source.names) - 1)
    small = episode.video.reshape(10, 24, 4, 24, 4, 3).mean((2, 4))
    expected = np.concatenate([game.start_frame(0)[None], *frames])
    assert np.abs(small - expected).mean() < 4
    assert read_rest(folder) == {"stay": 1.0} == game.panels[0].world.rest  # type: ignore[attr-defined]
    names = [source.columns[row.argmax()] for row in episode.actions[:9]]
    assert names == ["stay"] * 3 + ["up"] * 3 + ["left"] * 3 and not episode.actions[9].any()


def test_a_reset_says_where_the_recording_is_and_begins_another(game: Game) -> None:
    game.reset(0)
    assert game.reset(0).saved is None and not game.recorder.running
    game.record(True)
    assert game.reset(1).saved is None and game.recorder.running, "nothing had happened yet"
    assert game.step([]).recording
    begun = game.reset(2)
    assert begun.saved is not None and Path(begun.saved).is_file() and game.recorder.running
    assert all(np.array_equal(frames[0], game.start_frame(2)) for frames in begun.frames)
    assert game.record(False) is None


def test_a_new_start_of_its_own_says_so_too(game: Game, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a network that was trained on whole clips alone, after two decisions."""
    panel = game.panels[0]
    assert isinstance(panel, ModelPanel)
    world = panel.world
    monkeypatch.setattr(panel, "world", replace(world, longest=world.context + 2 * game.chunk))
    game.reset(0)
    game.record(True)
    turns = [game.step(["ArrowUp"]) for _ in range(3)]
    assert [turn.restarted for turn in turns] == [False, False, True]
    assert [len(turn.saved) for turn in turns] == [0, 0, 1] and Path(turns[2].saved[0]).is_file()
    assert all(turn.recording for turn in turns)
    monkeypatch.setattr(game.recorder, "most", 1)
    assert [len(game.step([]).saved), len(game.step([]).saved), game.recorder.running] == [1, 0, False]
    monkeypatch.undo()


def test_without_a_start_nothing_begins(game: Game) -> None:
    with pytest.raises(ValueError, match="there is no start 99; a number from 0 to 3"):
        game.reset(99)


def test_small_frames_keep_their_colours() -> None:
    assert enlarged(np.zeros((1, 24, 24, 3), np.uint8)).shape == (1, 96, 96, 3)
    assert enlarged(np.zeros((1, 128, 160, 3), np.uint8)).shape == (1, 128, 160, 3)
    assert enlarged(np.zeros((1, 129, 131, 3), np.uint8)).shape == (1, 516, 524, 3)
