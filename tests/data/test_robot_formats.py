"""RT-1's on-disk forms: what is written is read back, real records are read, and damage is named."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from tests.data.making import episode, episodes, robot_actions
from wm_lightning.data.formats import action_npz as npz
from wm_lightning.data.formats.action_npz import ActionNpzSource, write_action_npz
from wm_lightning.data.formats.lerobot import INFO, LeRobotSource
from wm_lightning.data.formats.lerobot_writer import LeRobotWriter
from wm_lightning.data.formats.rlds import RLDSSource, version_folder, write_rlds
from wm_lightning.data.formats.robot_actions import ORDERS, columns, convert, order_of, spec_of
from wm_lightning.data.formats.robot_sources import Opening, detect, open_source, stored_splits
from wm_lightning.data.formats.tfrecord import (
    HEAD,
    index_records,
    masked_crc,
    parse_example,
    read_record,
    write_records,
)
from wm_lightning.data.formats.video_files import BadFile, Encoding

ENCODING = Encoding(fps=3, crf=10, preset="veryfast")


def test_the_orders_convert_into_one_another_by_name() -> None:
    wide = robot_actions(6, "vid2world13", seed=1)
    for order in ORDERS:
        there = convert(wide, columns("vid2world13"), columns(order))
        assert there.shape[1] == len(columns(order)) and order_of(columns(order)) == order
        for number, name in enumerate(columns(order)):
            assert np.array_equal(there[:, number], wide[:, columns("vid2world13").index(name)])
        back = convert(there, columns(order), columns("vid2world13"))
        kept = [number for number, name in enumerate(columns("vid2world13")) if name in columns(order)]
        assert np.array_equal(back[:, kept], wide[:, kept])


def test_what_an_order_lacks_is_neutral() -> None:
    seven = robot_actions(4, "lerobot7", seed=0)
    wide = dict(zip(columns("vid2world13"), convert(seven, columns("lerobot7"), columns("vid2world13")).T, strict=True))
    assert not wide["base_displacement_vector_x"].any() and not wide["terminate_episode_0"].any()
    assert wide["terminate_episode_1"].all()  # the episode goes on


def test_published_positions_of_the_thirteen_columns() -> None:
    names = columns("vid2world13")
    assert [names.index(name) for name in ("base_displacement_vertical_rotation", "gripper_closedness_action")] == [
        2,
        3,
    ]
    assert names[4:7] == tuple(f"rotation_delta_{axis}" for axis in "xyz")
    assert names[10:13] == tuple(f"world_vector_{axis}" for axis in "xyz") and names[8] == "terminate_episode_1"


def test_bounds_are_asked_for_by_field() -> None:
    bounds = {"world_vector": 1.0, "rotation_delta": 0.5, "gripper_closedness_action": 1.0}
    spec = spec_of("lerobot7", bounds)
    assert spec.high == (1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 1.0) and spec.low == tuple(-value for value in spec.high)
    with pytest.raises(ValueError, match="base_displacement_vector"):
        spec_of("oxe10", bounds)
    with pytest.raises(ValueError, match="speed is no field"):
        spec_of("lerobot7", bounds | {"speed": 1.0})


# -- TFRecord ---------------------------------------------------------------------------------------------------------


def test_the_checksum_is_that_of_the_format() -> None:
    # CRC-32C of "123456789" is 0xE3069283 (RFC 3720); TFRecord rotates it and adds a constant.
    crc = 0xE3069283
    assert masked_crc(b"123456789") == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def records(path: Path) -> Path:
    features = [
        {"a": [b"x" * n, b""], "b": np.arange(n, dtype=np.float32), "c": np.array([-n, n])} for n in (1, 5, 300)
    ]
    write_records(path, features)
    return path


def test_records_come_back(tmp_path: Path) -> None:
    path = records(tmp_path / "x.tfrecord")
    places, fault = index_records(path).places, index_records(path).fault
    assert fault is None
    assert len(places) == 3
    for n, (offset, length) in zip((1, 5, 300), places, strict=True):
        found = parse_example(path, read_record(path, int(offset), int(length)))
        assert found["a"] == [b"x" * n, b""]
        assert np.array_equal(found["b"], np.arange(n)) and np.asarray(found["b"]).dtype == np.float32
        assert np.array_equal(found["c"], [-n, n])


@pytest.mark.parametrize("cut", [1, 3, 11, 13, 200])
def test_a_file_that_ends_early_is_named(tmp_path: Path, cut: int) -> None:
    path = records(tmp_path / "x.tfrecord")
    path.write_bytes(path.read_bytes()[:-cut])
    found = index_records(path)
    assert found.fault is not None and "ends within" in found.fault.reason
    assert len(found.places) == 2, "what stands before the tear is kept"


def test_damaged_bytes_are_found(tmp_path: Path) -> None:
    path = records(tmp_path / "x.tfrecord")
    offset, length = map(int, index_records(path).places[1])
    content = bytearray(path.read_bytes())
    content[offset + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadFile, match=f"byte {offset} is damaged"):
        read_record(path, offset, length)
    content[:8] = struct.pack("<Q", 10**15)
    path.write_bytes(content)
    found = index_records(path)
    assert found.fault is not None and "damaged length" in found.fault.reason and not len(found.places)
    assert HEAD.size == 12


# -- RLDS -------------------------------------------------------------------------------------------------------------


def test_an_rlds_set_comes_back(tmp_path: Path) -> None:
    made = episodes(5, "vid2world13")
    write_rlds(tmp_path / "fractal/0.1.0", "fractal", "train", [made[:3], made[3:]])
    home = version_folder(tmp_path / "fractal")
    assert home is not None
    source = RLDSSource(home, "train")
    assert source.names == ("00000-00000", "00000-00001", "00000-00002", "00001-00000", "00001-00001")
    assert order_of(source.columns) == "vid2world13" and not source.bad
    for number, wanted in enumerate(made):
        found = source.read(number)
        np.testing.assert_allclose(found.actions, wanted.actions, atol=1e-6)
        assert np.abs(found.video.astype(int) - wanted.video).mean() < 3  # JPEG
    assert len(source.stamps()) == 2


def test_the_newest_version_is_read(tmp_path: Path) -> None:
    for version in ("0.1.0", "0.10.0", "0.2.0"):
        write_rlds(tmp_path / version, "set", "train", [episodes(1, "vid2world13")])
    found = version_folder(tmp_path)
    assert found is not None and found.name == "0.10.0"
    assert version_folder(tmp_path / "absent") is None


def test_a_missing_shard_and_a_torn_one_are_listed(tmp_path: Path) -> None:
    made = episodes(3, "vid2world13")
    write_rlds(tmp_path, "set", "train", [[one] for one in made])
    (tmp_path / "set-train.tfrecord-00001-of-00003").unlink()
    torn = tmp_path / "set-train.tfrecord-00002-of-00003"
    torn.write_bytes(torn.read_bytes()[:-5])
    source = RLDSSource(tmp_path, "train")
    assert source.names == ("00000-00000",)
    assert [error.path.name[-14:-9] for error in source.bad] == ["00001", "00002"]
    assert "shard 1 of 3 is missing" in source.bad[0].reason and "ends within" in source.bad[1].reason


def test_what_stands_before_a_tear_is_kept_and_every_lost_episode_is_counted(tmp_path: Path) -> None:
    made = episodes(7, "vid2world13")
    write_rlds(tmp_path, "set", "train", [made[:4], made[4:]])
    torn = tmp_path / "set-train.tfrecord-00000-of-00002"
    offset, length = map(int, index_records(torn).places[2])
    torn.write_bytes(torn.read_bytes()[: offset + length // 2])
    source = RLDSSource(tmp_path, "train")
    assert source.names == ("00000-00000", "00000-00001", "00001-00000", "00001-00001", "00001-00002")
    assert len(source.bad) == 2, "the third and the fourth"
    np.testing.assert_allclose(source.read(1).actions, made[1].actions, atol=1e-6)


@pytest.mark.real
def test_real_bridge_records() -> None:
    home = version_folder(Path(os.environ.get("WM_REAL_DATA", "absent")) / "rlds/bridge_dataset")
    if home is None:
        pytest.skip("no real RLDS records: WM_REAL_DATA names no folder with rlds/bridge_dataset")
    source = RLDSSource(home, "train")
    assert len(source.names) == 25 and order_of(source.columns) == "lerobot7" and not source.bad
    found = source.read(7)
    assert found.video.shape == (10, 64, 64, 3) and found.actions.shape == (10, 7)
    assert set(np.unique(found.actions[:, 6])) <= {0.0, 1.0} and 5 < found.video.std() < 120
    side = RLDSSource(home, "train", image="image_2").read(7)
    assert side.video.shape == found.video.shape
    with pytest.raises(ValueError, match=r"no camera wrist; set data.image to one of \['image_"):
        RLDSSource(home, "train", image="wrist")


# -- Vid2World's npz --------------------------------------------------------------------------------------------------


def test_an_action_npz_comes_back(tmp_path: Path) -> None:
    made = episodes(3, "vid2world13")
    for number, one in enumerate(made):
        write_action_npz(tmp_path / f"train_eps_{number:08d}.npz", one.video, one.actions)
    source = ActionNpzSource(tmp_path)
    for number, wanted in enumerate(made):
        found = source.read(number)
        assert np.array_equal(found.video, wanted.video) and np.array_equal(found.actions, wanted.actions)
        assert np.array_equal(source.actions(number), wanted.actions)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"image": np.zeros((3, 4, 4, 3), np.uint8)}, "has no array action"),
        ({"image": np.zeros((3, 4, 4, 3), np.uint8), "action": np.zeros((3, 7))}, r"\[frames, 13\] is expected"),
        ({"image": np.zeros((3, 4, 4, 3), np.uint8), "action": np.full((3, 13), np.nan)}, "not all finite"),
        ({"image": np.zeros((4, 4, 4, 3), np.uint8), "action": np.zeros((3, 13))}, "has 4 frames for 3 actions"),
        ({"image": np.zeros((3, 4, 4, 3)), "action": np.zeros((3, 13))}, "no array image of uint8"),
    ],
)
def test_a_wrong_npz_is_named(tmp_path: Path, arrays: dict[str, np.ndarray], said: str) -> None:
    np.savez(tmp_path / "train_eps_00000000.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(BadFile, match=said):
        ActionNpzSource(tmp_path).read(0)


def npz_splits(folder: Path) -> dict[str, tuple[str, ...]]:
    return {split: tuple(ActionNpzSource(folder, split).names) for split in npz.stored_splits(folder)}


def test_an_npz_is_of_the_split_that_its_name_or_the_validation_list_says(tmp_path: Path) -> None:
    one = episode(3, "vid2world13")
    for name in ("train_eps_00000000", "train_eps_00000001", "test_eps_00000000", "walk"):
        write_action_npz(tmp_path / f"{name}.npz", one.video, one.actions)
    train, test = ("train_eps_00000000", "train_eps_00000001", "walk"), ("test_eps_00000000",)
    assert npz_splits(tmp_path) == {"train": train, "test": test}
    (tmp_path / npz.VAL_LIST).write_text('["rt1/train_eps_00000001.npz", "train_eps_00000007.npz"]')
    assert npz_splits(tmp_path) == {"train": (train[0], "walk"), "val": (train[1],), "test": test}
    assert [error.path.name for error in ActionNpzSource(tmp_path, "val").bad] == ["train_eps_00000007.npz"]
    (tmp_path / npz.VAL_LIST).write_text('{"val": 3}')
    with pytest.raises(ValueError, match=r"val_file_list\.json holds no list of file names, such as"):
        npz.stored_splits(tmp_path)
    with pytest.raises(ValueError, match="holds no npz file of val"):
        (tmp_path / npz.VAL_LIST).unlink()
        ActionNpzSource(tmp_path, "val")


# -- LeRobot ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_a_lerobot_set_comes_back(tmp_path: Path, version: str) -> None:
    made = episodes(5, "lerobot7", lengths=(6, 9, 4, 7, 5))
    LeRobotWriter(tmp_path, ENCODING, version, together=2).write({"train": made[:3], "test": made[3:]})  # type: ignore[arg-type]
    train, test = LeRobotSource(tmp_path, "train"), LeRobotSource(tmp_path, "test")
    assert train.names == ("000000", "000001", "000002") and test.names == ("000003", "000004")
    assert not train.bad and order_of(train.columns) == "lerobot7"
    found = [source.read(number) for source in (train, test) for number in range(len(source.names))]
    for one, wanted in zip(found, made, strict=True):
        np.testing.assert_allclose(one.actions, wanted.actions, atol=1e-6)
        assert one.video.shape == wanted.video.shape
        assert np.abs(one.video.astype(int) - wanted.video).mean() < 8  # H.264


def test_lerobot_faults_are_named(tmp_path: Path) -> None:
    LeRobotWriter(tmp_path, ENCODING, "v3.0", together=2).write({"train": episodes(4, "lerobot7")})
    with pytest.raises(ValueError, match="has no split val"):
        LeRobotSource(tmp_path, "val")
    with pytest.raises(ValueError, match="has no camera left; set data.image to one of"):
        LeRobotSource(tmp_path, "train", image="left")
    next(tmp_path.glob("videos/*/chunk-000/file-001.mp4")).unlink()
    source = LeRobotSource(tmp_path, "train")
    assert source.names == ("000000", "000001") and len(source.bad) == 2
    (tmp_path / INFO).write_text("{}")
    with pytest.raises(ValueError, match="does not describe a LeRobot set"):
        LeRobotSource(tmp_path, "train")


# -- Which form -------------------------------------------------------------------------------------------------------


def test_the_form_is_found(tmp_path: Path) -> None:
    one, seven = episode(6, "vid2world13"), episode(6, "lerobot7")
    write_rlds(tmp_path / "rlds/1.0.0", "set", "train", [[one]])
    (tmp_path / "npz").mkdir()
    write_action_npz(tmp_path / "npz/train_eps_00000000.npz", one.video, one.actions)
    LeRobotWriter(tmp_path / "lerobot", ENCODING, "v3.0", together=2).write({"train": [seven]})
    (tmp_path / "mp4/train").mkdir(parents=True)
    for form in ("rlds", "npz", "lerobot", "mp4"):
        assert detect(tmp_path / form) == form
        assert stored_splits(form, tmp_path / form) == ("train",)
    for form in ("rlds", "npz", "lerobot"):
        source = open_source(form, tmp_path / form, "train", Opening("pyav", False, None))
        assert source.read(0).actions.shape == (6, len(source.columns))
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="looks like no known form; name it with data.format="):
        detect(tmp_path / "nothing")
