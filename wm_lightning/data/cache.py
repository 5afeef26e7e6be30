"""Simulated data in the cache: written beside its place, then renamed, so that half of it is never read."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from wm_lightning.data.formats.atomic import atomic_folder

Advance = Callable[[int], None]
MARKER = "simulated.json"  # tells a simulated folder from a real one, wherever it is moved


@dataclass(frozen=True)
class Recipe:
    """How a world's data are simulated.

    `settings` (plain JSON values, the generator's version among them) name the folder; `size` is
    an upper estimate in bytes; `steps` the total that `write(folder, advance)` reports through
    `advance(n)`. `write` must depend on nothing but `settings`.
    """

    world: str
    settings: Mapping[str, Any]
    size: int
    steps: int
    write: Callable[[Path, Advance], None]


def folder_of(cache_dir: str | Path, recipe: Recipe) -> Path:
    """Where the data of a recipe stand: `<cache_dir>/simulated-<world>-<hash of the settings>`."""
    text = json.dumps({"world": recipe.world, **recipe.settings}, sort_keys=True)
    return Path(cache_dir) / f"simulated-{recipe.world}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def simulate(cache_dir: str | Path, recipe: Recipe) -> Path:
    """The folder of a recipe's data, simulated with a progress bar unless it is there.

    Raises ValueError where the cache cannot be written or has too little space.
    """
    folder = folder_of(cache_dir, recipe)
    if folder.is_dir():
        return folder
    _make_cache(Path(cache_dir))
    with atomic_folder(folder) as partial:
        # Looked at only now: what an interrupted run left has been cleared away.
        _check_space(Path(cache_dir), recipe)
        _write(partial, recipe)
    return folder


def _write(partial: Path, recipe: Recipe) -> None:
    marker = {"world": recipe.world, "settings": dict(recipe.settings)}
    (partial / MARKER).write_text(json.dumps(marker, indent=1, sort_keys=True))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as progress:
        bar = progress.add_task(f"simulated {recipe.world}", total=recipe.steps)
        recipe.write(partial, lambda steps: progress.advance(bar, steps))


def _make_cache(cache_dir: Path) -> None:
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"the cache {cache_dir} cannot be made ({error}); name another with data.cache_dir="
        ) from error


def _check_space(cache_dir: Path, recipe: Recipe) -> None:
    free = shutil.disk_usage(cache_dir).free
    if free < recipe.size:
        raise ValueError(
            f"{cache_dir} has {free / 2**20:.0f} MiB free, simulated {recipe.world} needs about "
            f"{recipe.size / 2**20:.0f} MiB; make room or name another folder with data.cache_dir="
        )
