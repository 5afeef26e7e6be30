"""The DataModule of simulated films that were labelled automatically: what an executor is fine-tuned on."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from wm_lightning.data.cache import folder_of
from wm_lightning.data.formats.episode import Reader
from wm_lightning.data.grid_films import GridFilmsDataModule
from wm_lightning.data.labels import LabelKey, LabelledDataModule


class LabelledFilmsDataModule(LabelledDataModule, GridFilmsDataModule):
    """Films of the tasks for training, their captions thrown away and labels in their place; else the tasks' pictures.

    Who labels them, and what becomes of films without a label: see `LabelledDataModule`.
    """

    val_films = False

    @property
    def films(self) -> Reader:
        return GridFilmsDataModule.open_split(self, self.folder, "train")

    def label_key(self, labeller: str) -> LabelKey:
        own: Mapping[str, Any] = {"law": asdict(self.law), "variants": self.variants, "labeller": labeller}
        place = folder_of(self.cache_dir, self.recipe()).name
        return LabelKey({**own, "films": len(self.films)}, {"size": self.frame_shape, "data": place})
