"""Counter-Strike, RECON and anybody's own recordings: what is written is read back, and damage is named."""

import pickle
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from tests.data.making import moving_picture
from wm_lightning.clip import ActionSpec
from wm_lightning.data.formats import own
from wm_lightning.data.formats.csgo import COLUMNS, MOUSE, MOUSE_X, CSGOSource, one_hot_mouse
from wm_lightning.data.formats.csgo_writer import write_csgo
from wm_lightning.data.formats.diamond import DiamondSource
from wm_lightning.data.formats.game_writers import write_diamond, write_tar
from wm_lightning.data.formats.own import OwnSource, read_spec
from wm_lightning.data.formats.own_writer import write_spec
from wm_lightning.data.formats.recon import (
    HIGH,
    LOW,
    SPACING,
    RECONSource,
    planar_actions,
    write_recon_file,
    write_recon_folder,
)
from wm_lightning.data.formats.resize import Resize
from wm_lightning.data.formats.safe_pickle import read_arrays
from wm_lightning.data.formats.source import StoredEpisode
from wm_lightning.data.formats.video_files import BadFile, Encoding, encode


def mouse_actions(frames: int, seed: int) -> np.ndarray:
    source = np.random.default_rng(seed)
    actions = np.zeros((frames, len(COLUMNS)), np.float32)
    actions[:, :13] = source.random((frames, 13)) < 0.3
    for part in MOUSE.values():
        actions[np.arange(frames), part.start + source.integers(part.stop - part.start, size=frames)] = 1
    return actions


# -- Counter-Strike ---------------------------------------------------------------------------------------------------


def csgo_folder(folder: Path, count: int = 3) -> list[tuple[np.ndarray, np.ndarray]]:
    folder.mkdir(parents=True, exist_ok=True)
    made = [(moving_picture(5, seed, height=15, width=28), mouse_actions(5, seed)) for seed in range(count)]
    for number, (video, actions) in enumerate(made, start=1):
        write_csgo(folder / f"hdf5_dm_july2021_{number}.hdf5", video, actions)
    return made


def test_csgo_comes_back_in_rgb(tmp_path: Path) -> None:
    made = csgo_folder(tmp_path / "1-200")
    source = CSGOSource(tmp_path, colours="bgr")
    assert len(source.names) == 3 and source.columns[36 + 7] == "mouse_y_0" and source.columns[13 + 11] == "mouse_x_0"
    for number, (video, actions) in enumerate(made):
        found = source.read(number)
        assert np.array_equal(found.video, video) and np.array_equal(found.actions, actions)
    with h5py.File(tmp_path / "1-200/hdf5_dm_july2021_1.hdf5") as file:
        assert np.array_equal(file["frame_2_x"][()], made[0][0][2][..., ::-1])  # BGR on disk


def test_csgo_is_read_from_its_tars(tmp_path: Path) -> None:
    made = [(moving_picture(5, seed, height=15, width=28), mouse_actions(5, seed)) for seed in range(3)]
    (tmp_path / "tars").mkdir()
    named = [(f"hdf5_dm_july2021_{number}.hdf5", StoredEpisode(*one)) for number, one in enumerate(made, start=1)]
    write_tar(tmp_path / "tars/hdf5_dm_july2021_1_to_3.tar", named)
    with tarfile.open(tmp_path / "tars/hdf5_dm_july2021_1_to_3.tar") as tar:
        assert tar.getnames() == [f"1-3/{name}" for name, _ in named]
    source = CSGOSource(tmp_path / "tars", colours="bgr")
    assert [np.array_equal(source.read(n).video, video) for n, (video, _) in enumerate(made)] == [True] * 3
    held_out = frozenset({"hdf5_dm_july2021_2.hdf5"})
    assert CSGOSource(tmp_path / "tars", names=held_out, colours="bgr").names == tuple(held_out)
    assert len(CSGOSource(tmp_path / "tars", names=held_out, inside=False, colours="bgr").names) == 2


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_truncated_csgo_file_is_named(tmp_path: Path, share: float) -> None:
    csgo_folder(tmp_path, count=1)
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(BadFile, match="hdf5_dm_july2021_1.hdf5"):
        CSGOSource(tmp_path, colours="bgr").read(0)


def test_mouse_labels_that_are_no_one_hot_are_made_one() -> None:
    actions = mouse_actions(3, seed=0)
    actions[0, MOUSE["x"]] = 0
    actions[1, MOUSE["x"]] = 0
    actions[1, 13:15] = (0.4, 0.6)
    fixed = one_hot_mouse(actions)
    assert (fixed[:, MOUSE["x"]].sum(1) == 1).all() and fixed[0, 13 + MOUSE_X.index(0)] == 1 and fixed[1, 14] == 1
    assert np.array_equal(fixed[2], actions[2])


