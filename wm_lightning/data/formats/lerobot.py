"""LeRobot data sets: v3.0 (many episodes a file) and v2.x (a parquet and an mp4 per episode), H.264 or AV1.

Frame k of an episode is the picture at `from_timestamp` + k / fps. The rate is that of `meta/info.json`: containers
are not asked.
"""

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float32, UInt8

from wm_lightning.data.formats.lerobot_declared import (
    INFO,
    Place,
    camera_of,
    read_info,
    read_places,
    span_of,
    unlisted,
)
from wm_lightning.data.formats.robot_actions import columns
from wm_lightning.data.formats.source import Outline, Stamp, StoredEpisode, checked_actions, names_faults, stamp
from wm_lightning.data.formats.tables import DAMAGED, read_parquet
from wm_lightning.data.formats.video_files import BadFile, decode_span

__all__ = ["INFO", "ORDER", "LeRobotSource", "splits"]
ORDER = "lerobot7"


@names_faults
class LeRobotSource:
    """The episodes of one split; `image` names the camera's feature, null takes the first."""

    columns = columns(ORDER)

    def __init__(self, folder: Path, split: str, *, image: str | None = None) -> None:
        self.folder = folder
        self.info = read_info(folder)
        self.camera = camera_of(self.info, image, folder)
        span = span_of(self.info, split, folder)
        places = read_places(folder, self.info, self.camera)
        self.bad: list[BadFile] = unlisted(folder, self.info, split, places)
        self.places: list[Place] = []
        for place in (places[index] for index in sorted(places) if index in span):
            # Which takes a name that no file can have for one that is not there.
            absent = next((path for path in (place.table, place.video) if not os.path.isfile(path)), None)
            if absent is None:
                self.places.append(place)
            else:
                self.bad.append(BadFile(absent, f"is not there, so episode {place.index} is lost", place.name))
        self.names: Sequence[str] = tuple(place.name for place in self.places)

    def stamps(self) -> Sequence[Stamp]:
        """Name, size and time of every table and video, and of what describes them."""
        paths = {path for place in self.places for path in (place.table, place.video)}
        about = [*self.folder.glob("meta/*.json*"), *self.folder.glob("meta/episodes/**/*.parquet")]
        return [stamp(path) for path in sorted({*paths, *about})]

    def actions(self, episode: int) -> Float32[np.ndarray, "f a"]:
        """The stored actions."""
        place = self.places[episode]
        table = _table(place.table, stamp(place.table))
        try:
            rows = table.filter(pc.field("episode_index") == place.index).sort_by("frame_index")
            values = np.array(rows["action"].to_pylist(), np.float32)
        except DAMAGED as error:
            raise BadFile(place.table, f"episode {place.index} has no numbers of one length ({error})") from error
        if len(values) != place.length:
            raise BadFile(place.table, f"episode {place.index} has {len(values)} rows, {place.length} are declared")
        return checked_actions(place.table, values, len(self.columns))

    def read(self, episode: int) -> StoredEpisode:
        """The whole episode."""
        actions = self.actions(episode)
        return StoredEpisode(self.frames(episode, 0, len(actions)), actions, decoder="pyav")

    def outline(self, episode: int) -> Outline:
        """Actions and the first frame."""
        return Outline(self.frames(episode, 0, 1)[0], self.actions(episode), decoder="pyav")

    def frames(self, episode: int, start: int, stop: int) -> UInt8[np.ndarray, "f h w 3"]:
        """Some frames, decoded from the key frame before them."""
        place = self.places[episode]
        return decode_span(place.video, place.start, range(start, stop), float(self.info["fps"]))


def splits(folder: Path) -> tuple[str, ...]:
    """The splits that `meta/info.json` declares."""
    return tuple(read_info(folder).get("splits", {}))


@lru_cache(maxsize=2)  # consecutive episodes of v3.0 share a file; the stamp is there to see that it changed
def _table(path: Path, found: Stamp) -> pa.Table:
    return read_parquet(path, ["episode_index", "frame_index", "action"])
