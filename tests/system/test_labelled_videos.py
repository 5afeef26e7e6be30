"""An executor fine-tuned on a folder of videos that a model behind an endpoint labels: one command, table included."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.data.making_films import write_film
from tests.judge_server import LABEL, MODEL, judge_server
from tests.system.conftest import Run
from tests.system.test_executors import rows, trained
from wm_lightning.worlds.grid_films import FilmLaw, filmed
from wm_lightning.worlds.grid_tasks import Task
from wm_lightning.worlds.grid_world import GridWorld

FRAMES, CELL, VIDEOS = 5, 4, 12  # of a clip, pixels, and how many
LAW = FilmLaw(told=0.0, spoilt=0.0, obeyed=1.0, idle=0.0)


def grid() -> GridWorld:
    """Tasks like those of the simulated set, of another seed."""
    return GridWorld(
        seed=7, frames=FRAMES, most_walls=4, tasks_per_scene=2, slack=1, scenes=dict(train=8, val=4, test=8), cell=CELL,
        looks=0.0, wrong=0.0,
    )  # fmt: skip


def filmed_tasks(folder: Path, world: GridWorld) -> list[Task]:
    """Videos of other scenes than any task is of: each two films of one task, one after the other."""
    tasks = [task for scene in range(100, 100 + VIDEOS) for task in world.tasks.scene("train", scene)[:1]]
    for number, task in enumerate(tasks):
        film = filmed(task, LAW, FRAMES, CELL, np.random.default_rng(number)).video
        large = np.concatenate([film, film]).repeat(2, 1).repeat(2, 2)
        write_film(folder / f"{number // 6}/{number}.mp4", large)
    return tasks


@pytest.mark.slow
def test_videos_of_a_folder_are_labelled_once_and_learned_from(run: Run, tmp_path: Path) -> None:
    world, folder, cache = grid(), tmp_path / "films", tmp_path / "cache"
    world.write(tmp_path / "tasks", lambda steps: None)
    with judge_server(filmed_tasks(folder, world), CELL) as server:
        words = (
            "experiment=wmsd_sft", "data=labelled_videos", f"data.films={folder}", f"data.root={tmp_path / 'tasks'}",
            f"data.labeller.endpoint.url={server.url}", f"data.labeller.endpoint.model={MODEL}",
            "data.labeller.endpoint.encoding=png", f"cache_dir={cache}", "metrics.writer=null",
        )  # fmt: skip
        found = trained(run, tmp_path / "run", *words)
        asked = [body["messages"][0]["content"] for body in server.requests]
        again = run(*words, "size=debug", f"run_dir={tmp_path / 'run'}", "ckpt_path=last").must_succeed()
    assert list(found) == ["base", "demonstrator", "executor"]
    assert all(row["n"] == row["valid"] == 8 for row in found.values())
    assert len(asked) == 2 * VIDEOS == len(server.requests), "asked again, or not of every clip"
    assert all(len(content) == FRAMES + 1 and content[-1]["text"] == LABEL for content in asked)
    [kept] = [json.loads(path.read_text()) for path in (cache / "labels").glob("*.json")]
    assert len(kept["labels"]) > VIDEOS and all(text.startswith("[") for text in kept["labels"].values())
    assert f"Continuing {tmp_path / 'run'}/checkpoints/last.ckpt" in again.out
    assert list(rows(tmp_path / "run")) == list(found)
