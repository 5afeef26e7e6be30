"""WorldTasks and world maps, as they are damaged: pictures beside one table."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wm_lightning.data.formats.source import load_arrays
from wm_lightning.data.formats.world_map import map_path
from wm_lightning.data.formats.world_tasks import TABLE
from wm_lightning.worlds.faults.stand import Form, Stand, whole


def _task(folder: Path, row: int) -> Stand:
    """The picture of a row; rows share pictures."""
    rows = pq.read_table(folder / TABLE).to_pylist()
    image = rows[row]["image"]
    sharing = tuple(number for number, other in enumerate(rows) if other["image"] == image)
    return whole(folder, folder / image, folder / TABLE, sharing, row)


def _map(folder: Path, walk: int) -> Stand:
    """The map of a walk; walks share maps."""
    table = folder / "train.npz"
    maps = load_arrays(table)["map"]
    sharing = tuple(np.flatnonzero(maps == maps[walk]).tolist())
    return whole(folder, map_path(folder, int(maps[walk])), table, sharing, int(maps[walk]))


def _lose_picture(stand: Stand, source: np.random.Generator) -> None:
    stand.pictures.unlink()


def _task_elsewhere(stand: Stand, source: np.random.Generator) -> None:
    rows = pq.read_table(stand.table).to_pylist()
    # One row of a picture that has several: a single one would just move.
    sources = [row["source"] for row in rows]
    number = next(n for n in [stand.key, *range(len(rows))] if sources.count(sources[n]) > 1)
    rows[number]["split"] = next(row["split"] for row in rows if row["split"] != rows[number]["split"])
    pq.write_table(pa.Table.from_pylist(rows), stand.table)


def _map_elsewhere(stand: Stand, source: np.random.Generator) -> None:
    path = stand.folder / "test.npz"
    arrays = load_arrays(path)
    arrays["map"][0] = stand.key
    np.savez(path, **arrays)  # type: ignore[arg-type]


FORMS = {
    "tasks": Form(_task, special={"picture missing": _lose_picture, "in two splits": _task_elsewhere}),
    "map": Form(_map, special={"in two splits": _map_elsewhere}),
}
