"""What libraries raise of their own for damaged files is a fault of the file that has it, by its name."""

import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.data.fault_sets import csgo_set, games, lerobot_set, mp4_set, picture, rlds_set, tar_set
from wm_lightning.data.formats.csgo import COLUMNS, CSGOSource
from wm_lightning.data.formats.csgo_writer import write_csgo
from wm_lightning.data.formats.lerobot import INFO, LeRobotSource
from wm_lightning.data.formats.recon import RECONSource, write_recon_folder
from wm_lightning.data.formats.rlds import RLDSSource
from wm_lightning.data.formats.source import checked_actions, load_arrays, names_listed
from wm_lightning.data.formats.video_files import BadFile, codec_of, decode_span, decoded
from wm_lightning.data.formats.video_parts import decode_part, first_picture

# -- Arrays -----------------------------------------------------------------------------------------------------------


def saved(path: Path) -> bytearray:
    """More than is read at once: a damaged header shows before the checksum of the whole does."""
    np.savez(path, arr_0=np.ones((900, 10), np.float32))
    return bytearray(path.read_bytes())


def encrypted(content: bytearray) -> bytearray:
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    return content


def torn_header(content: bytearray) -> bytearray:
    """Brackets that no other closes: numpy looks at it word by word then, as at a header of Python 2."""
    return content.replace(b"10), }", b"10(, }")


def two_kinds_of_keys(content: bytearray) -> bytearray:
    return content.replace(b"'descr': '<f4'", b"3      : '<f4'")


def vast(content: bytearray) -> bytearray:
    shape = b"(99999999999999999999,), }"
    found = content.index(b"(900, 10), }")
    content[found : found + len(shape)] = shape
    return content


@pytest.mark.parametrize("damage", [encrypted, torn_header, two_kinds_of_keys, vast])
def test_a_damaged_npz_is_named(tmp_path: Path, damage: Callable[[bytearray], bytearray]) -> None:
    path = tmp_path / "a.npz"
    before = saved(path)
    after = damage(bytearray(before))
    assert after != before and len(after) == len(before)
    path.write_bytes(after)
    with pytest.raises(BadFile, match=r"a\.npz: cannot be read as npz"):
        load_arrays(path)


def test_a_member_that_is_no_array_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("arr_0.npy", b"no array at all")
    with pytest.raises(BadFile, match=r"a\.npz: .*arr_0 is no array"):
        load_arrays(tmp_path / "a.npz")


def test_actions_that_single_precision_cannot_hold_are_no_finite_numbers(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="not all finite"):
        checked_actions(tmp_path / "a.csv", np.full((3, 2), 1e300), 2)


def test_a_list_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_bytes(b"jackal_1\n\xff\xfe\n")
    with pytest.raises(ValueError, match=r"test\.txt cannot be read"):
        names_listed(tmp_path / "test.txt")


# -- Video ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("films")
    mp4_set(root)
    return root / "train/000000000.mp4"


def altered(film: Path, folder: Path, old: bytes, new: bytes) -> Path:
    """A copy of a film with other bytes for the last of some."""
    content = bytearray(film.read_bytes())
    place = content.rindex(old)
    content[place : place + len(old)] = new
    (folder / "a.mp4").write_bytes(content)
    return folder / "a.mp4"


READINGS: dict[str, Callable[[Path], Any]] = {
    "whole": lambda path: decoded(path, "pyav"),
    "first": lambda path: first_picture(path, "pyav", 9),
    "part": lambda path: decode_part(path, "pyav", 2, 4),
    "span": lambda path: decode_span(path, 0.0, range(3), 3.0),
}


@pytest.mark.parametrize("reading", READINGS)
def test_a_film_in_an_unknown_code_is_named(film: Path, tmp_path: Path, reading: str) -> None:
    path = altered(film, tmp_path, b"avc1", b"zzzz")
    with pytest.raises(BadFile, match=r"a\.mp4: (is coded in a way|cannot be decoded)"):
        READINGS[reading](path)
    assert codec_of(path) is None


@pytest.mark.parametrize("start", [1e18, 1e300])
def test_a_time_beyond_all_films_is_a_fault_of_the_file(film: Path, start: float) -> None:
    with pytest.raises(BadFile, match=r"000000000\.mp4: "):
        decode_span(film, start, range(3), 3.0)


# -- Tars and HDF5 ----------------------------------------------------------------------------------------------------


def sized(info: tarfile.TarInfo, size: int) -> bytes:
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "head",
    [
        lambda info: b"\xff" + info.tobuf(tarfile.GNU_FORMAT)[1:],  # a checksum that does not hold
        lambda info: sized(info, -1024),  # back to itself
        lambda info: sized(info, 2**70),  # where no file can be sought
    ],
    ids=["damaged", "back", "beyond"],
)
def test_what_stands_behind_a_damaged_head_of_a_tar_is_lost_by_name(
    tmp_path: Path, head: Callable[[tarfile.TarInfo], bytes]
) -> None:
    tar_set(tmp_path / "set")
    path = tmp_path / "set/hdf5_dm_july2021_0_to_2.tar"
    with tarfile.open(path) as tar:
        second = tar.getmembers()[1]
    content = bytearray(path.read_bytes())
    content[second.offset : second.offset + tarfile.BLOCKSIZE] = head(second)
    path.write_bytes(content)
    source = CSGOSource(tmp_path / "set", colours="bgr")
    lost = {error.episode for error in source.bad}
    assert "hdf5_dm_july2021_2.hdf5" in lost and "hdf5_dm_july2021_0.hdf5" not in lost
    # The second itself is lost, or there by its name and refused when it is read.
    if "hdf5_dm_july2021_1.hdf5" not in lost:
        with pytest.raises(BadFile, match=r"0_to_2\.tar"):
            source.read(source.names.index("hdf5_dm_july2021_1.hdf5"))


