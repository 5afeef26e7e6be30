"""From Hydra's list of overrides to the points of a grid, each composed, checked, and in a folder of its own."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, open_dict

from wm_lightning.config_errors import ConfigError
from wm_lightning.launchers.manifest import MANIFEST, Point, Sweep, new_key, new_sweep, of_a_point
from wm_lightning.launchers.states import standings, summary


@dataclass(frozen=True)
class Planned:
    """A point with its composed config."""

    point: Point
    config: DictConfig


def plan(loader: ConfigLoader, config: DictConfig, overrides: Sequence[Sequence[str]], first: int) -> list[Planned]:
    """The points that Hydra's sweeper asks for; the first has the number `first`.

    Raises Hydra's own errors where a point does not compose.
    """
    folder = Path(str(config.hydra.sweep.dir)).resolve()
    common = set(overrides[0]).intersection(*overrides) if len(overrides) > 1 else set(overrides[0])
    return [
        _planned(loader, config, list(words), number, folder, common)
        for number, words in enumerate(overrides, start=first)
    ]


def _planned(
    loader: ConfigLoader,
    config: DictConfig,
    words: list[str],
    number: int,
    folder: Path,
    common: set[str],
) -> Planned:
    own = loader.load_sweep_config(config, words)
    with open_dict(own):
        own.hydra.job.id = own.hydra.job.num = number
    place = Path(str(own.hydra.sweep.dir)).resolve() / str(own.hydra.sweep.subdir)
    shown = ",".join(_short(word) for word in words if word not in common and not word.startswith("experiment="))
    relative = os.path.relpath(place, folder)
    return Planned(Point(number, of_a_point(words), relative, str(own.name), shown, new_key()), own)


def begun(folder: Path, planned: Sequence[Planned], first: int) -> Sweep:
    """The manifest of the grid in `folder`, written: a new one, or, where a sweeper goes on, the old with more points.

    The folder is `locked`. Raises ConfigError where points of another grid have begun there: theirs are the
    checkpoints, and none is run twice.
    """
    points = [entry.point for entry in planned]
    old = Sweep.load(folder) if (folder / MANIFEST).is_file() else None
    if first > 0 and old is not None:
        sweep = replace(old, points=(*old.points, *points))
    else:
        found = [] if old is None else standings(old)
        if any(entry.state != "missing" for entry in found):
            raise ConfigError(
                f"{folder} holds a grid already ({summary(found)}); go on with it by task=sweep task.resume={folder}, "
                "or give another run_dir"
            )
        sweep = new_sweep(folder, points)
    sweep.save()
    return sweep


def need_no_results(config: DictConfig) -> None:
    """Raises ConfigError for a sweeper that chooses points by the results of others, which a submission has not."""
    sweeper = str(config.hydra.sweeper.get("_target_"))
    if sweeper != f"{BasicSweeper.__module__}.{BasicSweeper.__qualname__}":
        raise ConfigError(
            f"launcher=slurm submits points and returns without their results, by which the hydra/sweeper {sweeper} "
            "chooses the next; run the grid with launcher=local, or give all of its points and leave hydra/sweeper out"
        )


def left_nothing(folder: Path) -> None:
    """Takes back the folder that Hydra's sweeper made, where nothing was started in it."""
    if folder.is_dir() and {path.name for path in folder.iterdir()} <= {"multirun.yaml"}:
        (folder / "multirun.yaml").unlink(missing_ok=True)
        folder.rmdir()


def _short(word: str) -> str:
    """`steps=4` of `sampler.steps.steps=4`."""
    key, _, value = word.lstrip("+~").partition("=")
    return f"{key.rsplit('.', 1)[-1]}={value}"
