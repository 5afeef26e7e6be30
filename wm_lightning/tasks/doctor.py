"""task=doctor: what a folder of recordings holds, what is wrong with it, and the command that trains on it."""

import json
import logging
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track
from rich.table import Table

from wm_lightning.data.checks import Alignment, Column, align, ranges, swapped
from wm_lightning.data.formats.source import EpisodeSource, StoredEpisode
from wm_lightning.data.formats.video_files import BadFile
from wm_lightning.data.source_datamodule import SourceDataModule
from wm_lightning.data.world_tasks import WorldTasksDataModule
from wm_lightning.tasks.doctor_tasks import examine

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finding:
    """One stored split."""

    split: str
    episodes: int
    frames: int
    bad: tuple[BadFile, ...]


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """The task. At most `decoded` episodes are decoded to check alignment; actions are read of all.

    A set with more unusable files than `data.max_bad_share` allows, or whose actions do not come before the motion,
    is refused.
    """

    decoded: int

    def __call__(self, config: DictConfig) -> dict[str, float]:
        """Prints what is found. Raises ValueError, naming the faults, where the set cannot be trained on."""
        given = instantiate(config.data, _convert_="all")
        if isinstance(given, WorldTasksDataModule):
            return examine(given)
        data = opened(config)
        findings, actions, seen = [], [], dict[str, StoredEpisode]()
        for split in data.stored_splits():
            source = data.open_source(split)
            found, rows = self.look(source, split)
            findings.append(found)
            actions += rows
            seen |= islice(self.decode(source, split), self.decoded - len(seen))
        if not actions:
            first = [str(error) for found in findings for error in found.bad[:1]]
            raise ValueError(f"{data.home}: no episode can be read; {'; '.join(first)}")
        needed = data.proposed(source.columns, np.concatenate(actions))
        for key, value in needed.items():
            OmegaConf.update(config.data, key, value, force_add=True)
        data, console = opened(config), Console()
        alignment = align(seen.values())
        show(console, data, findings, ranges(actions, source.columns, data.spec), alignment)
        for name in swapped(seen):
            console.print(
                f"  colours: {name} looks as if its red and blue were swapped", soft_wrap=True, highlight=False
            )
        refuse(data, findings, alignment)
        added = {f"+data.{key}": value for key, value in needed.items()}
        added |= fitting(config, data, findings, max(map(len, actions)))
        console.print(f"\nTrain on it:\n  {command(config, added)}", soft_wrap=True, highlight=False)
        return {"episodes": float(sum(f.episodes for f in findings)), "frames": float(sum(f.frames for f in findings))}

    def look(self, source: EpisodeSource, split: str) -> tuple[Finding, list]:
        """The actions of all episodes, and what could not be read."""
        bad, rows = list(source.bad), []
        for episode in track(range(len(source.names)), description=f"reading actions of {split}", transient=True):
            try:
                rows.append(source.actions(episode))
            except BadFile as error:
                bad.append(error)
        return Finding(split, len(rows), sum(map(len, rows)), tuple(bad)), rows

    def decode(self, source: EpisodeSource, split: str) -> Iterator[tuple[str, StoredEpisode]]:
        """Whole episodes by name, those that cannot be decoded left out."""
        for episode, name in enumerate(source.names):
            try:
                yield f"{split}/{name}", source.read(episode)
            except BadFile as error:
                log.warning("%s", error)


def show(
    console: Console, data: SourceDataModule, findings: list[Finding], columns: list[Column], alignment: Alignment
) -> None:
    """Three tables: splits, action columns, alignment."""
    kind = "simulated" if data.simulated else "real"
    table = Table(title=f"{data.home} · {data.format} · {kind}", title_justify="left")
    for head in ("split", "episodes", "frames", "unusable"):
        table.add_column(head)
    for found in findings:
        table.add_row(found.split, str(found.episodes), str(found.frames), str(len(found.bad)))
    console.print(table)
    for found in findings:
        for error in found.bad[:5]:
            console.print(f"  unusable: {error}", soft_wrap=True, highlight=False)
    table = Table(title="actions", title_justify="left")
    for head in ("column", "least", "most", "bounds", "outside"):
        table.add_column(head)
    for column in columns:
        note = " (constant)" if column.constant else ""
        bounds = f"{column.low:.3g} .. {column.high:.3g}"
        table.add_row(column.name + note, f"{column.least:.3g}", f"{column.most:.3g}", bounds, str(column.outside))
    console.print(table)
    if alignment.peak is None:
        console.print("alignment: actions and motion hardly go together, so their lag cannot be told")
        return
    values = "  ".join(f"{lag:+d}: {value:.2f}" for lag, value in alignment.by_lag.items())
    console.print(
        f"alignment over {alignment.episodes} episodes, correlation by lag: {values}; peak {alignment.peak:+d}"
    )


def opened(config: DictConfig) -> SourceDataModule:
    """The data of the config. Raises ValueError where they are not recordings on disk."""
    data = instantiate(config.data, _convert_="all")
    if not isinstance(data, SourceDataModule) or data.root is None:
        raise ValueError(
            "task=doctor looks at recordings on disk: give data=rt1|csgo|recon|own and data.root=PATH, or "
            "data=world_tasks"
        )
    return data


def refuse(data: SourceDataModule, findings: Sequence[Finding], alignment: Alignment) -> None:
    """Raises ValueError where more files are unusable than allowed, or actions do not come before the motion."""
    faults = []
    for found in findings:
        try:
            data.frame_cache.tolerance.check(found.split, found.bad, found.episodes + len(found.bad))
        except ValueError as error:
            faults.append(str(error))
    if not alignment.plausible:
        faults.append(
            f"actions explain the motion best at a lag of {alignment.peak} frames; stored at the observation they "
            f"should come 0 to 2 frames before it: check data.action_shift and how they were recorded"
        )
    if faults:
        raise ValueError(f"{data.home} cannot be trained on as it is:\n" + "\n".join(f"  {fault}" for fault in faults))


def fitting(config: DictConfig, data: SourceDataModule, findings: Sequence[Finding], longest: int) -> Mapping[str, Any]:
    """Settings for a small set: clips as long as its episodes, and at least two episodes to validate on."""
    added: dict[str, Any] = {}
    if longest < config.data.frames:
        context, chunk = config.module.context, config.rollout.chunk
        frames = context + max(1, (longest - context) // chunk) * chunk
        added |= {"data.frames": frames, "data.val_frames": frames, "metrics.horizon": frames - context}
    episodes = next(found.episodes for found in findings if found.split == "train")
    missing = [name for name in data.shares if name not in data.stored_splits()]
    small = [name for name in missing if round(data.shares[name] * episodes) < 2]
    return added | {f"data.{name}_share": math.ceil(200 / episodes) / 100 for name in small if episodes >= 6}


def command(config: DictConfig, added: Mapping[str, Any]) -> str:
    """The command that trains on the same data, with what it needs beyond what was given."""
    words = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    kept = [word for word in words if word.startswith("data") and word.split("=")[0] not in added]
    root = f"data.root={Path(config.data.root).resolve()}"
    kept = [root if word.startswith("data.root=") else word for word in kept]
    more = [f"{key}={json.dumps(value)}".replace('"', "") for key, value in added.items()]
    return shlex.join(["python", "run.py", "experiment=teacher", *kept, *more])
