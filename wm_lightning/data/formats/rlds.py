"""Episodes of an RLDS set as TensorFlow Datasets stores them, read without TensorFlow.

Layout `<folder>/[<version>/]dataset_info.json, features.json, <name>-<split>.tfrecord-XXXXX-of-YYYYY`; one record is
one episode. Images are JPEG or PNG; actions are one vector of seven numbers, or RT-1's fields by name.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from wm_lightning.data.formats.atomic import atomic_file
from wm_lightning.data.formats.picture_files import from_bytes, to_jpeg
from wm_lightning.data.formats.rlds_meta import describe_features, describe_set, described_split
from wm_lightning.data.formats.robot_actions import FIELDS, columns
from wm_lightning.data.formats.source import (
    Outline,
    Stamp,
    StoredEpisode,
    checked_actions,
    names_faults,
    of_one_size,
    stamp,
    trimmed,
)
from wm_lightning.data.formats.tfrecord import Feature, indexed_records, parse_example, read_record, write_records
from wm_lightning.data.formats.video_files import BadFile

INFO, FEATURES = "dataset_info.json", "features.json"
MOST_RECORDS = 10**7  # of a shard; those that it lacks are listed one by one
SHARD = re.compile(r".+\.tfrecord-(\d+)-of-(\d+)")
IMAGES = ("image", "image_0")  # RT-1's and Bridge's main camera


@dataclass(frozen=True)
class Place:
    """Where a record stands."""

    path: Path
    offset: int
    length: int


def version_folder(folder: Path) -> Path | None:
    """The folder that holds `dataset_info.json`: itself, or its newest version. None where there is none."""
    if (folder / INFO).is_file():
        return folder
    versions = [path.parent for path in folder.glob(f"*/{INFO}") if path.parent.name.replace(".", "").isdigit()]
    return max(versions, key=lambda path: [int(part) for part in path.name.split(".")], default=None)


@names_faults
class RLDSSource:
    """One split of a set; `image` names the camera, null takes the main one.

    Where records stand is kept in the folder `index`, so that the next start need not walk through all shards.
    """

    def __init__(self, folder: Path, split: str, *, image: str | None = None, index: Path | None = None) -> None:
        self.folder = folder
        self.shards = _shards(folder, split)
        declared = _declared(folder, split)
        self.bad: list[BadFile] = list(_missing_shards(self.shards, declared))
        self.places: list[Place] = []
        names: list[str] = []
        for shard, found in zip(self.shards, indexed_records(self.shards, index), strict=True):
            number = _number(shard)
            self.places += [Place(shard, int(offset), int(length)) for offset, length in found.places]
            names += [_name(number, record) for record in range(len(found.places))]
            self.bad += _lost(shard, len(found.places), declared.get(number), found.fault)
        self.names: Sequence[str] = tuple(names)
        steps = _features(folder)
        if "action" not in steps:
            raise ValueError(f"{folder / FEATURES} has no feature steps/action, only {sorted(steps)}; none can be read")
        self.image = _image_key(steps, image, folder)
        self.fields = isinstance(steps["action"], dict)
        self.columns = columns("vid2world13" if self.fields else "lerobot7")

    def stamps(self) -> Sequence[Stamp]:
        """Name, size and time of every shard."""
        return [stamp(path) for path in self.shards]

    def actions(self, episode: int) -> Float32[np.ndarray, "f a"]:
        """The stored actions, in the order of `columns`."""
        path, found = self._record(episode, but=(self.image,))
        return self._actions(path, found)

    def read(self, episode: int) -> StoredEpisode:
        """The whole episode."""
        path, found = self._record(episode)
        actions, pictures = self._actions(path, found), self._pictures(path, found)
        trimmed(path, len(pictures), len(actions), trim_tail=None)
        return StoredEpisode(_decoded(path, pictures), actions)

    def outline(self, episode: int) -> Outline:
        """Actions and the first frame, of a record that is read once."""
        path, found = self._record(episode)
        actions, pictures = self._actions(path, found), self._pictures(path, found)
        trimmed(path, len(pictures), len(actions), trim_tail=None)
        return Outline(_decoded(path, pictures[:1])[0], actions)

    def frames(self, episode: int, start: int, stop: int) -> UInt8[np.ndarray, "f h w 3"]:
        """Some frames; of the record, which is read and checked as a whole, no other picture is decoded."""
        path, found = self._record(episode, only=(self.image,))
        pictures = self._pictures(path, found)
        if len(pictures) < stop:
            raise BadFile(path, f"a record has {len(pictures)} pictures, {start}..{stop - 1} are asked for")
        return _decoded(path, pictures[start:stop])

    def _record(self, episode: int, **wanted: Sequence[str]) -> tuple[Path, dict[str, Feature]]:
        """A record's file, and its features: all, `only` some, or all `but` some."""
        place = self.places[episode]
        return place.path, parse_example(place.path, read_record(place.path, place.offset, place.length), **wanted)

    def _pictures(self, path: Path, found: dict[str, Feature]) -> list[bytes]:
        pictures = found.get(self.image, [])
        if not isinstance(pictures, list):
            raise BadFile(path, f"a record has numbers in {self.image}, coded pictures are expected")
        return pictures

    def _actions(self, path: Path, found: dict[str, Feature]) -> Float32[np.ndarray, "f a"]:
        frames = len(found.get("steps/is_first", []))
        if not frames:
            raise BadFile(path, "a record has no steps/is_first, so it is no RLDS episode")
        # In the alphabetical order of the fields, which is that of vid2world13.
        keys = [f"steps/action/{field}" for field in sorted(FIELDS)] if self.fields else ["steps/action"]
        if texts := [key for key in keys if isinstance(found.get(key), list) and found[key]]:
            raise BadFile(path, f"a record has bytes in {texts[0]}, numbers are expected")
        parts = [np.asarray(found.get(key, []), np.float32) for key in keys]
        if any(part.size == 0 or part.size % frames for part in parts):
            raise BadFile(path, f"a record's actions do not fit its {frames} steps")
        rows = np.concatenate([part.reshape(frames, -1) for part in parts], axis=1)
        return checked_actions(path, rows, len(self.columns))