def test_diamond_episodes_come_back(tmp_path: Path) -> None:
    made = []
    for number in (3, 12, 140):
        video, actions = moving_picture(6, number, height=30, width=56), mouse_actions(6, number)
        write_diamond(tmp_path, number, video, actions, "x")
        made.append((video, actions))
    assert (tmp_path / "100/40/0/140.pt").is_file()  # where DIAMOND's own loader looks for it
    torch.save({}, tmp_path / "info.pt")
    source = DiamondSource(tmp_path)
    assert source.names == ("3", "12", "140")
    for number, (video, actions) in enumerate(made):
        found = source.read(number)
        assert np.array_equal(found.video, video) and np.array_equal(found.actions, actions)
    torch.save({"obs": torch.zeros(2)}, tmp_path / "000/00/3/3.pt")
    with pytest.raises(BadFile, match="has no act"):
        DiamondSource(tmp_path).read(0)


# -- RECON ------------------------------------------------------------------------------------------------------------


def poses(frames: int) -> tuple[np.ndarray, np.ndarray]:
    yaw = 3.0 + 0.2 * np.arange(frames)  # passes pi
    return np.cumsum(0.1 * np.stack([np.cos(yaw), np.sin(yaw)], 1), axis=0), (yaw + np.pi) % (2 * np.pi) - np.pi


def test_planar_actions_are_motions_in_the_robots_own_frame() -> None:
    position, yaw = poses(12)
    actions = planar_actions(position, yaw)
    metres = ((actions[:, :2] + 1) / 2 * (HIGH - LOW) + LOW) * SPACING
    # A step of 0.1 m along the next heading, seen from a heading 0.2 rad before it.
    np.testing.assert_allclose(metres[:-1], np.tile(0.1 * np.array([np.cos(0.2), np.sin(0.2)]), (11, 1)), atol=1e-6)
    np.testing.assert_allclose(actions[:-1, 2], 0.2, atol=1e-6)
    np.testing.assert_allclose(metres[-1], 0, atol=1e-6)
    # Driving straight a quarter of a metre: the published offset of the range.
    straight = planar_actions(np.array([[0.0, 0.0], [0.25, 0.0]]), np.zeros(2))[0]
    np.testing.assert_allclose(straight, [2 * 3.5 / 7.5 - 1, 0.0, 0.0], atol=1e-6)


@pytest.mark.parametrize("form", ["file", "folder", "pickle"])
def test_recon_comes_back(tmp_path: Path, form: str) -> None:
    position, yaw = poses(7)
    video = moving_picture(7, 1, height=24, width=32)
    if form == "file":
        write_recon_file(tmp_path / "jackal_1.hdf5", video, position, yaw)
    else:
        write_recon_folder(tmp_path / "jackal_1", video, position, yaw)
    if form == "pickle":
        (tmp_path / "jackal_1/traj_data.npz").unlink()
        (tmp_path / "jackal_1/traj_data.pkl").write_bytes(pickle.dumps({"position": position, "yaw": yaw[:, None]}))
    source = RECONSource(tmp_path, names=None)
    found = source.read(0)
    assert source.names == ("jackal_1",) and np.array_equal(found.actions, planar_actions(position, yaw))
    assert np.abs(found.video.astype(int) - video).mean() < 4


def test_recon_faults_are_named(tmp_path: Path) -> None:
    position, yaw = poses(4)
    write_recon_folder(tmp_path / "a", moving_picture(4, 0), position, yaw)
    (tmp_path / "a/2.jpg").unlink()
    source = RECONSource(tmp_path, names=frozenset({"a", "b"}))
    assert [error.path.name for error in source.bad] == ["b"]
    with pytest.raises(BadFile, match=r"2\.jpg: is not there"):
        source.read(0)
    position[1] = np.nan
    write_recon_folder(tmp_path / "a", moving_picture(4, 0), position, yaw)
    with pytest.raises(BadFile, match="not all finite"):
        source.actions(0)


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_a_pickle_that_brings_code_is_refused_and_the_code_never_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"position": Payload(ran)}))
    with pytest.raises(BadFile, match="neither an array nor a plain value"):
        read_arrays(tmp_path / "evil.pkl")
    assert not ran.exists()
    plain = {"a": np.arange(3), "b": [1, "x", (2.5, None)], "c": np.float32(3)}
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "plain.pkl").write_bytes(pickle.dumps(plain, protocol=protocol))
        found = read_arrays(tmp_path / "plain.pkl")
        assert np.array_equal(found["a"], plain["a"]) and found["b"] == plain["b"] and found["c"] == 3


# -- Anybody's own ----------------------------------------------------------------------------------------------------


