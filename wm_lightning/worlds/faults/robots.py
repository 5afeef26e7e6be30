"""Robot clips and anybody's own, as they are damaged: mp4 beside tables, npz, RLDS, LeRobot."""

import csv
import json
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wm_lightning.data.formats import lerobot, tfrecord
from wm_lightning.data.formats.rlds import RLDSSource, version_folder
from wm_lightning.data.formats.source import load_arrays
from wm_lightning.worlds.faults.stand import Change, Form, Stand, whole

# -- mp4 beside a table ------------------------------------------------------------------------------------------------


def _beside(suffixes: tuple[str, ...]) -> Callable[[Path, int], Stand]:
    def stand(folder: Path, episode: int) -> Stand:
        video = sorted((folder / "train").glob("*.mp4"))[episode]
        table = next(video.with_suffix(suffix) for suffix in suffixes if video.with_suffix(suffix).is_file())
        return whole(folder, video, table, (episode,))

    return stand


def _rewrite_npz(key: str) -> Callable[[Stand, Change], None]:
    def rewrite(stand: Stand, change: Change) -> None:
        arrays = load_arrays(stand.table)
        dtype = arrays[key].dtype
        np.savez(stand.table, **{**arrays, key: change(arrays[key]).astype(dtype)})  # type: ignore[arg-type]

    return rewrite


def _rewrite_csv(stand: Stand, change: Change) -> None:
    if stand.table.suffix == ".npz":
        return _rewrite_npz("actions")(stand, change)
    with stand.table.open(newline="") as file:
        head, *rows = csv.reader(file)
    found = change(np.array(rows, np.float64))
    stand.table.write_text("\n".join([",".join(head), *(",".join(map(repr, row)) for row in found.tolist())]) + "\n")


def _slow(stand: Stand, source: np.random.Generator) -> None:
    _other_rate(stand, Fraction(7))


def _fast(stand: Stand, source: np.random.Generator) -> None:
    _other_rate(stand, Fraction(1, int(source.integers(2, 5))))


def _other_rate(stand: Stand, factor: Fraction) -> None:
    """The same coded pictures, with times `factor` times as far apart."""
    copy = stand.pictures.with_suffix(".other.mp4")
    with av.open(str(stand.pictures)) as old, av.open(str(copy), "w", format="mp4") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.dts is not None and packet.pts is not None:
                packet.pts, packet.dts = round(packet.pts * factor), round(packet.dts * factor)
                packet.duration = round((packet.duration or 1) * factor)
                packet.stream = stream
                new.mux(packet)
    copy.replace(stand.pictures)


# -- one npz an episode ------------------------------------------------------------------------------------------------


def _npz(folder: Path, episode: int) -> Stand:
    path = sorted(folder.glob("*.npz"))[episode]
    return whole(folder, path, path, (episode,))


def _swap_npz(stand: Stand, source: np.random.Generator) -> None:
    arrays = load_arrays(stand.pictures)
    np.savez(stand.pictures, **{**arrays, "image": arrays["image"][..., ::-1]})  # type: ignore[arg-type]


# -- RLDS --------------------------------------------------------------------------------------------------------------


def _record(folder: Path, episode: int) -> Stand:
    home = version_folder(folder)
    assert home is not None
    places = RLDSSource(home, "train").places
    here = places[episode]
    sharing = tuple(number for number, place in enumerate(places) if place.path == here.path)
    stretch = (here.offset, here.length)
    return Stand(folder, here.path, here.path, sharing, *stretch, stretch, sharing.index(episode))


def _rewrite_record(stand: Stand, change: Callable[[dict[str, tfrecord.Feature]], None]) -> None:
    path = stand.table
    found = [
        tfrecord.parse_example(path, tfrecord.read_record(path, int(offset), int(length)))
        for offset, length in tfrecord.index_records(path).places
    ]
    change(found[stand.key])
    tfrecord.write_records(path, found)  # type: ignore[arg-type]


def _rewrite_rlds(stand: Stand, change: Change) -> None:
    def alter(record: dict[str, tfrecord.Feature]) -> None:
        key = "steps/action/world_vector"
        rows = np.asarray(record[key], np.float64).reshape(-1, 3)
        record[key] = change(rows).astype(np.float32)

    _rewrite_record(stand, alter)


def _no_picture_rlds(stand: Stand, source: np.random.Generator) -> None:
    _rewrite_record(stand, lambda record: record["steps/observation/image"].pop())  # type: ignore[union-attr]


# -- LeRobot -----------------------------------------------------------------------------------------------------------


def _lerobot(folder: Path, episode: int) -> Stand:
    places = lerobot.LeRobotSource(folder, "train").places
    here = places[episode]
    sharing = tuple(number for number, place in enumerate(places) if place.video == here.video)
    return whole(folder, here.video, here.table, sharing, here.index)


def _rewrite_lerobot(stand: Stand, change: Change) -> None:
    rows = pq.read_table(stand.table).to_pylist()
    own = [row for row in rows if row["episode_index"] == stand.key]
    found = change(np.array([row["action"] for row in own]))
    length = max(len(own), len(found))
    new = [dict(own[min(k, len(own) - 1)], frame_index=k) for k in range(length)][: len(found)]
    for row, action in zip(new, found.tolist(), strict=True):
        row["action"] = action
    first = rows.index(own[0])
    pq.write_table(pa.Table.from_pylist([*rows[:first], *new, *rows[first + len(own) :]]), stand.table)


# -- The same episode in two splits ------------------------------------------------------------------------------------


def _copied_beside(stand: Stand, source: np.random.Generator) -> None:
    for path in (stand.pictures, stand.table):
        shutil.copy(path, stand.folder / f"test/again{path.suffix}")


def _copied_record(stand: Stand, source: np.random.Generator) -> None:
    own = tfrecord.parse_example(stand.table, tfrecord.read_record(stand.table, stand.start, stand.size))
    path = next(stand.table.parent.glob("*-test.tfrecord-*"))
    places = tfrecord.index_records(path).places.tolist()
    records = [tfrecord.parse_example(path, tfrecord.read_record(path, *place)) for place in places]
    tfrecord.write_records(path, [*records, own])


def _overlapping_spans(stand: Stand, source: np.random.Generator) -> None:
    path = stand.folder / lerobot.INFO
    info = json.loads(path.read_text())
    first, last = map(int, info["splits"]["test"].split(":"))
    info["splits"]["test"] = f"{first - 1}:{last}"
    path.write_text(json.dumps(info))


_RATES = {"slow": _slow, "fast": _fast}
_TIMED = {**_RATES, "in two splits": _overlapping_spans}
FORMS = {
    "mp4": Form(_beside((".npz",)), _rewrite_npz("arr_0"), {**_RATES, "in two splits": _copied_beside}),
    "own": Form(_beside((".csv", ".npz")), _rewrite_csv, {**_RATES, "in two splits": _copied_beside}),
    "npz": Form(_npz, _rewrite_npz("action"), {"swapped": _swap_npz}),
    "rlds": Form(_record, _rewrite_rlds, {"picture missing": _no_picture_rlds, "in two splits": _copied_record}),
    "lerobot2": Form(_lerobot, _rewrite_lerobot, _TIMED),
    "lerobot3": Form(_lerobot, _rewrite_lerobot, _TIMED),
}
