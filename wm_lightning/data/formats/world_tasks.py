"""WorldTasks: pictures, and tasks with solutions about them (2606.12072), as `images/` beside `tasks.parquet`.

A row is one task of one picture: `id, image, source, agent, task, solution, task_type, agent_type, split, verifier`.
`task` is the instruction without its `[Agent]:`; `verifier` is JSON for a program that can check the outcome, or
null. Splits go by `source`, never by prompt, so that no picture is both trained on and judged.
"""

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float16, UInt8
from PIL import Image
from rich.progress import track

from wm_lightning.clip import ActionSpec, ActionState, Texts
from wm_lightning.data.formats.atomic import atomic_folder
from wm_lightning.data.formats.episode import Episode
from wm_lightning.data.formats.picture_files import from_bytes
from wm_lightning.data.formats.resize import Resize
from wm_lightning.data.formats.tables import DAMAGED
from wm_lightning.data.formats.video_files import BadFile

TABLE, IMAGES = "tasks.parquet", "images"
Latents = Callable[[UInt8[np.ndarray, "f 3 h w"]], Float16[np.ndarray, "f channels rows columns"]]


@dataclass(frozen=True)
class TaskRow:
    """One task. `image` is relative to the set's folder; `source` names the clip or scene the picture is from."""

    id: str
    image: str
    source: str
    agent: str
    task: str
    solution: str
    task_type: str
    agent_type: str
    split: str
    verifier: Mapping[str, Any] | None = None

    @property
    def prompt(self) -> str:
        """`[Agent]: instruction`."""
        return f"[{self.agent}]: {self.task}"


COLUMNS = tuple(field.name for field in fields(TaskRow))


@dataclass(frozen=True)
class TaskSet:
    """The rows that can be used, and what was left out; `sources` are those of all rows, by split."""

    folder: Path
    rows: tuple[TaskRow, ...]
    bad: tuple[BadFile, ...]
    sources: Mapping[str, frozenset[str]]

    def split(self, name: str) -> tuple[TaskRow, ...]:
        """The rows of one split. Raises ValueError where there is none."""
        found = tuple(row for row in self.rows if row.split == name)
        if not found:
            there = sorted({row.split for row in self.rows})
            raise ValueError(f"{self.folder / TABLE} has no task of split {name}, only of {there}")
        return found

    def picture(self, row: TaskRow) -> UInt8[np.ndarray, "h w 3"]:
        """The first frame. Raises BadFile where it cannot be decoded."""
        path = self.folder / row.image
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BadFile(path, f"cannot be read ({error})") from error
        return from_bytes(path, data)


def read_tasks(folder: Path) -> TaskSet:
    """The tasks of a folder; rows without picture, text or a split of their own source are left out and listed.

    Raises ValueError where the table is missing, lacks columns, or puts one source into two splits.
    """
    path = folder / TABLE
    if not path.is_file():
        raise ValueError(f"{path} is not there; a WorldTasks folder holds {TABLE} beside {IMAGES}/")
    listed = _listed(path)
    rows: list[TaskRow] = []
    bad: list[BadFile] = []
    seen: set[str] = set()
    owned = [(str(values["split"]), str(values["source"])) for values in listed if values["split"] and values["source"]]
    sources = {split: frozenset(source for own, source in owned if own == split) for split, _ in owned}
    for number, values in enumerate(listed):
        fault = _fault(folder, values, seen)
        if fault is None:
            verifier = json.loads(values["verifier"]) if values.get("verifier") else None
            seen.add(str(values["id"]))
            rows.append(TaskRow(**{name: str(values[name]) for name in COLUMNS[:-1]}, verifier=verifier))
        else:
            bad.append(BadFile(path, f"row {number} ({values.get('id')}) {fault}"))
    _require_apart(path, rows)
    return TaskSet(folder, tuple(rows), tuple(bad), sources)


def sound(tasks: TaskSet, workers: int) -> TaskSet:
    """The same set without the rows whose picture cannot be decoded, which are listed; on `workers` threads."""
    first = {row.image: row for row in tasks.rows}

    def fault(row: TaskRow) -> BadFile | None:
        try:
            tasks.picture(row)
        except BadFile as error:
            return error
        return None

    with ThreadPoolExecutor(workers) as pool:
        found = list(track(pool.map(fault, first.values()), "looking at pictures", len(first), transient=True))
    damaged = {image: error for image, error in zip(first, found, strict=True) if error is not None}
    kept = tuple(row for row in tasks.rows if row.image not in damaged)
    lost = [damaged[row.image] for row in tasks.rows if row.image in damaged]
    return replace(tasks, rows=kept, bad=(*tasks.bad, *lost))