def own_folder(folder: Path) -> np.ndarray:
    (folder / "train").mkdir(parents=True)
    (folder / own.SPEC).write_text("names: [speed, turn]\nlow: [0, -1]\nhigh: [2, 1]\n")
    video, actions = moving_picture(5, 0), np.stack([np.arange(5) / 10, -np.arange(5) / 10], 1)
    for name in ("a", "b"):
        encode(folder / f"train/{name}.mp4", video, Encoding(fps=5, crf=10, preset="veryfast"))
    rows = "\n".join(f"{turn},{speed}" for speed, turn in actions)
    (folder / "train/a.csv").write_text(f"turn,speed\n{rows}\n")
    np.savez(folder / "train/b.npz", actions=actions)
    return actions


def test_own_recordings_come_back(tmp_path: Path) -> None:
    actions = own_folder(tmp_path)
    spec = read_spec(tmp_path)
    source = OwnSource(tmp_path / "train", spec, decoder="pyav", trim_tail=False)
    assert source.names == ("a", "b") and spec.high == (2.0, 1.0)
    for number in range(2):
        found = source.read(number)
        np.testing.assert_allclose(found.actions, actions, atol=1e-6)
        assert found.video.shape == (5, 32, 32, 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "does not describe the actions"),
        ("names: [a]\nlow: [1]\nhigh: [0]\n", "every low must lie below its high"),
        ("names: [a]\nlow: [.nan]\nhigh: [1]\n", "every low must lie below its high, both finite"),
        ("names: [a]\nlow: [0]\nhigh: [.inf]\n", "every low must lie below its high, both finite"),
        ("names: [a, b]\nlow: [0]\nhigh: [1]\n", "must be equal"),
        ("names: [a]\nlow: [0]\nhigh: [1]\nkind: sometimes\n", "kind must be continuous or discrete"),
    ],
)
def test_a_wrong_description_says_what_is_expected(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / own.SPEC).write_text(text)
    with pytest.raises(ValueError, match=f"{said}.*names: "):
        read_spec(tmp_path)


def test_doing_nothing_is_what_own_recordings_say(tmp_path: Path) -> None:
    spec = ActionSpec(("stay", "turn"), (0.0, -1.0), (1.0, 1.0))
    write_spec(tmp_path, spec, {"stay": 1, "of others": 1})
    assert read_spec(tmp_path) == spec and own.read_rest(tmp_path) == {"stay": 1.0}
    write_spec(tmp_path, spec, {})
    assert own.read_rest(tmp_path) == {}
    text = (tmp_path / own.SPEC).read_text()
    for wrong in ("{go: 1}", "{stay: 2}", "{stay: yes please}", "[1]", "{turn: .nan}"):
        (tmp_path / own.SPEC).write_text(f"{text}rest: {wrong}\n")
        with pytest.raises(ValueError, match=r"actions\.yaml: rest=.* must give columns of \['stay', 'turn'\]"):
            own.read_rest(tmp_path)


def test_faults_of_own_recordings_are_named(tmp_path: Path) -> None:
    own_folder(tmp_path)
    (tmp_path / "train/c.csv").write_text("speed,turn\n")
    (tmp_path / "train/a.csv").write_text("speed,turn\n1,x\n")
    source = OwnSource(tmp_path / "train", read_spec(tmp_path), decoder="pyav", trim_tail=False)
    assert [error.path.name for error in source.bad] == ["c.csv"]
    with pytest.raises(BadFile, match="table of numbers with the columns speed, turn"):
        source.actions(0)


# -- Size -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["squash", "crop", "letterbox"])
def test_resizing_keeps_what_its_policy_keeps_and_can_be_undone(policy: str) -> None:
    across, down = np.meshgrid(np.linspace(40, 215, 48), np.linspace(40, 215, 24))
    video = np.stack([across, down, 128 + 0 * down], -1)[None].repeat(2, 0).astype(np.uint8)
    resize = Resize(policy, 16, 16)  # type: ignore[arg-type]
    frames = resize(video)
    assert frames.shape == (2, 3, 16, 16)
    ends = frames[0, 0, 8, [0, 15]].astype(int)
    if policy == "crop":  # the middle half of the width
        assert abs(ends[0] - 87) < 8 and abs(ends[1] - 168) < 8
    else:
        assert abs(ends[0] - 44) < 8 and abs(ends[1] - 211) < 8
    assert (frames[:, :, 0] == 0).all() == (policy == "letterbox")
    back = resize.undo(frames, 24, 48)
    box = resize.taken(24, 48)
    kept = np.moveaxis(video[:, box.top : box.top + box.height, box.left : box.left + box.width], -1, 1)
    assert back.shape == kept.shape and np.abs(back.astype(int) - kept).mean() < 4
    with pytest.raises(ValueError, match="data.resize=stretch is not one of"):
        Resize("stretch", 4, 4)  # type: ignore[arg-type]
