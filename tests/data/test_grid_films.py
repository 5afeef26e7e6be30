"""Captioned films: most show what their caption tells, and a film is the same however often it is read."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.modules.making_wmsd import tasks
from wm_lightning.data.grid_films import FilmReader
from wm_lightning.worlds.grid_films import Film, FilmLaw, filmed
from wm_lightning.worlds.grid_judge import judge
from wm_lightning.worlds.grid_planner import DIRECTIONS
from wm_lightning.worlds.grid_reward import task_of
from wm_lightning.worlds.grid_tasks import GridTasks, Task


def reader(cache: Path, law: FilmLaw) -> FilmReader:
    data = tasks(cache)
    data.prepare_data()
    return FilmReader(data.parts["train"], law, frames=5, variants=3, cell=2, resize=data.resize)


def test_a_film_is_drawn_from_its_task_and_number_alone(tmp_path: Path) -> None:
    law = FilmLaw(told=0.5, spoilt=0.5, obeyed=0.5, idle=0.5)
    one, other = reader(tmp_path, law), reader(tmp_path, law)
    films = [one.read(episode, 0, 5) for episode in range(len(one))]
    assert all(np.array_equal(film.video, other.read(n, 0, 5).video) for n, film in enumerate(films))
    assert len({film.video.tobytes() for film in films[:30]}) > 10
    assert np.array_equal(one.read(4, 2, 4).video, films[4].video[2:4])


def test_captions_that_tell_how_are_true_and_others_tell_nothing_of_it() -> None:
    world, source = GridTasks(seed=1, frames=9, most_walls=4, tasks_per_scene=2, slack=0), np.random.default_rng(0)
    every = [task for number in range(12) for task in world.scene("train", number)]
    assert all(isinstance(task, Task) for task in every)

    def films(**shares: float) -> tuple[float, list[Film]]:
        law = FilmLaw(**{"told": 0.0, "spoilt": 0.0, "obeyed": 0.0, "idle": 0.0} | shares)
        made = [filmed(task, law, 9, 4, source) for task in every]
        video = torch.from_numpy(np.stack([film.video for film in made])).movedim(-1, 2)
        return float((judge(video, every).task > 0).float().mean()), made

    done, made = films(told=1.0)
    assert done == 1.0 and [film.caption for film in made] == [task.solution for task in every]
    done, made = films(told=1.0, spoilt=1.0)
    assert done < 0.5
    for task, film in zip(every, made, strict=True):
        shown = [moves for moves in plans(task) if np.array_equal(task.film(moves, 9, 4), film.video)]
        assert film.caption in map(task.telling, shown), "a caption tells what its film shows"
    for shares, least, most in (({"obeyed": 1.0}, 1.0, 1.0), ({"idle": 1.0}, 0.0, 0.2), ({}, 0.0, 0.6)):
        done, made = films(**shares)
        assert least <= done <= most and [film.caption for film in made] == [task.prompt for task in every]


def plans(task: Task) -> Iterator[tuple[str, ...]]:
    """All spoilt plans of a task."""
    for place in range(len(task.moves)):
        yield task.moves[:place]
        yield from ((*task.moves[:place], move, *task.moves[place + 1 :]) for move in DIRECTIONS)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shares from 0 to 1"):
        FilmLaw(told=1.5, spoilt=0.0, obeyed=0.0, idle=0.0)
    data = tasks(tmp_path)
    data.prepare_data()
    row = data.parts["train"][0]
    assert task_of(row) is not None
    law, rows = FilmLaw(0.5, 0.5, 0.5, 0.5), [replace(row, verifier=None)]
    films = FilmReader(rows, law, frames=5, variants=1, cell=2, resize=data.resize)
    with pytest.raises(ValueError, match="only simulated tasks can be filmed"):
        films.read(0, 0, 5)
