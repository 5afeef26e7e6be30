"""WorldTasks' tables: written from the grid's tasks, read back, faults named."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wm_lightning.data.formats.world_tasks import TABLE, TaskRow, read_tasks, write_tasks
from wm_lightning.worlds.grid_tasks import GridTasks, from_json, to_json

WORLD = GridTasks(seed=1, frames=9, most_walls=4, tasks_per_scene=4, slack=0)


def row_of(task, split: str, number: int) -> TaskRow:
    own = dict(id="", image="", source=f"{split}-{number}", split=split, agent=task.agent, agent_type="object")
    return TaskRow(
        **own, task=task.instruction, solution=task.solution, task_type=task.category, verifier=to_json(task)
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    scenes = [(split, number, WORLD.scene(split, number)) for split in ("train", "test") for number in range(4)]
    write_tasks(
        tmp_path / "set",
        ((tasks[0].picture(4), [row_of(task, split, number) for task in tasks]) for split, number, tasks in scenes),
    )
    return tmp_path / "set"


def changed(folder: Path, **values: object) -> None:
    """Sets columns of the second row."""
    rows = pq.read_table(folder / TABLE).to_pylist()
    rows[1] |= values
    pq.write_table(pa.Table.from_pylist(rows), folder / TABLE)


def test_tasks_come_back_with_picture_and_verifier(folder: Path) -> None:
    found = read_tasks(folder)
    assert not found.bad and len({row.image for row in found.rows}) == 8
    expected = [task for number in range(4) for task in WORLD.scene("test", number)]
    for row, task in zip(found.split("test"), expected, strict=True):
        assert row.prompt == task.prompt and row.solution == task.solution and row.task_type == task.category
        assert row.verifier is not None
        assert from_json(row.verifier, row.task, row.solution) == task
        np.testing.assert_array_equal(found.picture(row), task.picture(4))
    with pytest.raises(ValueError, match=r"no task of split val, only of \['test', 'train'\]"):
        found.split("val")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"solution": "  "}, "has no solution"),
        ({"task": None}, "has no task"),
        ({"image": "images/none.png"}, "images/none.png, which is not there"),
        ({"image": "images/" + 300 * "a"}, "which is not there"),
        ({"verifier": "{"}, "verifier that is no JSON"),
        ({"verifier": "[1]"}, "verifier that is no JSON object"),
    ],
)
def test_a_bad_row_is_left_out_and_named(folder: Path, values: dict[str, object], said: str) -> None:
    before = read_tasks(folder)
    changed(folder, **values)
    found = read_tasks(folder)
    assert len(found.rows) == len(before.rows) - 1 and len(found.bad) == 1
    assert said in str(found.bad[0]) and "row 1" in str(found.bad[0])


def test_an_id_that_occurs_twice_is_left_out(folder: Path) -> None:
    changed(folder, id=read_tasks(folder).rows[0].id)
    assert "the id of another row" in str(read_tasks(folder).bad[0])


def test_a_source_in_two_splits_is_refused(folder: Path) -> None:
    changed(folder, split="test")
    with pytest.raises(ValueError, match=r"source train-0 is in train and in test"):
        read_tasks(folder)


def test_a_missing_or_wrong_table_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tasks.parquet beside images/"):
        read_tasks(tmp_path)
    pq.write_table(pa.table({"id": ["a"]}), folder / TABLE)
    with pytest.raises(ValueError, match=r"has no columns agent"):
        read_tasks(folder)
    (folder / TABLE).write_bytes(b"hello")
    with pytest.raises(ValueError, match="is no parquet table"):
        read_tasks(folder)


def test_a_picture_that_is_damaged_is_named(folder: Path) -> None:
    found = read_tasks(folder)
    (folder / found.rows[0].image).write_bytes(b"hello")
    with pytest.raises(ValueError, match="cannot be decoded"):
        found.picture(found.rows[0])
