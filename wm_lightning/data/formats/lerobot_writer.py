"""Writes LeRobot v3.0 and v2.1 data sets of one camera."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wm_lightning.data.formats.atomic import atomic_file
from wm_lightning.data.formats.lerobot import INFO, ORDER
from wm_lightning.data.formats.robot_actions import columns
from wm_lightning.data.formats.source import StoredEpisode
from wm_lightning.data.formats.video_files import Encoding, encode

Version = Literal["v3.0", "v2.1"]
CAMERA = "observation.images.image"
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


@dataclass(frozen=True)
class LeRobotWriter:
    """Where and how a set is written. v3.0 puts `together` episodes into one file."""

    folder: Path
    encoding: Encoding
    version: Version
    together: int

    def write(self, splits: Mapping[str, Sequence[StoredEpisode]]) -> None:
        """Writes all splits, one after the other, and `meta/` last: a set without it is not complete."""
        places = [(name, number) for name, split in splits.items() for number in range(len(split))]
        ends = np.cumsum([len(split) for split in splits.values()])
        spans = {name: f"{end - len(split)}:{end}" for (name, split), end in zip(splits.items(), ends, strict=True)}
        step = self.together if self.version == "v3.0" else 1
        rows: list[dict[str, Any]] = []
        shape: list[int] = []
        for number, start in enumerate(range(0, len(places), step)):
            episodes = [splits[name][place] for name, place in places[start : start + step]]
            rows += self._file(number, start, episodes)
            shape = list(episodes[0].video.shape[1:])
        self._episodes(rows)
        info = {
            "codebase_version": self.version, "fps": self.encoding.fps, "total_episodes": len(places),
            "total_frames": sum(row["length"] for row in rows), "chunks_size": CHUNK, "splits": spans,
            **PATHS[self.version],
            "features": {
                CAMERA: {"dtype": "video", "shape": shape, "names": ["height", "width", "channels"]},
                "action": {"dtype": "float32", "shape": [7], "names": list(columns(ORDER))},
            },
        }  # fmt: skip
        self._json(self.folder / INFO, json.dumps(info, indent=1))

    def _file(self, number: int, first: int, episodes: Sequence[StoredEpisode]) -> Iterable[dict[str, Any]]:
        """One table and one video; the rows of the table of episodes that belong to them."""
        chunk = {"chunk_index": number // CHUNK, "file_index": number % CHUNK, "episode_chunk": number // CHUNK}
        lengths, fps = [len(episode.actions) for episode in episodes], self.encoding.fps
        table = pa.table({
            "episode_index": np.repeat(np.arange(first, first + len(episodes)), lengths),
            "frame_index": np.concatenate([np.arange(length) for length in lengths]),
            "timestamp": np.concatenate([np.arange(length, dtype=np.float32) / fps for length in lengths]),
            "action": [row.tolist() for episode in episodes for row in episode.actions],
        })  # fmt: skip
        paths = PATHS[self.version]
        target = self.folder / paths["data_path"].format(**chunk, episode_index=number)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target) as partial:
            pq.write_table(table, partial)
        film = self.folder / paths["video_path"].format(**chunk, episode_index=number, video_key=CAMERA)
        film.parent.mkdir(parents=True, exist_ok=True)
        encode(film, np.concatenate([episode.video for episode in episodes]), self.encoding)
        start = 0
        for place, length in enumerate(lengths):
            video = {"chunk_index": chunk["chunk_index"], "file_index": chunk["file_index"]}
            times = {"from_timestamp": start / fps, "to_timestamp": (start + length) / fps}
            yield {
                "episode_index": first + place, "length": length,
                **{f"data/{key}": value for key, value in video.items()},
                **{f"videos/{CAMERA}/{key}": value for key, value in {**video, **times}.items()},
            }  # fmt: skip
            start += length

    def _episodes(self, rows: Sequence[dict[str, Any]]) -> None:
        if self.version == "v3.0":
            path = self.folder / "meta/episodes/chunk-000/file-000.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as partial:
                pq.write_table(pa.Table.from_pylist(list(rows)), partial)
            return
        lines = (json.dumps({"episode_index": row["episode_index"], "length": row["length"]}) for row in rows)
        self._json(self.folder / "meta/episodes.jsonl", "\n".join(lines) + "\n")

    def _json(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as partial:
            partial.write_text(text)
