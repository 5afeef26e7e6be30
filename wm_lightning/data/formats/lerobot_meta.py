"""What LeRobot keeps about a set beside tables and videos: features, statistics, tasks.

Its own loader asks for every one of these files; the suite's reader needs `info.json` and the episodes only.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wm_lightning.data.formats.atomic import atomic_file
from wm_lightning.data.formats.lerobot import ORDER
from wm_lightning.data.formats.robot_actions import columns
from wm_lightning.data.formats.source import StoredEpisode

CAMERA = "observation.images.image"
# Readers give no language, and a LeRobot set has a task for every frame.
TASK = "no instruction is stored"
INDICES = ("frame_index", "episode_index", "index", "task_index")

Stats = dict[str, dict[str, np.ndarray]]


def features(shape: Sequence[int], fps: int) -> dict[str, Any]:
    """The features of every frame as `info.json` declares them."""
    height, width, channels = shape
    video = {
        "video.height": height, "video.width": width, "video.channels": channels, "video.codec": "h264",
        "video.pix_fmt": "yuv420p", "video.is_depth_map": False, "video.fps": fps, "has_audio": False,
    }  # fmt: skip
    one = lambda dtype: {"dtype": dtype, "shape": [1], "names": None}  # noqa: E731
    names = list(columns(ORDER))
    return {
        CAMERA: {"dtype": "video", "shape": list(shape), "names": ["height", "width", "channels"], "info": video},
        "action": {"dtype": "float32", "shape": [len(names)], "names": names},
        "timestamp": one("float32"),
        **{name: one("int64") for name in INDICES},
    }


def table(episodes: Sequence[StoredEpisode], first: int, index: int, fps: int) -> pa.Table:
    """The rows of some episodes, numbered from `first`, their frames from `index` on."""
    lengths = [len(episode.actions) for episode in episodes]
    frames = np.concatenate([np.arange(length) for length in lengths])
    actions = np.concatenate([episode.actions for episode in episodes]).astype(np.float32)
    return pa.table({
        "action": pa.FixedSizeListArray.from_arrays(pa.array(actions.reshape(-1)), actions.shape[1]),
        "timestamp": pa.array((frames / fps).astype(np.float32)),
        "frame_index": frames,
        "episode_index": np.repeat(np.arange(first, first + len(episodes)), lengths),
        "index": np.arange(index, index + len(frames)),
        "task_index": np.zeros(len(frames), np.int64),
    })  # fmt: skip


def statistics(episode: StoredEpisode, rows: pa.Table) -> Stats:
    """Minimum, maximum, mean, deviation and count of every feature of one episode; pixels are in [0, 1]."""
    pixels = episode.video.reshape(-1, 3)
    found = {CAMERA: {name: values.reshape(3, 1, 1) / 255 for name, values in _moments(pixels).items()}}
    found["action"] = _moments(episode.actions)
    for name in ("timestamp", *INDICES):
        found[name] = _moments(rows[name].to_numpy()[:, None])
    return {name: {**values, "count": np.array([len(episode.actions)])} for name, values in found.items()}


def together(parts: Sequence[Stats]) -> Stats:
    """The statistics of all episodes, from those of each."""
    found = Stats()
    for name in parts[0]:
        stacked = {key: np.stack([part[name][key] for part in parts]) for key in parts[0][name]}
        counts = stacked["count"].reshape(-1, *[1] * (stacked["mean"].ndim - 1))
        weights = counts / counts.sum()
        mean = (weights * stacked["mean"]).sum(0)
        spread = (weights * (stacked["std"] ** 2 + (stacked["mean"] - mean) ** 2)).sum(0)
        found[name] = {
            "min": stacked["min"].min(0), "max": stacked["max"].max(0), "mean": mean, "std": np.sqrt(spread),
            "count": stacked["count"].sum(0),
        }  # fmt: skip
    return found


def plain(stats: Stats) -> dict[str, dict[str, Any]]:
    """The same as lists, for JSON."""
    return {name: {key: values.tolist() for key, values in found.items()} for name, found in stats.items()}


def write_tasks(folder: Path, version: str) -> None:
    """The one task that all frames have: `tasks.parquet` of v3.0, which pandas must find indexed by text, or jsonl."""
    if version != "v3.0":
        write_lines(folder / "meta/tasks.jsonl", [{"task_index": 0, "task": TASK}])
        return
    column = lambda name, kind, dtype: {  # noqa: E731
        "name": name, "field_name": name, "pandas_type": kind, "numpy_type": dtype, "metadata": None,
    }  # fmt: skip
    about = {
        "index_columns": ["task"], "column_indexes": [], "pandas_version": "2.0.0",
        "columns": [column("task_index", "int64", "int64"), column("task", "unicode", "object")],
    }  # fmt: skip
    found = pa.table({"task_index": pa.array([0], pa.int64()), "task": pa.array([TASK])})
    write_table(folder / "meta/tasks.parquet", found.replace_schema_metadata({"pandas": json.dumps(about)}))


def write_table(path: Path, content: pa.Table) -> None:
    """Writes a parquet file, whole or not at all, with checksums by which damage is found."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial:
        pq.write_table(content, partial, write_page_checksum=True)


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes a file of one JSON value a line, whole or not at all."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_text(path: Path, text: str) -> None:
    """Writes a text, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial:
        partial.write_text(text)


def _moments(rows: np.ndarray) -> dict[str, np.ndarray]:
    wide = rows.astype(np.float64)
    return {"min": wide.min(0), "max": wide.max(0), "mean": wide.mean(0), "std": wide.std(0)}
