"""The DataModule of films that were labelled automatically: what an executor is fine-tuned on."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from wm_lightning.clip import Texts
from wm_lightning.data.cache import folder_of
from wm_lightning.data.formats.atomic import atomic_file
from wm_lightning.data.formats.episode import Episode, Reader
from wm_lightning.data.grid_films import GridFilmsDataModule
from wm_lightning.data.world_tasks import WorldTasksDataModule
from wm_lightning.rewards.labeller import Labeller
from wm_lightning.rewards.reward import Failed

log = logging.getLogger(__name__)
BATCH = 64  # films a labeller is shown at a time


class LabelledReader:
    """The films of another reader that have a label, each prompted by it; nothing tells how it was done."""

    def __init__(self, films: Reader, labels: Mapping[int, str]) -> None:
        self.films, self.labels = films, tuple(sorted(labels.items()))
        self.spec, self.action_shift = films.spec, films.action_shift

    def __len__(self) -> int:
        return len(self.labels)

    def length(self, episode: int) -> int:
        """That of the film."""
        return self.films.length(self.labels[episode][0])

    def read(self, episode: int, start: int, stop: int) -> Episode:
        """Frames start..stop-1 of a film."""
        place, label = self.labels[episode]
        film = self.films.read(place, start, stop)
        assert film.texts is not None
        return replace(film, texts=Texts(film.texts.ids, (label,), ("",)))


class LabelledFilmsDataModule(GridFilmsDataModule):
    """Films of the tasks for training, their captions thrown away and labels in their place; else the tasks' pictures.

    `labeller` makes who labels of these data. It is asked once, and what it says lies in the cache. A film that shows
    nothing a task could ask for is left out, and so is one whose labelling failed; where more than the share
    `max_failed` did, ValueError is raised and nothing kept.
    """

    val_films = False

    def __init__(self, *, labeller: Callable[[Any], Labeller], max_failed: float, **shared: Any) -> None:
        super().__init__(**shared)
        if not 0 <= max_failed < 1:
            raise ValueError(f"data.{max_failed=} is a share of the films, from 0 to below 1")
        self.make_labeller, self.max_failed = labeller, max_failed

    def open_split(self, folder: Path, split: str) -> Reader:
        if split != "train":
            return WorldTasksDataModule.open_split(self, folder, split)
        return LabelledReader(super().open_split(folder, split), self.labels)

    @cached_property
    def labels(self) -> Mapping[int, str]:
        """The label of every film that has one, by its number."""
        labeller, films = self.make_labeller(self), super().open_split(self.folder, "train")
        settings = {"law": asdict(self.law), "variants": self.variants, "labeller": labeller.name, "films": len(films)}
        text = json.dumps({**settings, "size": self.frame_shape, "data": folder_of(self.cache_dir, self.recipe()).name})
        path = Path(self.cache_dir) / "labels" / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):  # of several ranks and runs one asks
            if not path.is_file():
                found = self._labelled(films, labeller)
                with atomic_file(path) as partial:
                    partial.write_text(json.dumps({**settings, "labels": found}, indent=1))
            return {int(place): label for place, label in json.loads(path.read_text())["labels"].items()}

    def _labelled(self, films: Reader, labeller: Labeller) -> Mapping[int, str]:
        said: list[str | Failed] = []
        for start in range(0, len(films), BATCH):
            some = [films.read(place, 0, self.frames) for place in range(start, min(start + BATCH, len(films)))]
            ids = [film.texts.ids[0] for film in some if film.texts is not None]
            said += labeller(torch.from_numpy(np.stack([film.video for film in some])), ids)
        failed = Counter(one.reason for one in said if isinstance(one, Failed))
        labels = {place: self.prompter.shortened(one) for place, one in enumerate(said) if one and isinstance(one, str)}
        log.info("%d of %d films labelled by %s", len(labels), len(films), labeller.name)
        if failed.total() > self.max_failed * len(films) or not labels:
            raise ValueError(
                f"{labeller.name} labelled {len(labels)} of {len(films)} films and failed on {failed.total()} "
                f"({dict(failed)}), data.max_failed={self.max_failed}; see to it that it answers, or show other films"
            )
        return labels