def test_tars_that_end_as_they_should_lose_nothing(tmp_path: Path) -> None:
    tar_set(tmp_path / "set")
    path = tmp_path / "set/hdf5_dm_july2021_0_to_2.tar"
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    blocks = -(-last.size // tarfile.BLOCKSIZE)
    path.write_bytes(path.read_bytes()[: last.offset_data + blocks * tarfile.BLOCKSIZE])  # without the empty end
    source = CSGOSource(tmp_path / "set", colours="bgr")
    assert len(source.names) == 8 and not source.bad


def replaced(path: Path, name: str, **data: Any) -> None:
    with h5py.File(path, "r+") as file:
        del file[name]
        file.create_dataset(name, **data)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("frame_0_y", {"shape": (2**58,), "dtype": "f8", "chunks": (2**10,)}),
        ("frame_0_x", {"shape": (0, 48, 3), "dtype": "u1"}),
    ],
    ids=["vast", "empty"],
)
def test_hdf5_of_absurd_sizes_is_named(tmp_path: Path, name: str, data: dict[str, Any]) -> None:
    video, actions = next(games())
    write_csgo(tmp_path / "dm_0.hdf5", video, actions)
    replaced(tmp_path / "dm_0.hdf5", name, **data)
    with pytest.raises(BadFile, match=r"dm_0\.hdf5"):
        CSGOSource(tmp_path, colours="bgr").outline(0)


def test_sound_hdf5_is_read(tmp_path: Path) -> None:
    csgo_set(tmp_path / "set")
    source = CSGOSource(tmp_path / "set", colours="bgr")
    assert source.outline(0).actions.shape == (9, len(COLUMNS)) and not source.bad


# -- Poses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [np.zeros((3, 2)), {"position": [[10**400, 0]] * 3, "yaw": [0.0] * 3}, {"position": np.full((9, 2), 1e308)}],
    ids=["an array", "vast integers", "no yaw"],
)
def test_a_pickle_without_poses_is_named(tmp_path: Path, content: Any) -> None:
    write_recon_folder(tmp_path / "walk", picture(0), np.zeros((9, 2)), np.zeros(9))
    (tmp_path / "walk/traj_data.npz").unlink()
    (tmp_path / "walk/traj_data.pkl").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(BadFile, match="walk.*no usable position and yaw"):
        RECONSource(tmp_path, names=None).actions(0)


def test_absurd_poses_are_refused_without_a_warning(tmp_path: Path) -> None:
    position = 1e308 * np.array([1.0, -1.0] * 9).reshape(9, 2)
    write_recon_folder(tmp_path / "walk", picture(0), position * np.array([[1], [-1]] * 4 + [[1]]), np.zeros(9))
    with np.errstate(all="raise"), pytest.raises(BadFile, match="not all finite"):
        RECONSource(tmp_path, names=None).actions(0)


# -- What describes a set ---------------------------------------------------------------------------------------------


def described(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("version", "key", "value", "said"),
    [
        ("v2.1", "data_path", "data/{}.parquet", "makes no path"),
        ("v2.1", "data_path", "data/{file_index:03d}.parquet", "makes no path"),  # which v2 does not have
        ("v3.0", "video_path", "{video_key}/{chunk_index:0[]d}.mp4", "makes no path"),
        ("v3.0", "video_path", "{video_key}\0.mp4", "does not describe"),
        ("v3.0", "splits", {"train": "0:99999999999999999999"}, "does not describe"),
        ("v3.0", "fps", 10**400, "does not describe"),
    ],
)
def test_a_description_of_lerobots_that_cannot_be_is_named(
    tmp_path: Path, version: str, key: str, value: Any, said: str
) -> None:
    lerobot_set(version)(tmp_path)
    described(tmp_path / INFO, lambda info: info.update({"total_episodes": 10**20, key: value}))
    with pytest.raises(ValueError, match=rf"info\.json.*{said}"):
        LeRobotSource(tmp_path, "train")


def test_places_whose_names_no_file_can_have_are_lost_episodes(tmp_path: Path) -> None:
    lerobot_set("v2.1")(tmp_path)
    described(tmp_path / INFO, lambda info: info.update(data_path="data/{episode_index:0999d}.parquet"))
    source = LeRobotSource(tmp_path, "train")
    assert not source.names and len(source.bad) == 6 and all("is not there" in error.reason for error in source.bad)


@pytest.mark.parametrize("length", ["99999999999999999999", "-1"])
def test_shards_of_absurd_lengths_are_named(tmp_path: Path, length: str) -> None:
    rlds_set(tmp_path)
    path = tmp_path / "1.0.0/dataset_info.json"
    described(path, lambda info: info["splits"][0]["shardLengths"].__setitem__(0, length))
    with pytest.raises(ValueError, match=rf"dataset_info\.json declares a shard of {length} episodes"):
        RLDSSource(tmp_path / "1.0.0", "train")
