"""What `task=doctor` says of maps: their sizes, the walks over them, and that splits share none."""

import hashlib
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from wm_lightning.data.datamodule import SPLITS, ClipDataModule
from wm_lightning.data.formats.map_image import MAP, UNSEEN, MapImageReader
from wm_lightning.data.formats.world_map import WorldMapReader, map_path
from wm_lightning.data.map_image import MapImageDataModule
from wm_lightning.data.worldmap import WorldMapDataModule
from wm_lightning.tasks import terminal
from wm_lightning.tasks.doctor_command import clip_words, command, given_words
from wm_lightning.tasks.doctor_report import line


def examine_world_map(data: WorldMapDataModule, config: DictConfig) -> dict[str, float]:
    """Decodes every map. Raises ValueError where a training refuses the folder, or two splits show the same map."""
    data.prepare_data()
    readers = {split: data.open_split(data.folder, split) for split in SPLITS}
    console, table = terminal.console(), _table(data, ("split", "walks", "frames of each", "maps"))
    for split, reader in readers.items():
        table.add_row(split, str(len(reader)), str(reader.length(0)), str(len(reader.maps)))
    console.print(table)
    layout = readers["train"].layout
    side = layout.map_tiles * layout.tile
    line(
        console,
        f"maps of {side} x {side} pixels ({layout.map_tiles} tiles of {layout.tile}), seen through {layout.view} x "
        f"{layout.view} tiles; terrains: {', '.join(layout.terrains)}; no map serves two splits",
    )
    _distinct(data, readers)
    _end(console, data, config, min(reader.length(0) for reader in readers.values()), "experiment=teacher")
    return _counts(readers)


def examine_map_image(data: MapImageDataModule, config: DictConfig) -> dict[str, float]:
    """Reads the maps. Raises ValueError where a training refuses them, or the unseen map is the one trained on."""
    data.prepare_data()
    readers = {split: data.open_split(data.folder, split) for split in SPLITS}
    console, table = terminal.console(), _table(data, ("split", "map", "columns", "walks", "frames of each"))
    for split, reader in readers.items():
        path = UNSEEN if split == "test" and data.test_map == "unseen" else MAP
        columns = f"{reader.band.left} .. {reader.band.right - 1}"
        table.add_row(split, path, columns, str(len(reader)), str(reader.length(0)))
    console.print(table)
    _, height, width = readers["train"].pixels.shape
    crop = readers["train"].walk
    line(
        console,
        f"{MAP}: {width} x {height} pixels; crops of {crop.width} x {crop.height} move by {crop.shift}; bands are "
        f"{data.guard} columns apart, so no pixel serves two splits; walks are drawn, not stored",
    )
    unseen = data.folder / UNSEEN
    if not unseen.is_file():
        line(console, f"{UNSEEN} is not there: data.test_map=unseen needs it")
    elif unseen.read_bytes() == (data.folder / MAP).read_bytes():
        raise ValueError(f"{unseen} is the same picture as {MAP}, which is trained on; put another map there")
    _end(console, data, config, min(reader.length(0) for reader in readers.values()), "experiment=worldgen_flow")
    return _counts(readers)


def _table(data: ClipDataModule, heads: tuple[str, ...]) -> Table:
    kind = "simulated" if data.simulated else "real"
    table = Table(title=f"{data.folder} · {data.label} · {kind}", title_justify="left")
    for head in heads:
        table.add_column(head)
    return table


def _distinct(data: WorldMapDataModule, readers: Mapping[str, WorldMapReader]) -> None:
    """Raises ValueError where maps of two splits hold the same bytes under other numbers."""
    owner: dict[str, tuple[str, int]] = {}
    for split, reader in readers.items():
        for index in reader.maps:
            path = map_path(data.folder, index)
            there = owner.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), (split, index))
            if there[0] != split:
                raise ValueError(
                    f"{path} ({split}) is the same picture as {map_path(data.folder, there[1]).name} ({there[0]}); "
                    f"splits must share none, replace one of the two or simulate them again"
                )


def _counts(readers: Mapping[str, WorldMapReader | MapImageReader]) -> dict[str, float]:
    walks = sum(map(len, readers.values()))
    return {"episodes": float(walks), "frames": float(sum(len(r) * r.length(0) for r in readers.values()))}


def _end(console: Console, data: ClipDataModule, config: DictConfig, longest: int, experiment: str) -> None:
    added: dict[str, Any] = clip_words(config, longest)
    line(console, f"\nTrain on it:\n  {command(given_words(), data.root, added, experiment=experiment)}")
