"""The set itself: pictures as they were found, named by their content, beside the table of their tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from wm_lightning.data.formats.atomic import atomic_file
from wm_lightning.data.formats.world_tasks import IMAGES, TABLE, TaskRow
from wm_lightning.data.from_images.looking import Seen, key_of
from wm_lightning.data.from_images.writing import Pair

QUALITY = ("sharpness", "luminance", "contrast", "black", "white", "aesthetic")
SCHEMA = pa.schema(
    [
        *((field.name, pa.string()) for field in fields(TaskRow)),
        ("quality", pa.struct([(name, pa.float64()) for name in QUALITY])),
    ]
)


@dataclass(frozen=True)
class Made:
    """A picture of the set: its split, its scores, and its tasks by their place among the eight."""

    seen: Seen
    split: str
    quality: Mapping[str, float | None]
    pairs: Mapping[int, Pair]

    @property
    def image(self) -> str:
        """Where the picture lies in the set."""
        return f"{IMAGES}/{self.seen.key}{self.seen.picture.path.suffix.lower()}"

    def rows(self) -> list[TaskRow]:
        """Ids hold the pair's place, so that they are the same whatever became of the others."""
        return [
            TaskRow(
                id=f"{self.seen.key}_{place}", image=self.image, source=self.seen.picture.source, split=self.split,
                agent=pair.agent, task=pair.task, solution=pair.solution, task_type=pair.task_type,
                agent_type=pair.agent_type,
            )
            for place, pair in self.pairs.items()
        ]  # fmt: skip


def write_set(folder: Path, made: Sequence[Made]) -> None:
    """Adds the pictures that are not there yet, replaces the table whole, then removes pictures that it does not name.

    Raises ValueError where a picture is no longer what it was when it was looked at.
    """
    (folder / IMAGES).mkdir(exist_ok=True)
    for one in made:
        if not (folder / one.image).is_file():
            _copy(one.seen, folder / one.image)
    rows = [
        asdict(row) | {"quality": {name: one.quality.get(name) for name in QUALITY}}
        for one in made
        for row in one.rows()
    ]
    with atomic_file(folder / TABLE) as partial:
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), partial)
    named = {one.image for one in made}
    for path in (folder / IMAGES).iterdir():
        if f"{IMAGES}/{path.name}" not in named:
            path.unlink()


def _copy(seen: Seen, path: Path) -> None:
    data = seen.picture.path.read_bytes()
    if key_of(data) != seen.key:
        raise ValueError(f"{seen.picture.path} has changed since it was looked at; run the same command again")
    with atomic_file(path) as partial:
        partial.write_bytes(data)
