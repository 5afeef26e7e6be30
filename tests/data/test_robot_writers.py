"""What others' loaders ask of LeRobot and RLDS sets, which the suite's own readers do without."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.making import episode, episodes, moving_picture
from wm_lightning.data.formats.lerobot import INFO
from wm_lightning.data.formats.lerobot_writer import LeRobotWriter
from wm_lightning.data.formats.rlds import write_rlds
from wm_lightning.data.formats.source import StoredEpisode
from wm_lightning.data.formats.video_files import Encoding

ENCODING = Encoding(fps=3, crf=10, preset="veryfast")


def test_an_rlds_set_says_which_classes_decode_it(tmp_path: Path) -> None:
    write_rlds(tmp_path / "2.0.0", "set", "train", [[episode(5, "vid2world13")]])
    features = json.loads((tmp_path / "2.0.0/features.json").read_text())
    steps = features["featuresDict"]["features"]["steps"]
    assert steps["pythonClassName"].endswith("dataset_feature.Dataset") and steps["sequence"]["length"] == "-1"
    step = steps["sequence"]["feature"]["featuresDict"]["features"]
    image = step["observation"]["featuresDict"]["features"]["image"]
    assert image["pythonClassName"].endswith("image_feature.Image") and image["image"]["encodingFormat"] == "jpeg"
    assert image["image"]["shape"]["dimensions"] == ["32", "32", "3"] and step["is_last"]["tensor"]["dtype"] == "bool"
    info = json.loads((tmp_path / "2.0.0/dataset_info.json").read_text())
    assert (info["version"], info["fileFormat"]) == ("2.0.0", "tfrecord") and int(info["splits"][0]["numBytes"]) > 0


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_a_lerobot_set_has_what_other_loaders_ask_for(tmp_path: Path, version: str) -> None:
    made = episodes(5, "lerobot7", lengths=(6, 9, 4, 7, 5))
    LeRobotWriter(tmp_path, ENCODING, version, together=2).write({"train": made[:3], "test": made[3:]})  # type: ignore[arg-type]
    info, meta = json.loads((tmp_path / INFO).read_text()), tmp_path / "meta"
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (5, 31, 1)
    rows = [row for path in sorted(tmp_path.glob("data/*/*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert [row["index"] for row in rows] == list(range(31)) and {row["task_index"] for row in rows} == {0}
    assert {*rows[0]} == {name for name, about in info["features"].items() if about["dtype"] != "video"}
    schema = pq.read_table(next(tmp_path.glob("data/*/*.parquet"))).schema
    assert schema.field("action").type == pa.list_(pa.float32(), 7) and schema.field("timestamp").type == pa.float32()
    actions, pixels = np.concatenate([one.actions for one in made]), np.concatenate([one.video for one in made]) / 255
    stats = json.loads((meta / "stats.json").read_text())
    for name in ("min", "max", "mean", "std"):
        wanted = getattr(actions, name)(axis=0)
        np.testing.assert_allclose(stats["action"][name], wanted, atol=1e-6)
    np.testing.assert_allclose(stats["observation.images.image"]["std"], pixels.std((0, 1, 2)).reshape(3, 1, 1))
    assert stats["action"]["count"] == [31] and {*stats} == {*info["features"]}
    if version == "v2.1":
        tasks, about, each = (
            [json.loads(line) for line in (meta / f"{name}.jsonl").read_text().splitlines()]
            for name in ("tasks", "episodes", "episodes_stats")
        )
        assert [row["length"] for row in about] == [6, 9, 4, 7, 5] and len(each) == info["total_videos"] == 5
        assert about[0]["tasks"] == [tasks[0]["task"]] and {*each[0]["stats"]} == {*info["features"]}
        return
    tasks = pq.read_table(meta / "tasks.parquet")
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    about = pq.read_table(meta / "episodes/chunk-000/file-000.parquet").to_pylist()
    spans = [(row["dataset_from_index"], row["dataset_to_index"]) for row in about]
    assert spans == [(0, 6), (6, 15), (15, 19), (19, 26), (26, 31)] and about[3]["tasks"] == tasks["task"].to_pylist()


def test_a_lerobot_set_holds_one_size_of_pictures(tmp_path: Path) -> None:
    wide = StoredEpisode(moving_picture(6, 0, width=48), episode(6, "lerobot7").actions)
    with pytest.raises(ValueError, match="a LeRobot set holds one size"):
        LeRobotWriter(tmp_path, ENCODING, "v3.0", together=1).write({"train": [episode(6, "lerobot7"), wide]})