def write_rlds(folder: Path, name: str, split: str, shards: Sequence[Sequence[StoredEpisode]]) -> None:
    """Writes one split of RT-1's fields (13 columns, as in `columns`) with JPEG images, a sequence of episodes a shard.

    `dataset_info.json` lists the split beside those that are there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, episodes in enumerate(shards):
        path = folder / f"{name}-{split}.tfrecord-{number:05d}-of-{len(shards):05d}"
        with atomic_file(path) as partial:
            write_records(partial, [_example(episode) for episode in episodes])
    _write_info(folder, name, split, [len(episodes) for episodes in shards], shards[0][0].video.shape[1:])


def _decoded(path: Path, pictures: Sequence[bytes]) -> UInt8[np.ndarray, "f h w 3"]:
    return of_one_size(path, [from_bytes(path, bytes(data)) for data in pictures])


def _example(episode: StoredEpisode) -> dict[str, Feature]:
    frames, start = len(episode.actions), 0
    found: dict[str, Feature] = {"steps/observation/image": [to_jpeg(picture) for picture in episode.video]}
    for field in sorted(FIELDS):
        part = episode.actions[:, start : start + FIELDS[field]]
        found[f"steps/action/{field}"] = part.astype(np.int64 if field == "terminate_episode" else np.float32)
        start += FIELDS[field]
    marks = {"is_first": 0, "is_last": frames - 1}
    return found | {f"steps/{key}": (np.arange(frames) == place).astype(np.int64) for key, place in marks.items()}


def _write_info(folder: Path, name: str, split: str, lengths: Sequence[int], shape: Sequence[int]) -> None:
    before = json.loads((folder / INFO).read_text()) if (folder / INFO).is_file() else {}
    size = sum(path.stat().st_size for path in folder.glob(f"{name}-{split}.tfrecord-*"))
    info = describe_set(before, name, folder.name, described_split(split, lengths, size))
    for path, content in ((folder / INFO, info), (folder / FEATURES, describe_features(shape))):
        with atomic_file(path) as partial:
            partial.write_text(json.dumps(content, indent=1))


def _shards(folder: Path, split: str) -> list[Path]:
    """The shards of a split. Raises ValueError where there is none, or where a name does not say which it is."""
    found = sorted(folder.glob(f"*-{split}.tfrecord-*"))
    if not found:
        raise ValueError(f"{folder} has no shard of the split {split} (*-{split}.tfrecord-XXXXX-of-YYYYY)")
    if odd := next((path for path in found if not SHARD.fullmatch(path.name)), None):
        raise ValueError(f"{odd} is no name of a shard, NAME-{split}.tfrecord-XXXXX-of-YYYYY is; rename or remove it")
    return found


def _number(shard: Path) -> int:
    return int(shard.name.rsplit("-", 3)[1])


def _name(shard: int, record: int) -> str:
    return f"{shard:05d}-{record:05d}"


def _lost(shard: Path, found: int, declared: int | None, fault: BadFile | None) -> list[BadFile]:
    """One fault for each record that a shard lacks, so that shares are of episodes; unnamed where none is declared."""
    if fault is None and found >= (declared or 0):
        return []
    if declared is None:
        return [] if fault is None else [fault]
    reason = f"holds {found} records, {declared} are declared in {INFO}" if fault is None else fault.reason
    number = _number(shard)
    return [BadFile(shard, reason, _name(number, record)) for record in range(found, max(declared, found + 1))]


def _declared(folder: Path, split: str) -> Mapping[int, int]:
    """How many episodes each shard should hold; nothing where `dataset_info.json` does not say.

    Raises ValueError for numbers that no shard can have.
    """
    try:
        entries = json.loads((folder / INFO).read_text())["splits"]
        (lengths,) = (entry["shardLengths"] for entry in entries if entry["name"] == split)
        declared = {number: int(length) for number, length in enumerate(lengths)}
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return {}
    if absurd := next((length for length in declared.values() if not 0 <= length <= MOST_RECORDS), None):
        raise ValueError(f"{folder / INFO} declares a shard of {absurd} episodes of {split}; restore that file")
    return declared


def _missing_shards(shards: Sequence[Path], declared: Mapping[int, int]) -> list[BadFile]:
    """One for each episode of every shard that is not there; unnamed where it is not declared how many those are."""
    total = int(shards[0].name.rsplit("-", 1)[1])
    base = shards[0].name.rsplit("-", 3)[0]
    bad = []
    for number in sorted(set(range(total)) - {_number(shard) for shard in shards}):
        path, reason = shards[0].with_name(f"{base}-{number:05d}-of-{total:05d}"), f"shard {number} of {total}"
        names = [_name(number, record) for record in range(declared[number])] if number in declared else [None]
        bad += [BadFile(path, f"is not there: {reason} is missing", name) for name in names]
    return bad


def _features(folder: Path) -> dict[str, Any]:
    """What a step holds, nested by name; a leaf is anything but a dict."""
    path = folder / FEATURES
    try:
        content = json.loads(path.read_text())
        steps = _nested(content["featuresDict"]["features"]["steps"]["sequence"]["feature"])
        return dict(steps.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not describe an RLDS set ({error!r})") from error


def _nested(feature: dict[str, Any]) -> Any:
    if "featuresDict" not in feature:
        return "image" if "image" in feature else "leaf"
    return {name: _nested(value) for name, value in feature["featuresDict"]["features"].items()}


def _image_key(steps: dict[str, Any], image: str | None, folder: Path) -> str:
    seen = steps.get("observation")
    cameras = [name for name, kind in seen.items() if kind == "image"] if isinstance(seen, dict) else []
    chosen = image or next((name for name in IMAGES if name in cameras), None)
    if chosen not in cameras:
        raise ValueError(f"{folder} has no camera {chosen or IMAGES}; set data.image to one of {cameras}")
    return f"steps/observation/{chosen}"
