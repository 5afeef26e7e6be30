"""The DataModule of captioned films of the grid's tasks: what an image-to-video model is pretrained on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wm_lightning.clip import ActionState, Texts
from wm_lightning.data.formats.episode import Episode, Reader
from wm_lightning.data.formats.resize import Resize
from wm_lightning.data.formats.world_tasks import TaskReader, TaskRow
from wm_lightning.data.world_tasks import WorldTasksDataModule
from wm_lightning.randomness import generator
from wm_lightning.worlds.grid_films import FilmLaw, filmed
from wm_lightning.worlds.grid_reward import task_of


class FilmReader:
    """`variants` films of every task, each an episode of `frames` frames whose caption is its text's instruction.

    A film is drawn from (its task, its number) when it is read: nothing is stored, and every reader sees the same.
    """

    spec = TaskReader.spec
    action_shift = 0

    def __init__(
        self, rows: Sequence[TaskRow], law: FilmLaw, *, frames: int, variants: int, cell: int, resize: Resize
    ) -> None:
        self.rows, self.law, self.frames, self.variants = tuple(rows), law, frames, variants
        self.cell, self.resize = cell, resize

    def __len__(self) -> int:
        return len(self.rows) * self.variants

    def length(self, episode: int) -> int:
        """That of every film."""
        return self.frames

    def read(self, episode: int, start: int, stop: int) -> Episode:
        """Frames start..stop-1 of a film. Raises ValueError for a task that no program of the grid can verify."""
        row = self.rows[episode // self.variants]
        if (task := task_of(row)) is None:
            raise ValueError(f"task {row.id} has no verifier of the grid: only simulated tasks can be filmed")
        source = generator(episode % self.variants, f"film {row.id}")
        film = filmed(task, self.law, self.frames, self.cell, source)
        frames = stop - start
        nothing = np.zeros((frames, 0), np.float32), np.full(frames, ActionState.NONE, np.int64)
        return Episode(self.resize(film.video[start:stop]), *nothing, texts=Texts((row.id,), (film.caption,), ("",)))


class GridFilmsDataModule(WorldTasksDataModule):
    """Films of the simulated tasks by the `law`, `variants` of each; clips are whole films with captions."""

    pictures_only = False
    val_films = True

    def __init__(self, *, law: FilmLaw, variants: int, **shared: Any) -> None:
        super().__init__(**shared)
        if self.root is not None:
            raise ValueError(f"data.root={self.root}: films are made of simulated tasks alone; set data.root=null")
        film = self.simulator.tasks.frames
        if (self.frames, self.val_frames) != (film, film if self.val_films else 1):
            raise ValueError(
                f"data.frames={self.frames} and data.val_frames={self.val_frames} must be those of a film, "
                f"data.world.frames={film}{'' if self.val_films else ', and 1: validation is on pictures of tasks'}"
            )
        self.law, self.variants = law, variants

    def open_split(self, folder: Path, split: str) -> Reader:
        return FilmReader(
            self.parts[split], self.law, frames=self.simulator.tasks.frames, variants=self.variants,
            cell=self.simulator.cell, resize=self.resize,
        )  # fmt: skip
