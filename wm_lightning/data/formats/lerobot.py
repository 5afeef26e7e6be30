"""LeRobot data sets: v3.0 (many episodes a file) and v2.x (a parquet and an mp4 per episode), H.264 or AV1.

Frame k of an episode is the picture at `from_timestamp` + k / fps. The rate is that of `meta/info.json`: containers
are not asked.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float32

from wm_lightning.data.formats.robot_actions import columns
from wm_lightning.data.formats.source import Stamp, StoredEpisode, checked_actions, stamp
from wm_lightning.data.formats.video_files import BadFile, decode_span

INFO = "meta/info.json"
ORDER = "lerobot7"


@dataclass(frozen=True)
class Place:
    """Where an episode stands: its table, its video, and the time of its first picture there."""

    index: int
    length: int
    table: Path
    video: Path
    start: float


class LeRobotSource:
    """The episodes of one split; `image` names the camera's feature, null takes the first."""

    columns = columns(ORDER)

    def __init__(self, folder: Path, split: str, *, image: str | None = None) -> None:
        self.folder = folder
        self.info = read_info(folder)
        self.camera = _camera(self.info, image, folder)
        first, last = _span(self.info, split, folder)
        version = str(self.info["codebase_version"])
        places = (
            _places_v3(folder, self.info, self.camera)
            if version.startswith("v3")
            else _places_v2(folder, self.info, self.camera)
        )
        self.bad: list[BadFile] = []
        self.places: list[Place] = []
        for place in places:
            if not first <= place.index < last:
                continue
            absent = next((path for path in (place.table, place.video) if not path.is_file()), None)
            if absent is None:
                self.places.append(place)
            else:
                self.bad.append(BadFile(absent, f"is not there, so episode {place.index} is lost"))
        self.names: Sequence[str] = tuple(f"{place.index:06d}" for place in self.places)

    def stamps(self) -> Sequence[Stamp]:
        """Name, size and time of every table and video, and of what describes them."""
        paths = {path for place in self.places for path in (place.table, place.video)}
        about = [*self.folder.glob("meta/*.json*"), *self.folder.glob("meta/episodes/**/*.parquet")]
        return [stamp(path) for path in sorted({*paths, *about})]

    def actions(self, episode: int) -> Float32[np.ndarray, "f a"]:
        """The stored actions."""
        place = self.places[episode]
        table = _table(place.table, stamp(place.table))
        rows = table.filter(pc.field("episode_index") == place.index).sort_by("frame_index")
        try:
            values = np.array(rows["action"].to_pylist(), np.float32)
        except ValueError as error:
            raise BadFile(place.table, f"episode {place.index} has actions of several lengths ({error})") from error
        if len(values) != place.length:
            raise BadFile(place.table, f"episode {place.index} has {len(values)} rows, {place.length} are declared")
        return checked_actions(place.table, values, len(self.columns))

    def read(self, episode: int) -> StoredEpisode:
        """The whole episode."""
        place = self.places[episode]
        actions = self.actions(episode)
        return StoredEpisode(decode_span(place.video, place.start, place.length, float(self.info["fps"])), actions)


def splits(folder: Path) -> tuple[str, ...]:
    """The splits that `meta/info.json` declares."""
    return tuple(read_info(folder).get("splits", {}))


def read_info(folder: Path) -> Mapping[str, Any]:
    """`meta/info.json`. Raises ValueError where it is missing or not LeRobot's."""
    path = folder / INFO
    try:
        info = json.loads(path.read_text())
        version = str(info["codebase_version"])
        float(info["fps"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not describe a LeRobot set ({error!r})") from error
    if not version.startswith(("v2", "v3")):
        raise ValueError(f"{path} is of LeRobot {version}; v2.x and v3.0 are read")
    return info


def _span(info: Mapping[str, Any], split: str, folder: Path) -> tuple[int, int]:
    declared = info.get("splits", {})
    if split not in declared:
        raise ValueError(f"{folder} has no split {split}, only {sorted(declared)}")
    first, last = str(declared[split]).split(":")
    return int(first), int(last)


def _camera(info: Mapping[str, Any], image: str | None, folder: Path) -> str:
    cameras = [name for name, feature in info["features"].items() if feature.get("dtype") == "video"]
    chosen = image or (cameras[0] if cameras else None)
    if chosen is None or chosen not in cameras:
        raise ValueError(f"{folder} has no camera {chosen}; set data.image to one of {cameras}")
    return chosen


def _places_v3(folder: Path, info: Mapping[str, Any], camera: str) -> list[Place]:
    video = f"videos/{camera}/"
    names = {"chunk": "data/chunk_index", "file": "data/file_index"}
    wanted = ["episode_index", "length", *names.values(), f"{video}chunk_index", f"{video}file_index"]
    places = []
    for path in sorted(folder.glob("meta/episodes/chunk-*/file-*.parquet")):
        for row in _parquet(path, [*wanted, f"{video}from_timestamp"]).to_pylist():
            table = info["data_path"].format(chunk_index=row[names["chunk"]], file_index=row[names["file"]])
            film = info["video_path"].format(
                video_key=camera, chunk_index=row[f"{video}chunk_index"], file_index=row[f"{video}file_index"]
            )
            start = float(row[f"{video}from_timestamp"])
            places.append(Place(row["episode_index"], row["length"], folder / table, folder / film, start))
    if not places:
        raise ValueError(f"{folder}/meta/episodes holds no table of episodes")
    return places


def _places_v2(folder: Path, info: Mapping[str, Any], camera: str) -> list[Place]:
    path = folder / "meta/episodes.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from error
    places = []
    for row in rows:
        index = row["episode_index"]
        names = {"episode_chunk": index // info["chunks_size"], "episode_index": index, "video_key": camera}
        table, film = (folder / info[key].format(**names) for key in ("data_path", "video_path"))
        places.append(Place(index, row["length"], table, film, 0.0))
    return places


@lru_cache(maxsize=2)  # consecutive episodes of v3.0 share a file; the stamp is there to see that it changed
def _table(path: Path, found: Stamp) -> pa.Table:
    return _parquet(path, ["episode_index", "frame_index", "action"])


def _parquet(path: Path, columns: Sequence[str]) -> pa.Table:
    """The columns of a table. Raises BadFile where it is damaged or lacks one."""
    try:
        # Pages carry checksums where their writer made some; without, damaged values would pass unseen.
        table = pq.read_table(path, columns=list(columns), page_checksum_verification=True)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise BadFile(path, f"cannot be read as parquet ({error})") from error
    if missing := sorted(set(columns) - set(table.column_names)):
        raise BadFile(path, f"has no column {', '.join(missing)}, only {', '.join(table.column_names)}")
    return table
