"""task=convert: a set of recordings written in another form; with from=images, pictures made into WorldTasks.

With to=hub, a checkpoint made into a folder that can be shared.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from wm_lightning.clip import ActionSpec
from wm_lightning.data import cache
from wm_lightning.data.convert import Conversion, Form, form_named, require_fit
from wm_lightning.data.formats.atomic import atomic_folder
from wm_lightning.data.formats.source import EpisodeSource
from wm_lightning.data.formats.video_files import BadFile, Encoding
from wm_lightning.data.formats.writing import ConvertedEpisodes, Version, Writing
from wm_lightning.data.source_datamodule import SourceDataModule

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sound:
    """One split without the episodes that cannot be read."""

    source: EpisodeSource
    chosen: list[int]
    actions: list[np.ndarray]
    bad: list[BadFile]


@dataclass(frozen=True, kw_only=True)
class Convert:
    """The task: `to` names the form, `into` a folder that is not there yet; it is written whole or not at all.

    Every episode is read twice: first to find those that are damaged, then to be written. `images` (from=images) makes
    tasks of pictures instead, in a folder that it can go on with. `to` hub writes the checkpoint at `ckpt_path` for
    others, under `license` (None: whoever publishes fills it in).
    """

    to: str | None
    into: str | None
    encoding: Encoding
    version: Version
    images: Callable[[DictConfig, Path], dict[str, float]] | None
    license: str | None

    def __call__(self, config: DictConfig) -> dict[str, float]:
        """Converts all stored splits. Raises ValueError where a name is wrong or too much of the set is unusable."""
        if self.images is not None:
            return self._from_images(config, self.images)
        if self.to == "hub":
            # Here: recordings need no networks.
            from wm_lightning.tasks.hub import write_hub  # noqa: PLC0415

            return write_hub(config, self._new_folder(), self.license)
        if self.license is not None:
            raise ValueError(f"task.license={self.license} is of what task.to=hub writes; leave it out")
        form, folder = form_named(self.to), self._new_folder()
        data = recordings(config)
        head = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*head, TimeElapsedColumn(), TimeRemainingColumn()) as progress:
            found = self._sound(data, progress)
            spec = own_spec(config, data, found["train"]) if form.columns is None else None
            written = self._write(folder, data, form, spec, found, progress)
        log.info("Written: %s, %s", folder, ", ".join(f"{count} {split}" for split, count in written.items()))
        return {"episodes": float(sum(written.values()))}

    def _new_folder(self) -> Path:
        if self.into is None:
            raise ValueError("task=convert needs task.into=FOLDER, one that is not there yet")
        folder = Path(self.into)
        if folder.exists():
            raise ValueError(f"task.into={folder} is there already; name a new folder, nothing is overwritten")
        return folder

    def _from_images(
        self, config: DictConfig, images: Callable[[DictConfig, Path], dict[str, float]]
    ) -> dict[str, float]:
        if self.to not in (None, "tasks"):
            raise ValueError(f"from=images makes WorldTasks alone; leave task.to={self.to} out")
        if self.into is None:
            raise ValueError(
                "from=images needs task.into=FOLDER, a new one, or one that an interrupted run of the same command left"
            )
        return images(config, Path(self.into))

    def _sound(self, data: SourceDataModule, progress: Progress) -> dict[str, Sound]:
        sources = {split: data.open_source(split) for split in data.stored_splits()}
        for source in sources.values():
            require_fit(str(self.to), source.columns, tuple(sources))
        return {split: sound(data, source, split, progress) for split, source in sources.items()}

    def _write(
        self, folder: Path, data: SourceDataModule, form: Form, spec: ActionSpec | None, found: dict[str, Sound],
        progress: Progress,
    ) -> dict[str, int]:  # fmt: skip
        target = spec.names if spec is not None else form.columns or ()
        total = sum(len(part.chosen) for part in found.values())
        bar = progress.add_task(f"writing {self.to}", total=total)
        report = lambda step: progress.advance(bar, step)  # noqa: E731
        splits = {split: ConvertedEpisodes(part.source, part.chosen, target, report) for split, part in found.items()}
        with atomic_folder(folder) as partial:
            names = form.write(partial, splits, Writing(self.encoding, self.version, spec, data.rest))
            left_out = {split: part.bad for split, part in found.items()}
            Conversion(data, str(self.to), tuple(target), splits, names, left_out).write(partial)
        return {split: len(episodes) for split, episodes in splits.items()}


def recordings(config: DictConfig) -> SourceDataModule:
    """The data of the config, simulated where there is no root. Raises ValueError where they are no recordings."""
    data = instantiate(config.data, _convert_="all")
    if not isinstance(data, SourceDataModule):
        raise ValueError(
            f"task=convert takes recordings with actions, data=rt1|csgo|recon|own; {config.data._target_} reads a form "
            f"of its own, which no other form here can hold; pictures become tasks with data=world_tasks from=images"
        )
    if data.root is None:
        cache.simulate(data.cache_dir, data.recipe())
    return data


def own_spec(config: DictConfig, data: SourceDataModule, train: Sound) -> ActionSpec:
    """The columns and bounds of own recordings; where none are set, those that the stored actions propose."""
    needed = data.proposed(train.source.columns, np.concatenate(train.actions))
    if not needed:
        return data.spec
    config = config.copy()
    for key, value in needed.items():
        log.warning("data.%s is not set; actions.yaml gets what the training actions propose: %s", key, value)
        OmegaConf.update(config.data, key, value, force_add=True)
    return instantiate(config.data, _convert_="all").spec


def sound(data: SourceDataModule, source: EpisodeSource, split: str, progress: Progress) -> Sound:
    """The episodes that can be read. Raises ValueError where more cannot than the data's settings allow."""
    found = Sound(source, [], [], list(source.bad))
    bar = progress.add_task(f"checking {split}", total=len(source.names))
    for episode in range(len(source.names)):
        try:
            found.actions.append(source.read(episode).actions)
            found.chosen.append(episode)
        except BadFile as error:
            found.bad.append(error)
        progress.advance(bar)
    data.frame_cache.tolerance.check(split, found.bad, len(source.names) + len(source.bad))
    for error in found.bad:
        log.warning("left out: %s", error)
    if not found.chosen:
        raise ValueError(f"{split}: none of {len(source.names)} episodes is left to convert")
    return found
