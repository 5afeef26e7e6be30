"""Batches of pictures with instructions and solutions: split by source, the same on every call, and checked first."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from wm_lightning.clip import ActionState, Clip, Condition, Texts
from wm_lightning.config import compose
from wm_lightning.config_check import check
from wm_lightning.data.formats.resize import Resize
from wm_lightning.data.formats.world_tasks import TABLE, read_tasks
from wm_lightning.data.world_tasks import WorldTasksDataModule
from wm_lightning.tasks.doctor import Doctor
from wm_lightning.worlds.grid_judge import judge
from wm_lightning.worlds.grid_look import judge_looks, look_from_json
from wm_lightning.worlds.grid_tasks import from_json

SCENES = "data.world.scenes={train: 12, val: 3, test: 4}"
Make = Callable[..., WorldTasksDataModule]


def words(folder: Path, **changes: Any) -> list[str]:
    given = {"val_clips": 4, "batch_size": 3, "train_batches": 20} | changes
    return ["data=world_tasks", f"cache_dir={folder / 'cache'}", SCENES, *(f"data.{k}={v}" for k, v in given.items())]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated")
    instantiate(compose(words(folder)).data, _convert_="all").prepare_data()
    return folder / "cache"


@pytest.fixture
def make(tmp_path: Path, simulated: Path) -> Make:
    shutil.copytree(simulated, tmp_path / "cache")

    def prepared(**changes: Any) -> WorldTasksDataModule:
        data: WorldTasksDataModule = instantiate(compose(words(tmp_path, **changes)).data, _convert_="all")
        data.prepare_data()
        return data

    return prepared


def rewritten(folder: Path, change: Callable[[dict], None]) -> Path:
    rows = pq.read_table(folder / TABLE).to_pylist()
    for row in rows:
        change(row)
    pq.write_table(pa.Table.from_pylist(rows), folder / TABLE)
    return folder


def test_batches_hold_picture_prompt_and_solution_of_one_task(make: Make) -> None:
    data = make()
    assert data.simulated and data.name == "simulated-grid_tasks"
    clip = next(iter(data.train_dataloader()))
    assert clip.video.shape == (3, 1, 3, 24, 24) and clip.condition.actions.shape == (3, 1, 0)
    assert (clip.condition.state == ActionState.NONE).all() and clip.texts is not None
    for place, (name, prompt, solution) in enumerate(
        zip(clip.texts.ids, clip.texts.instruction, clip.texts.solution, strict=True)
    ):
        row = data.row(name)
        assert (row.prompt, row.solution, row.split) == (prompt, solution, "train") and prompt.startswith("[")
        np.testing.assert_array_equal(clip.video[place, 0].numpy(), np.moveaxis(data.tasks.picture(row), -1, 0))


def test_a_verifier_judges_the_planners_film_of_the_batchs_tasks(make: Make) -> None:
    data = make(**{"world.looks": 0.0})
    (clip,) = data.clips("test", 6, 1, 6)
    assert clip.texts is not None
    rows = [data.row(name) for name in clip.texts.ids]
    tasks = [from_json(row.verifier or {}, row.task, row.solution) for row in rows]
    films = [torch.from_numpy(np.moveaxis(task.film(task.moves, 9, 4), -1, 1)) for task in tasks]
    assert torch.equal(torch.stack([film[0] for film in films]), clip.video[:, 0])
    assert all(bool(met.all()) for met in judge(torch.stack(films), tasks).met().values())


def test_tasks_of_looking_are_written_with_their_verifier(make: Make) -> None:
    data = make(**{"world.looks": 0.5})
    rows = [row for row in data.tasks.rows if row.task_type == "perception"]
    scenes = {split: len({row.source for row in rows if row.split == split}) for split in ("train", "val", "test")}
    assert scenes == {"train": 6, "val": 1, "test": 2}
    tasks = [look_from_json(row.verifier or {}, row.task, row.solution) for row in rows]
    films = [torch.from_numpy(np.moveaxis(task.film(task.moves, 9, 4), -1, 1)) for task in tasks]
    for row, task, film in zip(rows, tasks, films, strict=True):
        assert np.array_equal(np.moveaxis(film[0].numpy(), 0, -1), data.tasks.picture(row))
        assert row.prompt == task.prompt and row.agent_type == "first-person view"
    assert all(bool(met.all()) for met in judge_looks(torch.stack(films), tasks).met().values())


@pytest.mark.parametrize("wrong", [0.0, 0.3, 1.0])
def test_a_known_share_of_the_tasks_is_told_a_spoilt_plan(tmp_path: Path, wrong: float) -> None:
    scenes = "data.world.scenes={train: 60, val: 3, test: 4}"
    chosen = [*words(tmp_path, **{"world.wrong": wrong}), scenes, "data.world.looks=0.0"]
    data: WorldTasksDataModule = instantiate(compose(chosen).data, _convert_="all")
    data.prepare_data()
    tasks = [from_json(row.verifier or {}, row.task, row.solution) for row in data.tasks.rows]
    told = [task.solution != task.telling(task.moves) for task in tasks]
    assert sum(told) / len(told) == pytest.approx(wrong, abs=0.07)


def test_training_and_evaluation_give_the_same_tasks_on_every_call(make: Make) -> None:
    one, other = make(), make()
    for batch, again in zip(one.train_dataloader(), other.train_dataloader(), strict=True):
        assert batch.texts == again.texts and batch.video.equal(again.video)
    first, second = (next(data.clips("val", 4, 1, 4)) for data in (one, other))
    assert first.texts == second.texts and first.texts is not None and len(set(first.texts.ids)) == 4
    seen = {name for batch in one.train_dataloader() if batch.texts for name in batch.texts.ids}
    assert len(seen) > 20 and not seen & set(first.texts.ids)
    assert one.manifest["hash"] == other.manifest["hash"]


def test_parts_that_are_not_stored_are_whole_sources_of_train(make: Make, tmp_path: Path) -> None:
    folder = make().home
    counts = {split: len({row.source for row in make().parts[split]}) for split in ("train", "val", "test")}
    assert counts == {"train": 12, "val": 3, "test": 4}
    rewritten(folder, lambda row: row.update(split="train"))
    data = make(root=folder, subset="mine", val_share=0.2, test_share=0.3)
    sources = {split: {row.source for row in rows} for split, rows in data.parts.items()}
    assert {split: len(found) for split, found in sources.items()} == {"train": 9, "val": 4, "test": 6}
    assert len(set.union(*sources.values())) == 19 and data.name == "mine"
    rewritten(folder, lambda row: row.update(source="one", split="train"))
    with pytest.raises(ValueError, match="1 sources in train, one each is needed for train and val and test"):
        make(root=folder, subset="mine")


def test_a_damaged_picture_costs_its_own_tasks_and_is_named_before_training(make: Make) -> None:
    folder = make().home
    victim = read_tasks(folder).rows[0].image
    lost = sum(row.image == victim for row in read_tasks(folder).rows)
    (folder / victim).write_bytes((folder / victim).read_bytes()[:60])
    with pytest.raises(ValueError, match=rf"{lost} unusable, 0 allowed[\s\S]*{victim}"):
        make(root=folder)
    data = make(root=folder, max_bad_share=0.2)
    assert len(data.quarantined) == lost and all(row.image != victim for row in data.tasks.rows)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"frames": 9}, r"data.frames=9 and data.val_frames=1 must be 1"),
        ({"subset": "other"}, "the simulated subset is grid_tasks"),
        ({"val_share": 0.9, "test_share": 0.2}, "leave some to train on"),
        ({"root": "nowhere"}, "data.root=nowhere is not a folder"),
    ],
)
def test_what_cannot_be_used_is_refused(make: Make, changes: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, InstantiationException), match=said):
        make(**changes)


def test_the_smallest_size_and_the_usual_one_compose() -> None:
    for size in ("debug", "small"):
        check(compose(["data=world_tasks", f"size={size}", "task=doctor"]))


def test_larger_pictures_are_cut_to_the_wanted_aspect(make: Make) -> None:
    data = make(height=16, width=24)
    (clip,) = data.clips("test", 1, 1, 1)
    assert clip.texts is not None
    picture = data.tasks.picture(data.row(clip.texts.ids[0]))
    np.testing.assert_array_equal(clip.video[0].numpy(), Resize("crop", 16, 24)(picture[None].copy()))


def test_texts_follow_their_clips() -> None:
    texts = Texts(("a", "b"), ("[A]: go", "[B]: stay"), ("goes", "stays"))
    with pytest.raises(ValueError, match="must be equal"):
        Texts(("a",), (), ())
    video, empty = torch.zeros(2, 1, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, 1, 0)

    clip = Clip(video, Condition(empty, torch.ones(2, 1, dtype=torch.int64)), torch.arange(2), texts=texts)
    assert clip[1:].texts == Texts(("b",), ("[B]: stay",), ("stays",))
    assert clip.to("cpu").texts == texts == clip.frames(0, 1).texts == Clip.cat([clip[:1], clip[1:]]).texts


def test_the_doctor_says_what_a_set_holds(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = Doctor(decoded=4)(compose(["task=doctor", *words(tmp_path)]))
    said = capsys.readouterr().out
    assert found["unusable"] == 0 and found["tasks"] == len(make().tasks.rows)
    assert "grid_tasks · WorldTasks · simulated · 0 rows unusable" in said
    assert (
        "navigation" in said
        and "perception" in said
        and "first-person view" in said
        and said.rstrip().endswith("experiment=wmsd_full")
    )
    folder = rewritten(make().home, lambda row: row.update(solution=""))
    with pytest.raises(ValueError, match="cannot be used as it is: .* unusable, 0 allowed"):
        Doctor(decoded=4)(compose(["task=doctor", *words(tmp_path, root=folder)]))
