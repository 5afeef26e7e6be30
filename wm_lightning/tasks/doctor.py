"""task=doctor: what machine and recordings have, what is wrong with them, and the command that trains on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from wm_lightning.data.alignment import align
from wm_lightning.data.checks import odd_colours, ranges
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.data.map_image import MapImageDataModule
from wm_lightning.data.source_datamodule import SourceDataModule
from wm_lightning.data.world_tasks import WorldTasksDataModule
from wm_lightning.data.worldmap import WorldMapDataModule
from wm_lightning.tasks import terminal
from wm_lightning.tasks.build import kind_of
from wm_lightning.tasks.doctor_command import clip_words, command, given_words, share_words
from wm_lightning.tasks.doctor_look import Findings, Place, decode, read_tables, sample, twins
from wm_lightning.tasks.doctor_machine import examine_machine
from wm_lightning.tasks.doctor_maps import examine_map_image, examine_world_map
from wm_lightning.tasks.doctor_report import line, show_alignment, show_columns, show_splits, some
from wm_lightning.tasks.doctor_tasks import examine
from wm_lightning.tasks.doctor_verdict import equal, faults, parts, same_actions
from wm_lightning.tasks.preflight import check_training


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """The task. Actions are read of all episodes; `decoded` of them, drawn over the whole set, are decoded; null: all.

    A set is refused that a training would refuse, as far as it was decoded, and one whose actions come at the wrong
    time or do not go with their own episodes.
    """

    decoded: int | None

    def __post_init__(self) -> None:
        if self.decoded is not None and self.decoded < 1:
            raise ValueError(f"task.decoded={self.decoded} decodes nothing; give 1 or more, or null for all episodes")

    def __call__(self, config: DictConfig) -> dict[str, float]:
        """Prints what is found. Raises ValueError, naming the faults, where the set cannot be trained on here."""
        if wrong := examine_machine(terminal.console(), config):
            raise ValueError("\n  ".join(["nothing can be trained here as it is:", *wrong]))
        chosen = HydraConfig.initialized() and HydraConfig.get().runtime.choices.get("experiment") is not None
        found = self.data(config, experiment=chosen)
        if chosen:
            check_training(config)
            line(terminal.console(), "\nSettings, checkpoints and data of this experiment fit together.")
            if kind_of(config) == "executor":
                self.executor(config)
        return found

    def executor(self, config: DictConfig) -> None:
        """The same of one iteration of an executor's algorithm."""
        # Here: of all tasks that look at data, those of executors alone need their module.
        from wm_lightning.tasks.doctor_executor import examine_executor  # noqa: PLC0415

        if wrong := examine_executor(terminal.console(), config):
            raise ValueError("\n  ".join(["an iteration is not what it shall be:", *wrong]))

    def data(self, config: DictConfig, *, experiment: bool = False) -> dict[str, float]:
        """The same of the data alone; of an `experiment` that simulates its recordings nothing is looked at."""
        given = instantiate(config.data, _convert_="all")
        if isinstance(given, WorldTasksDataModule):
            return examine(given, experiment=experiment)
        if isinstance(given, WorldMapDataModule):
            return examine_world_map(given, config)
        if isinstance(given, MapImageDataModule):
            return examine_map_image(given, config)
        if experiment and given.root is None:
            line(terminal.console(), f"\n{given.name}: there are no files to look at without data.root.")
            return {}
        return self.recordings(recorded(given), config)

    def recordings(self, data: SourceDataModule, config: DictConfig) -> dict[str, float]:
        """The same for episodes with pictures and actions."""
        findings = read_tables(data)
        groups, drawn = twins(findings), sample(findings, self.decoded)
        more = sorted({place for group in groups for place in group} - set(drawn))
        decode(findings, [*drawn, *more], data.frame_cache.resize, data.frame_cache.workers)
        data, added = fitted(config, data, findings)
        alignment = align([seen.moves for found in findings.values() for seen in found.seen.values()])
        console = terminal.console()
        show_splits(console, data, findings)
        show_columns(console, ranges(rows_of(findings), columns_of(findings), data.spec))
        show_alignment(console, alignment)
        some(
            console, [f"colours: {name} looks as if its red and blue were swapped" for name in oddly_coloured(findings)]
        )
        wrong = [*shared(console, data, findings, groups), *faults(data, findings, alignment)]
        if wrong:
            raise ValueError("\n  ".join([f"{data.home} cannot be trained on as it is:", *wrong]))
        line(console, f"\nTrain on it:\n  {command(given_words(), data.root, added)}")
        found = findings.values()
        return {"episodes": float(sum(f.episodes for f in found)), "frames": float(sum(f.frames for f in found))}


def recorded(data: ClipDataModule) -> SourceDataModule:
    """The data. Raises ValueError where they are not recordings on disk."""
    if not isinstance(data, SourceDataModule) or data.root is None:
        raise ValueError(
            "task=doctor looks at recordings on disk: give data=rt1|csgo|doom|recon|own and data.root=PATH, or "
            "data=worldmap|map_image|world_tasks with or without data.root"
        )
    return data


def opened(config: DictConfig) -> SourceDataModule:
    """The data of the config. Raises ValueError where they are not recordings on disk."""
    return recorded(instantiate(config.data, _convert_="all"))


def fitted(
    config: DictConfig, data: SourceDataModule, findings: Findings
) -> tuple[SourceDataModule, Mapping[str, Any]]:
    """The data with the settings that they need beyond those given, and these settings by their words.

    Raises ValueError where no episode can be read.
    """
    if not rows_of(findings):
        first = [str(error) for found in findings.values() for error in found.bad[:1]]
        none = f"nothing there is of the form {data.format}; leave data.format out, so that it is found"
        raise ValueError(f"{data.home}: no episode can be read; {'; '.join(first) or none}")
    needed = data.proposed(columns_of(findings), np.concatenate(rows_of(findings)))
    added = {f"+data.{key}": value for key, value in needed.items()}
    added |= clip_words(config, max(map(len, rows_of(findings))))
    added |= share_words(data.shares, data.stored_splits(), findings["train"].episodes)
    for key, value in added.items():
        OmegaConf.update(config, key.lstrip("+"), value, force_add=True)
    return opened(config), added


def shared(
    console: Console, data: SourceDataModule, findings: Findings, groups: Sequence[Sequence[Place]]
) -> list[str]:
    """Says what episodes share; what training refuses of it is returned."""
    try:
        serves = parts(data, findings)
    except ValueError as error:  # too few episodes to give every split one
        return [str(error)]
    pairs = equal(findings, serves)
    some(console, [f"twice: episode {p.one} is the same as {p.other}" for p in pairs if not p.across])
    again = same_actions(findings, serves, groups)
    some(console, [f"alike: episode {p.one} has the actions of {p.other} and other pictures" for p in again])
    return [
        f"episode {pair.one} is the same as {pair.other}; splits must share none, remove one of the two"
        for pair in pairs
        if pair.across
    ]


def oddly_coloured(findings: Findings) -> list[str]:
    """The decoded episodes whose red and blue look swapped, as SPLIT/NAME."""
    return odd_colours(
        {
            f"{split}/{found.source.names[episode]}": seen.colour
            for split, found in findings.items()
            for episode, seen in found.seen.items()
        }
    )


def rows_of(findings: Findings) -> list[np.ndarray]:
    """The actions of all episodes of all splits."""
    return [rows for found in findings.values() for rows in found.actions.values()]


def columns_of(findings: Findings) -> Sequence[str]:
    """The names of the stored columns."""
    return findings["train"].source.columns