class TaskReader:
    """Some tasks of a set as episodes of one frame, their picture, without actions and with their texts.

    `latents` gives those of a picture, where networks see latents.
    """

    spec = ActionSpec((), (), ())
    action_shift = 0

    def __init__(self, tasks: TaskSet, rows: Sequence[TaskRow], resize: Resize, latents: Latents | None = None) -> None:
        self.tasks, self.rows, self.resize, self.latents = tasks, tuple(rows), resize, latents

    def __len__(self) -> int:
        return len(self.rows)

    def length(self, episode: int) -> int:
        """One: the picture."""
        return 1

    def read(self, episode: int, start: int, stop: int) -> Episode:
        """The picture of a task. Raises ValueError where more is asked for, BadFile where it is damaged by now."""
        row = self.rows[episode]
        if (start, stop) != (0, 1):
            raise ValueError(f"{row.id}: frames {start}..{stop - 1} asked for, a task has one picture")
        nothing = np.zeros((1, 0), np.float32), np.full(1, ActionState.NONE, np.int64)
        texts = Texts((row.id,), (row.prompt,), (row.solution,))
        video = self.resize(self.tasks.picture(row)[None].copy())
        return Episode(video, *nothing, texts=texts, latents=None if self.latents is None else self.latents(video))


def write_tasks(folder: Path, pictures: Iterable[tuple[UInt8[np.ndarray, "h w 3"], Sequence[TaskRow]]]) -> None:
    """Writes a set, whole or not at all. Every picture is stored once, as PNG named by its content.

    `image` and `id` of the rows are filled in here.
    """
    with atomic_folder(folder) as partial:
        (partial / IMAGES).mkdir()
        rows: list[dict[str, Any]] = []
        for picture, tasks in pictures:
            file = io.BytesIO()
            Image.fromarray(picture).save(file, "PNG")
            name = hashlib.sha256(file.getvalue()).hexdigest()[:16]
            (partial / IMAGES / f"{name}.png").write_bytes(file.getvalue())
            for number, task in enumerate(tasks):
                own = {"id": f"{name}_{number}", "image": f"{IMAGES}/{name}.png"}
                verifier = None if task.verifier is None else json.dumps(task.verifier, sort_keys=True)
                rows.append(asdict(task) | own | {"verifier": verifier})
        pq.write_table(pa.Table.from_pylist(rows), partial / TABLE)


def _listed(path: Path) -> list[dict[str, Any]]:
    """All rows of a table. Raises ValueError where it is damaged or lacks a column."""
    try:
        table = pq.read_table(path)
        listed = table.to_pylist()
    except DAMAGED as error:
        raise ValueError(f"{path} is no parquet table ({error})") from error
    missing = sorted(set(COLUMNS) - {"verifier"} - set(table.column_names))
    if missing:
        raise ValueError(f"{path} has no columns {', '.join(missing)}; expected {', '.join(COLUMNS)}")
    return listed


def _fault(folder: Path, values: Mapping[str, Any], before: set[str]) -> str | None:
    """What is wrong with a row, in words; None where nothing is."""
    empty = [name for name in COLUMNS[:-1] if not str(values.get(name) or "").strip()]
    if empty:
        return f"has no {', '.join(empty)}"
    if str(values["id"]) in before:
        return "has the id of another row"
    if not os.path.isfile(folder / str(values["image"])):  # which takes a name that no file can have for none
        return f"names {values['image']}, which is not there"
    try:
        verifier = json.loads(values.get("verifier") or "null")
    except (ValueError, TypeError, RecursionError):
        return "has a verifier that is no JSON"
    return None if isinstance(verifier, dict | NoneType) else "has a verifier that is no JSON object"


def _require_apart(path: Path, rows: Sequence[TaskRow]) -> None:
    for what in ("source", "image"):
        owner: dict[str, str] = {}
        for row in rows:
            there = owner.setdefault(getattr(row, what), row.split)
            if there != row.split:
                raise ValueError(
                    f"{path}: {what} {getattr(row, what)} is in {there} and in {row.split}; splits must share none"
                )
