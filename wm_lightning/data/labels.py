"""Labels in place of texts: films that were labelled automatically, asked about once and kept in the cache."""

import hashlib
import json
import logging
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from wm_lightning.clip import Texts
from wm_lightning.data.formats.atomic import atomic_file
from wm_lightning.data.formats.episode import Episode, Reader
from wm_lightning.data.world_tasks import WorldTasksDataModule
from wm_lightning.rewards.labeller import Labeller
from wm_lightning.rewards.reward import Failed

log = logging.getLogger(__name__)
BATCH = 64  # films a labeller is shown at a time, at most
BATCH_BYTES = 2**28  # of their pixels, unless a single film has more


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
        """Frames start..stop-1 of a film. Raises BadFile where its file is damaged by now."""
        place, label = self.labels[episode]
        film = self.films.read(place, start, stop)
        assert film.texts is not None
        return replace(film, texts=Texts(film.texts.ids, (label,), ("",)))


@dataclass(frozen=True)
class Labelling:
    """Who labels the whole films at some `places` of a reader, and the share of them that may fail."""

    films: Reader
    places: Sequence[int]
    labeller: Labeller
    max_failed: float

    def __call__(self) -> dict[int, str]:
        """The label of every film that shows something, by its place; so many films at a time as memory is meant for.

        Raises ValueError where too many failed, or where no film has a label.
        """
        said: list[str | Failed] = []
        size = self._batch
        for start in range(0, len(self.places), size):
            places = self.places[start : start + size]
            some = [self.films.read(place, 0, self.films.length(place)) for place in places]
            ids = [film.texts.ids[0] for film in some if film.texts is not None]
            said += self.labeller(torch.from_numpy(np.stack([film.video for film in some])), ids)
        failed = Counter(one.reason for one in said if isinstance(one, Failed))
        pairs = zip(self.places, said, strict=True)
        labels = {place: one for place, one in pairs if one and isinstance(one, str)}
        log.info("%d of %d films labelled by %s", len(labels), len(said), self.labeller.name)
        if failed.total() > self.max_failed * len(said) or not labels:
            raise ValueError(
                f"{self.labeller.name} labelled {len(labels)} of {len(said)} films and failed on {failed.total()} "
                f"({dict(failed)}), data.max_failed={self.max_failed}; see to it that it answers, or show other films"
            )
        return labels

    @property
    def _batch(self) -> int:
        """Films at a time, by the size of the first one."""
        if not self.places:
            return BATCH
        frame = self.films.read(self.places[0], 0, 1).video.nbytes
        return max(1, min(BATCH, BATCH_BYTES // (frame * self.films.length(self.places[0]))))


@dataclass(frozen=True)
class LabelKey:
    """What labels hang on, as plain values: `told` stands beside the labels, `hidden` in their name alone."""

    told: Mapping[str, Any]
    hidden: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Twelve hexadecimal digits."""
        return hashlib.sha256(json.dumps({**self.told, **self.hidden}).encode()).hexdigest()[:12]

    def kept(self, cache_dir: str, label: Callable[[], Mapping[int, str]]) -> Mapping[int, str]:
        """What was labelled before, or what `label` says now, which is kept. Of several ranks and runs one asks."""
        path = Path(cache_dir) / "labels" / f"{self.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.is_file():
                found = label()
                with atomic_file(path) as partial:
                    partial.write_text(json.dumps({**self.told, "labels": found}, indent=1))
            return {int(place): text for place, text in json.loads(path.read_text())["labels"].items()}


class LabelledDataModule(WorldTasksDataModule):
    """For training films with labels, which a subclass has; for validation and tests the tasks' pictures.

    `labeller` makes who labels of these data. It is asked once, and what it says lies in the cache. A film that shows
    nothing a task could ask for is left out, and so is one whose labelling failed; where more than the share
    `max_failed` did, ValueError is raised and nothing kept.
    """

    pictures_only = False

    def __init__(self, *, labeller: Callable[[Any], Labeller], max_failed: float, **shared: Any) -> None:
        super().__init__(**shared)
        if not 0 <= max_failed < 1:
            raise ValueError(f"data.{max_failed=} is a share of the films, from 0 to below 1")
        self.make_labeller, self.max_failed = labeller, max_failed

    @property
    @abstractmethod
    def films(self) -> Reader:
        """All films, labelled or not."""

    @abstractmethod
    def label_key(self, labeller: str) -> LabelKey:
        """What the labels that the one of this name gives hang on."""

    def labelled(self, labeller: Labeller) -> Mapping[int, str]:
        """The labels that somebody gives now."""
        return Labelling(self.films, range(len(self.films)), labeller, self.max_failed)()

    def open_split(self, folder: Path, split: str) -> Reader:
        if split != "train":
            return WorldTasksDataModule.open_split(self, folder, split)
        return LabelledReader(self.films, self.labels)

    @cached_property
    def labels(self) -> Mapping[int, str]:
        """The label of every film that has one, by its number."""
        labeller = self.make_labeller(self)

        def label() -> Mapping[int, str]:
            found = self.labelled(labeller)
            return {place: self.prompter.shortened(text) for place, text in found.items()}

        return self.label_key(labeller.name).kept(self.cache_dir, label)
