"""World maps on disk: lossless map images and walks over them; crops are made on read.

    <root>/world.json              sizes in pixels and tiles, names of actions and terrains, hash of the textures
    <root>/terrain.png             the textures side by side, one tile each, in the order of the names
    <root>/maps/NNNN.png           RGB maps, map_tiles x map_tiles tiles
    <root>/{train,val,test}.npz    map [n] int32, start [n, 2] int32 (tile row, column of the view), actions [n, t] int8

`actions[:, k]` is the choice made at frame k, which leads to frame k + 1; there is one for every frame.
"""

import hashlib
import json
import operator
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int8, Int16, Int32, UInt8
from PIL import Image

from wm_lightning.clip import ActionSpec
from wm_lightning.data.formats.episode import Episode, produced_actions
from wm_lightning.data.formats.picture_files import DAMAGED
from wm_lightning.data.formats.source import UNREADABLE

MOVES = {"stay": (0, 0), "left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}  # tile row, column
REST = {"stay": 1}
REPAIR = "restore the file, or delete the folder and simulate it again with data.root=null"
MOST_TILES = 2**15 - 1  # a side, as positions are int16
Textures = UInt8[np.ndarray, "k tile tile 3"]


@dataclass(frozen=True)
class Layout:
    """What holds for all maps of a folder. `tile` is in pixels, `view` and `map_tiles` in tiles."""

    tile: int
    view: int
    map_tiles: int
    terrains: tuple[str, ...]
    palette: str  # SHA-256 of the textures' bytes
    actions: tuple[str, ...] = tuple(MOVES)
    format: int = 1

    @property
    def spec(self) -> ActionSpec:
        """The choices as a one-hot."""
        return ActionSpec(self.actions, (0.0,) * len(self.actions), (1.0,) * len(self.actions), "discrete")


@dataclass(frozen=True)
class Walks:
    """Walks of equal length over maps; see the file's head."""

    map: Int32[np.ndarray, "n"]
    start: Int32[np.ndarray, "n 2"]
    actions: Int8[np.ndarray, "n t"]


def palette_hash(textures: Textures) -> str:
    """SHA-256 of the textures, which tells whether two folders show the same terrains."""
    return hashlib.sha256(np.ascontiguousarray(textures).tobytes()).hexdigest()


def write_world_map(
    folder: Path,
    layout: Layout,
    textures: Textures,
    maps: Iterable[UInt8[np.ndarray, "rows columns"]],
    walks: Mapping[str, Walks],
    advance: Callable[[int], None],
) -> None:
    """Writes a folder. `maps` hold a terrain index per tile; `advance(1)` is called after each."""
    (folder / "maps").mkdir(parents=True)
    (folder / "world.json").write_text(json.dumps(asdict(layout), indent=1))
    Image.fromarray(np.concatenate(list(textures), axis=1)).save(folder / "terrain.png")
    for index, grid in enumerate(maps):
        Image.fromarray(paint(grid, textures)).save(map_path(folder, index))
        advance(1)
    for split, walk in walks.items():
        np.savez(folder / f"{split}.npz", map=walk.map, start=walk.start, actions=walk.actions)


def paint(grid: UInt8[np.ndarray, "rows columns"], textures: Textures) -> UInt8[np.ndarray, "height width 3"]:
    """The picture of a grid of terrain indices."""
    rows, columns = grid.shape
    tile = textures.shape[1]
    return textures[grid].transpose(0, 2, 1, 3, 4).reshape(rows * tile, columns * tile, 3)


def map_path(folder: Path, index: int) -> Path:
    """Where a map stands."""
    return folder / "maps" / f"{index:04d}.png"


def read_layout(folder: Path) -> Layout:
    """The layout of a folder. Raises ValueError where `world.json` is missing, damaged or of another format."""
    path = folder / "world.json"
    try:
        values: dict[str, Any] = json.loads(path.read_text())
        names = {key: tuple(map(str, values.pop(key))) for key in ("terrains", "actions")}
        palette = str(values.pop("palette"))
        sizes = {key: operator.index(value) for key, value in values.items()}
        layout = Layout(**sizes, **names, palette=palette)  # pyright: ignore[reportArgumentType]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} does not describe a world map ({error}); {REPAIR}") from error
    if layout.format != 1 or layout.actions != tuple(MOVES):
        raise ValueError(f"{path}: format 1 with actions {tuple(MOVES)} is expected, found {layout}; {REPAIR}")
    if not 0 < layout.view <= layout.map_tiles <= MOST_TILES or layout.tile < 1:
        raise ValueError(
            f"{path}: sizes above 0 and view <= map_tiles <= {MOST_TILES} are expected, found {layout}; {REPAIR}"
        )
    return layout


def read_textures(folder: Path, layout: Layout) -> Textures:
    """The textures of a folder. Raises ValueError where they are damaged or not those of `world.json`."""
    picture = _read_picture(folder / "terrain.png", layout.tile, layout.tile * len(layout.terrains))
    textures = np.stack(np.split(picture, len(layout.terrains), axis=1))
    if palette_hash(textures) != layout.palette:
        raise ValueError(f"{folder / 'terrain.png'} holds other textures than world.json says; {REPAIR}")
    return textures


class WorldMapReader:
    """One split of a world-map folder. Crops come from decoded maps, of which `cached_maps` are kept."""

    def __init__(self, folder: Path, split: str, *, action_shift: int, cached_maps: int) -> None:
        if cached_maps < 1:
            raise ValueError(f"data.{cached_maps=} is too small; at least 1 is expected")
        self.folder = folder
        self.action_shift = action_shift
        self.cached_maps = cached_maps
        self.layout = read_layout(folder)
        self.spec = self.layout.spec
        self.walks = _read_walks(folder / f"{split}.npz", self.layout)
        self.positions = _positions(self.walks, self.layout)
        self._views: OrderedDict[int, UInt8[np.ndarray, "rows columns c h w"]] = OrderedDict()
        for index in self.maps:
            if not map_path(folder, index).is_file():
                raise ValueError(f"{map_path(folder, index)} is missing, {split}.npz walks on it; {REPAIR}")

    @property
    def maps(self) -> list[int]:
        """The maps that the walks use."""
        return np.unique(self.walks.map).tolist()

    def verify(self) -> None:
        """Decodes every map once. Raises ValueError naming the first that is damaged."""
        for index in self.maps:
            self._decode(index)

    def __len__(self) -> int:
        return len(self.walks.map)

    def length(self, episode: int) -> int:
        """Number of frames of a walk: the same for all."""
        return self.walks.actions.shape[1]

    def read(self, episode: int, start: int, stop: int) -> Episode:
        """Frames start..stop-1 of a walk; truth holds its `map` and the view's `position` (tile row, column)."""
        position = self.positions[episode, start:stop]
        video = self._view(int(self.walks.map[episode]))[position[:, 0], position[:, 1]]
        stored = np.eye(len(MOVES), dtype=np.float32)[self.walks.actions[episode]]
        produced = produced_actions(stored, start, stop, self.action_shift)
        walked = np.full(stop - start, self.walks.map[episode], np.int64)
        truth = {"position": position.astype(np.int64), "map": walked}
        return Episode(video, produced.actions, produced.state, truth)

    def __getstate__(self) -> dict[str, Any]:
        # Decoded maps are cheap to make again and dear to send to a worker.
        return {**self.__dict__, "_views": OrderedDict()}

    def _view(self, index: int) -> UInt8[np.ndarray, "rows columns c h w"]:
        """Every crop of a map by its tile position, as strides over one decoded map."""
        if index in self._views:
            self._views.move_to_end(index)
            return self._views[index]
        size, tile = self.layout.view * self.layout.tile, self.layout.tile
        pixels = np.ascontiguousarray(self._decode(index).transpose(2, 0, 1))
        crops = np.lib.stride_tricks.sliding_window_view(pixels, (size, size), axis=(1, 2))  # pyright: ignore
        self._views[index] = crops[:, ::tile, ::tile].transpose(1, 2, 0, 3, 4)
        if len(self._views) > self.cached_maps:
            self._views.popitem(last=False)
        return self._views[index]

    def _decode(self, index: int) -> UInt8[np.ndarray, "height width 3"]:
        size = self.layout.map_tiles * self.layout.tile
        return _read_picture(map_path(self.folder, index), size, size)


def _read_picture(path: Path, height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
    try:
        with Image.open(path) as image:
            found = (image.mode, image.height, image.width)
            pixels = np.asarray(image) if found == ("RGB", height, width) else None
    except DAMAGED as error:
        raise ValueError(f"{path} cannot be read ({error}); {REPAIR}") from error
    if pixels is None:
        raise ValueError(f"{path} is {found} (mode, height, width), ('RGB', {height}, {width}) is expected; {REPAIR}")
    return pixels


def _read_walks(path: Path, layout: Layout) -> Walks:
    arrays = _read_arrays(path)
    kinds = {"map": ("int32", "[n]"), "start": ("int32", "[n, 2]"), "actions": ("int8", "[n, t]")}
    for key, (dtype, axes) in kinds.items():
        array = arrays[key]
        if array.dtype.name != dtype or array.ndim != len(axes.split()) or not array.size:
            raise ValueError(
                f"{path}: {key} is {array.dtype.name} {array.shape}; {dtype} {axes}, not empty, is expected; {REPAIR}"
            )
    if len({len(array) for array in arrays.values()}) > 1 or arrays["start"].shape[1] != 2:
        shapes = {key: arrays[key].shape for key in kinds}
        raise ValueError(f"{path} holds {shapes}; [n], [n, 2] and [n, t] with one n are expected; {REPAIR}")
    highest = {"start": layout.map_tiles - layout.view, "actions": len(MOVES) - 1, "map": 2**31 - 1}
    for key, high in highest.items():
        low, top = int(arrays[key].min()), int(arrays[key].max())
        if low < 0 or top > high:
            raise ValueError(f"{path}: {key} spans {low}..{top}, 0..{high} is expected; {REPAIR}")
    return Walks(**arrays)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise ValueError(f"{path} is missing; {REPAIR}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in ("map", "start", "actions") if key in file.files}
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read ({error}); {REPAIR}") from error
    if missing := {"map", "start", "actions"} - set(arrays):
        raise ValueError(f"{path} lacks {sorted(missing)}; arrays map, start and actions are expected; {REPAIR}")
    return arrays


def _positions(walks: Walks, layout: Layout) -> Int16[np.ndarray, "n t 2"]:
    """The view's position at every frame. Moves beyond the border are clamped."""
    moves = np.array(list(MOVES.values()))[walks.actions]
    positions = np.empty(moves.shape, np.int16)
    position = walks.start
    for frame in range(moves.shape[1]):
        positions[:, frame] = position
        position = np.clip(position + moves[:, frame], 0, layout.map_tiles - layout.view)
    return positions
