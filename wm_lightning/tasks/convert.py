"""task=convert: a set of recordings written in another form."""

import logging
from dataclasses import dataclass
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from wm_lightning.data.convert import FORMS, ConvertedEpisodes, Writing, target_columns
from wm_lightning.data.formats.atomic import atomic_folder
from wm_lightning.data.formats.lerobot_writer import Version
from wm_lightning.data.formats.source import EpisodeSource
from wm_lightning.data.formats.video_files import BadFile, Encoding
from wm_lightning.data.source_datamodule import SourceDataModule

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Convert:
    """The task: `to` names the form, `into` a folder that is not there yet; it is written whole or not at all.

    Every episode is read twice: first to find those that are damaged, then to be written.
    """

    to: str | None
    into: str | None
    encoding: Encoding
    version: Version

    def __call__(self, config: DictConfig) -> dict[str, float]:
        """Converts all stored splits. Raises ValueError where a name is wrong or too much of the set is unusable."""
        form, folder = self.to or "", Path(self.into or "")
        if form not in FORMS or self.into is None:
            raise ValueError(f"task=convert needs task.to={'|'.join(FORMS)} and task.into=FOLDER, a new one")
        if folder.exists():
            raise ValueError(f"task.into={folder} is there already; name a new folder, nothing is overwritten")
        data = instantiate(config.data, _convert_="all")
        if not isinstance(data, SourceDataModule):
            raise ValueError("task=convert takes recordings: data=rt1|csgo|recon|own")
        if data.root is None:
            data.prepare_data()
        write, _ = FORMS[form]
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as progress:
            splits, bar = {}, progress.add_task("checking", total=None)
            for split in data.stored_splits():
                source = data.open_source(split)
                chosen = sound(data, source, split, progress)
                target = target_columns(form, source, data.spec)
                splits[split] = ConvertedEpisodes(source, chosen, target, lambda step: progress.advance(bar, step))
            progress.update(bar, description=f"writing {form}", total=sum(map(len, splits.values())))
            with atomic_folder(folder) as partial:
                write(partial, splits, Writing(self.encoding, self.version, data.spec))
        log.info("Written: %s, %s", folder, ", ".join(f"{len(found)} {split}" for split, found in splits.items()))
        return {"episodes": float(sum(map(len, splits.values())))}


def sound(data: SourceDataModule, source: EpisodeSource, split: str, progress: Progress) -> list[int]:
    """The episodes that can be read. Raises ValueError where more cannot than the data's settings allow."""
    good, bad = [], list(source.bad)
    bar = progress.add_task(f"checking {split}", total=len(source.names))
    for episode in range(len(source.names)):
        try:
            source.read(episode)
            good.append(episode)
        except BadFile as error:
            bad.append(error)
        progress.advance(bar)
    data.frame_cache.tolerance.check(split, bad, len(source.names) + len(source.bad))
    for error in bad:
        log.warning("left out: %s", error)
    if not good:
        raise ValueError(f"{split}: none of {len(source.names)} episodes is left to convert")
    return good
