"""What lists and tables declare is there, once, and what describes a set is told apart from what does not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.data.fault_sets import SETS
from tests.data.making import episodes, moving_picture
from wm_lightning.data.formats.csgo import CSGOSource
from wm_lightning.data.formats.diamond import DiamondSource
from wm_lightning.data.formats.lerobot import INFO, LeRobotSource
from wm_lightning.data.formats.lerobot_writer import LeRobotWriter
from wm_lightning.data.formats.recon import RECONSource, write_recon_file, write_recon_folder
from wm_lightning.data.formats.rlds import RLDSSource, write_rlds
from wm_lightning.data.formats.tfrecord import index_records, parse_example, read_record, write_records
from wm_lightning.data.formats.video_files import BadFile, Encoding

ENCODING = Encoding(fps=3, crf=10, preset="veryfast")


def lerobot(root: Path, version: str) -> Path:
    made = episodes(4, "lerobot7")
    LeRobotWriter(root, ENCODING, version, together=2).write({"train": made[:3], "test": made[3:]})  # type: ignore[arg-type]
    return root


def altered_rows(root: Path, version: str, change: Callable[[list[dict[str, Any]]], list]) -> None:
    """Changes the table of episodes."""
    path = root / ("meta/episodes.jsonl" if version == "v2.1" else "meta/episodes/chunk-000/file-000.parquet")
    if version == "v2.1":
        rows = change([json.loads(line) for line in path.read_text().splitlines()])
        path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    else:
        pq.write_table(pa.Table.from_pylist(change(pq.read_table(path).to_pylist())), path)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_a_row_that_lacks_in_lerobots_table_is_a_lost_episode(tmp_path: Path, version: str) -> None:
    altered_rows(lerobot(tmp_path, version), version, lambda rows: rows[:1] + rows[2:])
    source = LeRobotSource(tmp_path, "train")
    assert source.names == ("000000", "000002") and [error.episode for error in source.bad] == ["000001"]
    assert "has no row of episode 1" in source.bad[0].reason and "0:3" in source.bad[0].reason
    assert not LeRobotSource(tmp_path, "test").bad


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: [*rows, rows[0]], "has episode 0 twice"),
        (lambda rows: [*rows, {**rows[0], "episode_index": 9}], "episode 9, but total_episodes=4"),
        (lambda rows: [{**rows[0], "length": None}, *rows[1:]], r"episode 0 has length=None, a number from 1"),
        (lambda rows: [{**rows[0], "length": 0}, *rows[1:]], r"episode 0 has length=0, a number from 1"),
    ],
)
def test_a_wrong_row_of_lerobots_table_is_named(tmp_path: Path, version: str, change: Callable, said: str) -> None:
    altered_rows(lerobot(tmp_path, version), version, change)
    with pytest.raises(ValueError, match=rf"meta/episodes.*{said}"):
        LeRobotSource(tmp_path, "train")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("features", None), ("features", []), ("features", {"action": 3}), ("fps", 0), ("fps", "3"),
        ("chunks_size", None), ("chunks_size", 0), ("data_path", None), ("data_path", "{shard}.parquet"),
        ("video_path", "a{"), ("splits", {"train": "3"}), ("splits", ["train"]), ("total_episodes", "four"),
    ],
)  # fmt: skip
def test_a_wrong_key_of_lerobots_description_is_named(tmp_path: Path, key: str, value: Any) -> None:
    path = lerobot(tmp_path, "v2.1") / INFO
    info = json.loads(path.read_text())
    path.write_text(
        json.dumps({**{k: v for k, v in info.items() if k != key}, **({} if value is None else {key: value})})
    )
    with pytest.raises(ValueError, match=rf"meta/info.json does not describe.*{key}.* is expected"):
        LeRobotSource(tmp_path, "train")


def test_splits_beyond_the_declared_episodes_are_refused(tmp_path: Path) -> None:
    path = lerobot(tmp_path, "v3.0") / INFO
    path.write_text(json.dumps({**json.loads(path.read_text()), "total_episodes": 3}))
    with pytest.raises(ValueError, match=r"info.json has test=3:4 in splits, but total_episodes=3"):
        LeRobotSource(tmp_path, "test")


def test_records_that_lack_in_a_whole_shard_are_lost_episodes(tmp_path: Path) -> None:
    write_rlds(tmp_path, "set", "train", [episodes(3, "vid2world13")])
    (shard,) = tmp_path.glob("*.tfrecord-*")
    places = [tuple(map(int, place)) for place in index_records(shard).places[:2]]
    write_records(shard, [parse_example(shard, read_record(shard, *place)) for place in places])  # type: ignore[arg-type]
    source = RLDSSource(tmp_path, "train")
    assert len(source.names) == 2 and [error.episode for error in source.bad] == ["00000-00002"]
    assert "holds 2 records, 3 are declared" in source.bad[0].reason


def test_features_without_actions_and_odd_names_of_shards_are_refused(tmp_path: Path) -> None:
    write_rlds(tmp_path, "set", "train", [episodes(1, "vid2world13")])
    odd = tmp_path / "set-train.tfrecord-00000-of-00001.copy"
    odd.write_bytes(b"")
    with pytest.raises(ValueError, match=r"\.copy is no name of a shard"):
        RLDSSource(tmp_path, "train")
    odd.unlink()
    path = tmp_path / "features.json"
    path.write_text(path.read_text().replace('"action"', '"act"'))
    with pytest.raises(ValueError, match=r"features.json has no feature steps/action, only \['act', 'is_first'"):
        RLDSSource(tmp_path, "train")


def test_a_listed_test_file_that_is_not_there_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    SETS["csgo"].make(tmp_path / "set")  # type: ignore[operator]
    names = frozenset({"hdf5_dm_july2021_6.hdf5", "hdf5_dm_july2021_77.hdf5"})
    test = CSGOSource(tmp_path / "set", colours="bgr", names=names)
    assert test.names == ("hdf5_dm_july2021_6.hdf5",)
    assert any(
        "1 of 2 files of the test list are not there, e.g. hdf5_dm_july2021_77.hdf5" in m for m in caplog.messages
    )
    caplog.clear()
    assert not test.bad and not CSGOSource(tmp_path / "set", colours="bgr", names=names, inside=False).bad
    CSGOSource(tmp_path / "set", colours="bgr", names=frozenset({"hdf5_dm_july2021_6.hdf5"}))
    assert not caplog.messages


def test_a_walk_without_poses_is_a_fault_with_and_without_a_list(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_recon_folder(tmp_path / name, moving_picture(4, 0), np.zeros((4, 2)), np.zeros(4))
    (tmp_path / "b/traj_data.npz").unlink()
    (tmp_path / "plots").mkdir()
    for names in (None, frozenset({"a", "b"})):
        source = RECONSource(tmp_path, names=names)
        assert source.names == ("a",) and [error.episode for error in source.bad] == ["b"]
        assert "neither traj_data.npz nor traj_data.pkl" in source.bad[0].reason


def test_a_name_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    SETS["csgo"].make(tmp_path / "csgo")  # type: ignore[operator]
    again = tmp_path / "csgo/more/hdf5_dm_july2021_1.hdf5"
    again.parent.mkdir()
    again.write_bytes((tmp_path / "csgo/hdf5_dm_july2021_1.hdf5").read_bytes())
    with pytest.raises(ValueError, match=r"hdf5_dm_july2021_1.hdf5 is there twice"):
        CSGOSource(tmp_path / "csgo", colours="bgr")
    for folder in ("x", "y"):
        (tmp_path / "recon" / folder).mkdir(parents=True)
        write_recon_file(tmp_path / f"recon/{folder}/w.hdf5", moving_picture(4, 0), np.zeros((4, 2)), np.zeros(4))
        (tmp_path / "diamond" / folder).mkdir(parents=True)
        (tmp_path / f"diamond/{folder}/7.pt").touch()
    with pytest.raises(ValueError, match=r"w is there twice"):
        RECONSource(tmp_path / "recon", names=None)
    with pytest.raises(ValueError, match=r"7 is there twice"):
        DiamondSource(tmp_path / "diamond")


@pytest.mark.parametrize("key", ["act", "obs"])
@pytest.mark.parametrize("change", [torch.Tensor.bfloat16, torch.Tensor.to_sparse])
def test_tensors_that_numpy_cannot_hold_are_named(tmp_path: Path, key: str, change: Callable) -> None:
    act = torch.zeros(4, 51)
    content = {"obs": torch.zeros(4, 3, 8, 8, dtype=torch.uint8), "act": act}
    torch.save({**content, key: change(content[key].float())}, tmp_path / "1.pt")
    with pytest.raises(BadFile, match=rf"1.pt: {key} is a tensor of .* is expected"):
        DiamondSource(tmp_path).read(0)
