"""What a LeRobot set says of itself under `meta/`: its cameras, splits and episodes, checked before they are used."""

import json
import math
import re
import string
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wm_lightning.data.formats.tables import read_rows
from wm_lightning.data.formats.video_files import BadFile

INFO = "meta/info.json"
SPAN = re.compile(r"(\d{1,7}):(\d{1,7})", re.ASCII)  # fewer than ten million episodes, each of which may be missed
EPISODES = {"v2": "meta/episodes.jsonl", "v3": "meta/episodes"}


@dataclass(frozen=True)
class Place:
    """Where an episode stands: its table, its video, and the time of its first picture there."""

    index: int
    length: int
    table: Path
    video: Path
    start: float

    @property
    def name(self) -> str:
        """The episode's number as written."""
        return name_of(self.index)


def name_of(index: int) -> str:
    """An episode's name."""
    return f"{index:06d}"


def read_info(folder: Path) -> Mapping[str, Any]:
    """`meta/info.json`. Raises ValueError, naming the file and the key, where it is not LeRobot's."""
    path = folder / INFO
    try:
        info = json.loads(path.read_text())
        version = str(info["codebase_version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not describe a LeRobot set ({error!r})") from error
    if not version.startswith(("v2", "v3")):
        raise ValueError(f"{path} is of LeRobot {version}; v2.x and v3.0 are read")
    for key, (fits, expected) in _KEYS.items():
        optional = (key == "chunks_size" and version.startswith("v3")) or key in ("splits", "total_episodes")
        if not (fits(info[key]) if key in info else optional):
            found = f"{key}={info[key]!r}" if key in info else f"no {key}"
            raise ValueError(f"{path} does not describe a LeRobot set: it has {found}, {expected} is expected")
    return info


def span_of(info: Mapping[str, Any], split: str, folder: Path) -> range:
    """The numbers of a split's episodes. Raises ValueError where there is no such split, or more than episodes."""
    declared = info.get("splits", {})
    if split not in declared:
        raise ValueError(f"{folder} has no split {split}, only {sorted(declared)}")
    span, total = _range(declared[split]), info.get("total_episodes")
    assert span is not None
    if total is not None and span.stop > total:
        raise ValueError(f"{folder / INFO} has {split}={declared[split]} in splits, but total_episodes={total}")
    return span


def camera_of(info: Mapping[str, Any], image: str | None, folder: Path) -> str:
    """The feature of a camera, `image` or the first. Raises ValueError where it is none."""
    cameras = [name for name, feature in info["features"].items() if feature.get("dtype") == "video"]
    chosen = image or (cameras[0] if cameras else None)
    if chosen is None or chosen not in cameras:
        raise ValueError(f"{folder} has no camera {chosen}; set data.image to one of {cameras}")
    return chosen


def read_places(folder: Path, info: Mapping[str, Any], camera: str) -> dict[int, Place]:
    """Every episode that a table names, by number. Raises ValueError where one is malformed or named twice."""
    places: dict[int, Place] = {}
    rows = _rows_v3 if info["codebase_version"].startswith("v3") else _rows_v2
    for where, values in rows(folder, camera):
        place = _place(folder, info, camera, where, values)
        if place.index in places:
            raise ValueError(f"{where} has episode {place.index} twice; remove one of its rows")
        if place.index >= info.get("total_episodes", math.inf):
            total = f"total_episodes={info['total_episodes']} in {folder / INFO}"
            raise ValueError(f"{where} has a row of episode {place.index}, but {total}; correct one of the two")
        places[place.index] = place
    if not places:
        raise ValueError(f"{folder / EPISODES[info['codebase_version'][:2]]} holds no table of episodes")
    return places


def unlisted(folder: Path, info: Mapping[str, Any], split: str, places: Mapping[int, Place]) -> list[BadFile]:
    """One fault for each episode of a split that no table names."""
    path, declared = folder / EPISODES[info["codebase_version"][:2]], info["splits"][split]
    reason = f"{INFO} declares {split}={declared}"
    lost = [index for index in span_of(info, split, folder) if index not in places]
    return [BadFile(path, f"has no row of episode {index}; {reason}", name_of(index)) for index in lost]


def _rows_v3(folder: Path, camera: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    video = f"videos/{camera}/"
    names = {
        "episode_index": "episode_index", "length": "length", "chunk": "data/chunk_index", "file": "data/file_index",
        "video_chunk": f"{video}chunk_index", "video_file": f"{video}file_index", "start": f"{video}from_timestamp",
    }  # fmt: skip
    for path in sorted((folder / EPISODES["v3"]).glob("chunk-*/file-*.parquet")):
        for row in read_rows(path, list(names.values())):
            yield path, {key: row[name] for key, name in names.items()}


def _rows_v2(folder: Path, camera: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    path = folder / EPISODES["v2"]
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from error
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"{path}: row {number} is {row!r}, an object with episode_index and length is expected")
        yield path, {"start": 0.0, **{key: row.get(key) for key in ("episode_index", "length")}}


def _place(folder: Path, info: Mapping[str, Any], camera: str, where: Path, values: dict[str, Any]) -> Place:
    for key, value in values.items():
        least = 1 if key == "length" else 0
        if not (_finite(value) if key == "start" else _whole(value, least)):
            number = values["episode_index"]
            raise ValueError(f"{where}: episode {number} has {key}={value!r}, a number from {least} on is expected")
    index = values["episode_index"]
    names = {"episode_index": index, "video_key": camera, "episode_chunk": index // info.get("chunks_size", 1000)}
    table = {**names, "chunk_index": values.get("chunk"), "file_index": values.get("file")}
    film = {**names, "chunk_index": values.get("video_chunk"), "file_index": values.get("video_file")}
    paths = [_path(folder, info, key, own) for key, own in (("data_path", table), ("video_path", film))]
    return Place(index, values["length"], *paths, start=float(values["start"]))


def _path(folder: Path, info: Mapping[str, Any], key: str, names: Mapping[str, Any]) -> Path:
    """The path that a template makes of an episode's places. Raises ValueError where it makes none."""
    try:
        return folder / info[key].format(**names)
    except (ValueError, TypeError, LookupError, MemoryError) as error:
        raise ValueError(f"{folder / INFO}: {key}={info[key]!r} makes no path of {dict(names)} ({error})") from error


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= sys.float_info.max


def _range(value: Any) -> range | None:
    found = SPAN.fullmatch(str(value))
    return None if found is None else range(int(found[1]), int(found[2]))


def _template(value: Any) -> bool:
    """Whether a path can be made of it with the names that are known."""
    known = {"video_key", "chunk_index", "file_index", "episode_chunk", "episode_index"}
    try:
        named = {name for _, name, _, _ in string.Formatter().parse(value) if name} if isinstance(value, str) else None
        return named is not None and named <= known and "\0" not in value
    except ValueError:
        return False


def _features(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(feature, dict) for feature in value.values())


# What is used of `meta/info.json`: whether a value fits, and what would, in words.
_KEYS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "fps": (lambda value: _finite(value) and value > 0, "a positive number"),
    "features": (_features, "an object with one object a feature"),
    "data_path": (_template, "a path with {chunk_index}, {file_index} or {episode_chunk}, {episode_index}"),
    "video_path": (_template, "a path with {video_key} and the places of data_path"),
    "chunks_size": (lambda value: _whole(value, 1), "a positive number of episodes a folder"),
    "total_episodes": (lambda value: _whole(value, 0), "a number of episodes"),
    "splits": (
        lambda value: isinstance(value, dict) and all(_range(span) is not None for span in value.values()),
        "an object such as {train: '0:90', test: '90:100'}",
    ),
}
