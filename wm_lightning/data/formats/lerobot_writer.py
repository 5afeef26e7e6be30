"""Writes LeRobot v3.0 and v2.1 data sets of one camera, with all that LeRobot's own loader asks for."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from wm_lightning.data.formats import lerobot_meta as meta
from wm_lightning.data.formats.lerobot import INFO
from wm_lightning.data.formats.lerobot_meta import CAMERA, Stats
from wm_lightning.data.formats.source import StoredEpisode
from wm_lightning.data.formats.video_files import Encoding, encode
from wm_lightning.data.formats.writing import Version

PATHS = {
    "v3.0": {
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    },
    "v2.1": {
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    },
}
CHUNK = 1000  # files a folder
# What LeRobot's own recorder would put into one file before it begins another.
SIZES = {"data_files_size_in_mb": 100, "video_files_size_in_mb": 200}


@dataclass(frozen=True)
class Written:
    """One episode: its row in the table of episodes, its statistics, the shape of its pictures."""

    row: dict[str, Any]
    stats: Stats
    shape: tuple[int, ...]


@dataclass(frozen=True)
class LeRobotWriter:
    """Where and how a set is written. v3.0 puts `together` episodes into one file."""

    folder: Path
    encoding: Encoding
    version: Version
    together: int

    def write(self, splits: Mapping[str, Sequence[StoredEpisode]]) -> None:
        """Writes all splits, one after the other, and `meta/` last: a set without it is not complete.

        Raises ValueError where pictures differ in size, which a set declares once.
        """
        places = [(name, number) for name, split in splits.items() for number in range(len(split))]
        ends = np.cumsum([len(split) for split in splits.values()])
        spans = {name: f"{end - len(split)}:{end}" for (name, split), end in zip(splits.items(), ends, strict=True)}
        step = self.together if self.version == "v3.0" else 1
        found: list[Written] = []
        for number, start in enumerate(range(0, len(places), step)):
            episodes = [splits[name][place] for name, place in places[start : start + step]]
            index = found[-1].row["dataset_to_index"] if found else 0
            found += self._file(number, start, index, episodes)
        if len(shapes := {one.shape for one in found}) != 1:
            raise ValueError(f"{self.folder}: pictures of {sorted(shapes)}; a LeRobot set holds one size, resize them")
        self._episodes(found)
        meta.write_tasks(self.folder, self.version)
        meta.write_text(
            self.folder / "meta/stats.json", json.dumps(meta.plain(meta.together([one.stats for one in found])))
        )
        meta.write_text(self.folder / INFO, json.dumps(self._info(found, spans), indent=1))

    def _info(self, found: Sequence[Written], spans: Mapping[str, str]) -> dict[str, Any]:
        counts = {"total_videos": len(found), "total_chunks": -(-len(found) // CHUNK)}
        return {
            "codebase_version": self.version, "robot_type": None, "fps": self.encoding.fps,
            "total_episodes": len(found), "total_frames": found[-1].row["dataset_to_index"], "total_tasks": 1,
            "chunks_size": CHUNK, **(SIZES if self.version == "v3.0" else counts), "splits": dict(spans),
            **PATHS[self.version], "features": meta.features(found[0].shape, self.encoding.fps),
        }  # fmt: skip

    def _file(self, number: int, first: int, index: int, episodes: Sequence[StoredEpisode]) -> Iterable[Written]:
        """One table and one video, and what the set's tables say of the episodes in them."""
        chunk = {"chunk_index": number // CHUNK, "file_index": number % CHUNK}
        names = {**chunk, "episode_chunk": number // CHUNK, "episode_index": number, "video_key": CAMERA}
        fps, paths = self.encoding.fps, PATHS[self.version]
        rows = meta.table(episodes, first, index, fps)
        meta.write_table(self.folder / paths["data_path"].format(**names), rows)
        film = self.folder / paths["video_path"].format(**names)
        film.parent.mkdir(parents=True, exist_ok=True)
        encode(film, np.concatenate([episode.video for episode in episodes]), self.encoding)
        start = 0
        for place, episode in enumerate(episodes):
            stop = start + len(episode.actions)
            times = {"from_timestamp": start / fps, "to_timestamp": stop / fps}
            row = {
                "episode_index": first + place, "tasks": [meta.TASK], "length": stop - start,
                "dataset_from_index": index + start, "dataset_to_index": index + stop,
                **{f"data/{key}": value for key, value in chunk.items()},
                **{f"videos/{CAMERA}/{key}": value for key, value in {**chunk, **times}.items()},
                "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0,
            }  # fmt: skip
            stats = meta.statistics(episode, rows.slice(start, stop - start))
            yield Written(row, stats, episode.video.shape[1:])
            start = stop

    def _episodes(self, found: Sequence[Written]) -> None:
        about = self.folder / "meta"
        if self.version == "v3.0":
            stats = [_flat(meta.plain(one.stats)) for one in found]
            rows = [one.row | values for one, values in zip(found, stats, strict=True)]
            meta.write_table(about / "episodes/chunk-000/file-000.parquet", pa.Table.from_pylist(rows))
            return
        kept = ("episode_index", "tasks", "length")
        meta.write_lines(about / "episodes.jsonl", [{key: one.row[key] for key in kept} for one in found])
        meta.write_lines(
            about / "episodes_stats.jsonl",
            [{"episode_index": one.row["episode_index"], "stats": meta.plain(one.stats)} for one in found],
        )


def _flat(stats: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"stats/{name}/{key}": value for name, found in stats.items() for key, value in found.items()}
