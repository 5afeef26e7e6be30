"""A map of terrain seen through a window that an action moves by exactly one tile.

What a move reveals is new: the map is drawn at random, so that the future is a distribution that
no action explains, while everything seen before is determined.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor

from wm_lightning.clip import Clip, Pixels
from wm_lightning.data.formats.world_map import MOVES, Layout, Walks, palette_hash, write_world_map
from wm_lightning.randomness import generator
from wm_lightning.worlds.world import Measures
from wm_lightning.worlds.world_map_branch import branch

VERSION = 1  # part of the cache's key: raise it when the same settings give other maps or walks
TILE = 4


@dataclass(frozen=True)
class Terrain:
    """A texture of 4 x 4 pixels: `#` takes the first colour, `.` the second."""

    name: str
    colours: tuple[tuple[int, int, int], tuple[int, int, int]]
    pattern: str

    def texture(self) -> UInt8[np.ndarray, "4 4 3"]:
        """The RGB pixels of a tile."""
        first = np.array([[mark == "#" for mark in row] for row in self.pattern.split()])
        return np.where(first[..., None], *np.array(self.colours, np.uint8))


# Chosen so that the mean of any two textures is no valid tile: a blur is never taken for terrain.
TERRAINS = (
    Terrain("water", ((20, 60, 190), (50, 110, 250)), "##.. ..## ##.. ..##"),
    Terrain("sand", ((250, 225, 130), (220, 190, 90)), "##.# #.## .### ###."),
    Terrain("grass", ((90, 210, 60), (60, 170, 40)), "#.#. .... .#.# ...."),
    Terrain("forest", ((0, 40, 20), (20, 90, 30)), ".##. #### #### .##."),
    Terrain("rock", ((225, 225, 240), (120, 115, 140)), ".#.. ###. .### ..#."),
    Terrain("road", ((150, 40, 30), (190, 80, 60)), "#### .#.. #### ...#"),
)
TEXTURES = np.stack([terrain.texture() for terrain in TERRAINS])
WATER, SAND, GRASS, FOREST, ROCK, ROAD = range(len(TERRAINS))
VALID_MSE = 0.02  # in [0, 1] units; a tile further than this from every texture is not terrain


@dataclass(frozen=True)
class _Tiles:
    terrain: Int[Tensor, "b f i j"]  # the nearest terrain
    valid: Bool[Tensor, "b f i j"]  # whether it is near enough


class WorldMap:
    """Makes maps and walks, and judges pixels.

    `maps` and `walks` count what each split holds (splits share no map), `length` is that of a walk
    in frames, `smoothness` the size of terrain features in tiles, `stickiness` the probability that
    a walk repeats its last action. Sizes `map_tiles` and `view` are in tiles of 4 pixels.
    """

    name = "worldmap"
    chance: tuple[int, ...] = (0,)  # moves alone decide
    motion_unit = "tiles"

    def __init__(
        self,
        *,
        seed: int,
        map_tiles: int,
        view: int,
        smoothness: float,
        stickiness: float,
        length: int,
        maps: Mapping[str, int],
        walks: Mapping[str, int],
    ) -> None:
        if set(maps) != {"train", "val", "test"} or set(walks) != set(maps):
            raise ValueError(f"data.world.{maps=} and {walks=} must both count train, val and test")
        if min(*maps.values(), *walks.values()) < 1 or length < 2:
            raise ValueError(f"data.world: {maps=} and {walks=} must be above 0 and {length=} above 1")
        if not 1 < view < map_tiles:
            raise ValueError(f"data.world.{view=} must lie between 2 and {map_tiles=} - 1")
        if not 0 <= stickiness <= 1:
            raise ValueError(f"data.world.{stickiness=} is not a probability in [0, 1]")
        self.seed, self.smoothness, self.stickiness = seed, smoothness, stickiness
        self.length, self.maps, self.walks = length, dict(maps), dict(walks)
        names = tuple(terrain.name for terrain in TERRAINS)
        self.layout = Layout(TILE, view, map_tiles, names, palette_hash(TEXTURES))
        self.spec = self.layout.spec
        self._textures = rearrange(torch.from_numpy(TEXTURES), "k h w c -> k (c h w)").float() / 255

    @property
    def settings(self) -> dict[str, Any]:
        """All that the data depend on, as plain JSON values."""
        own = {key: getattr(self, key) for key in ("seed", "smoothness", "stickiness", "length", "maps", "walks")}
        return {**own, "layout": asdict(self.layout), "version": VERSION}

    @property
    def size(self) -> int:
        """An upper estimate of the data on disk, in bytes."""
        pixels = sum(self.maps.values()) * (self.layout.map_tiles * TILE) ** 2 * 3
        return pixels + sum(self.walks.values()) * (self.length + 12) + 2**20

    def write(self, folder: Path, advance: Callable[[int], None]) -> None:
        """Simulates and writes everything; `advance(1)` is called after each map."""
        grids = (self.grid(index) for index in range(sum(self.maps.values())))
        write_world_map(folder, self.layout, TEXTURES, grids, dict(self._all_walks()), advance)

    def grid(self, index: int) -> UInt8[np.ndarray, "rows columns"]:
        """Map `index` as a terrain index per tile: heights, moisture, and two roads."""
        size = self.layout.map_tiles
        source = generator(self.seed, "map", index)
        height = _quantiles(_smooth(source.standard_normal((size, size)), self.smoothness))
        moist = _quantiles(_smooth(source.standard_normal((size, size)), self.smoothness)) > 0.5
        land = [height < 0.24, height < 0.36, height > 0.82, moist]
        grid = np.select(land, [WATER, SAND, ROCK, FOREST], GRASS).astype(np.uint8)
        for view in (grid, grid.T):
            drift = source.choice([-1, 0, 1], p=[0.2, 0.6, 0.2], size=size)
            row = np.clip(source.integers(size) + np.cumsum(drift), 0, size - 1)
            view[row, np.arange(size)] = ROAD
            view[row[:-1], np.arange(1, size)] = ROAD  # no gap where the road changes its row
        return grid

    def measure(self, video: Pixels, clip: Clip, context: int) -> Measures:
        """Judges the generated frames; the context frames give NaN.

        action_error: 0 or 1, whether another of the five displacements than that of the view's true
        move (the command) explains the frame best, tile by tile, from the frame before; NaN where the
        best is not unique, because the pixels do not tell. presence: share of tiles that are terrain.
        object_error: 1 - accuracy of the tiles that the context frames showed; NaN where none is in
        view. extra: `terrain` [b, terrains], counts of the tiles that generated frames showed first.
        """
        if video.shape != clip.video.shape or not 0 < context < video.shape[1]:
            raise ValueError(
                f"video {tuple(video.shape)} must have the shape of the clip {tuple(clip.video.shape)}, "
                f"and {context=} must leave frames to judge"
            )
        seen, true = self._tiles(video), self._tiles(clip.video)
        covered = _covered(_positions(clip), self.layout.view)
        known = covered[:, :, :context].any(2)
        before = torch.ones(video.shape[1], video.shape[1], device=video.device).tril(-1).bool()
        new = ~(covered & before[None, :, :, None, None]).any(2)
        new[:, :context] = False
        wrong = (seen.terrain != true.terrain) & known
        object_error = wrong.sum((2, 3)) / known.sum((2, 3))  # 0 / 0 is NaN, as wanted
        counts = torch.nn.functional.one_hot(seen.terrain, len(TERRAINS)) * new[..., None]
        return Measures(
            _judged(_action_error(seen.terrain, _positions(clip)), context),
            _judged(object_error, context),
            _judged(seen.valid.float().mean((2, 3)), context),
            {"terrain": counts.sum((1, 2, 3))},
        )

    def compare(self, generated: Measures, true: Measures) -> dict[str, float]:
        """How far the terrains newly shown are from the true ones, over all clips."""
        return {"terrain_distance": terrain_distance(generated, true)}

    def branch(
        self,
        state: Mapping[str, Shaped[np.ndarray, "n ..."]],
        actions: Float[np.ndarray, "n f 5"],
        chance: Float[np.ndarray, "n f 0"],
    ) -> tuple[UInt8[np.ndarray, "n f1 h w 3"], Mapping[str, Shaped[np.ndarray, "n f1 ..."]]]:
        """What follows from one saved frame of `n` walks under these actions: pictures and state from it on.

        `state` holds that frame's `map` and `position`, as `WorldMapReader` gives them; the maps are drawn again.
        """
        grids = np.stack([self.grid(index) for index in state["map"].tolist()])
        video, places = branch(grids, state["position"], actions.argmax(-1), self.layout.view, TEXTURES)
        return video, {"position": places, "map": np.repeat(state["map"][:, None], places.shape[1], axis=1)}

    def motion(self, video: Pixels) -> Float[Tensor, "b f 2"]:
        """The move of the view since the frame before, in tiles (column, row), that explains most tiles best."""
        terrain = self._tiles(video).terrain
        moves = torch.tensor(list(MOVES.values()), device=terrain.device)
        scores = torch.stack([_match(terrain, row, column, terrain.shape[-1]) for row, column in moves.tolist()], -1)
        moved = moves[scores.argmax(-1)].flip(-1).float()
        return torch.nn.functional.pad(moved, (0, 0, 1, 0))

    def _tiles(self, video: Pixels) -> _Tiles:
        tiles = rearrange(video, "b f c (i h) (j w) -> b f i j (c h w)", h=TILE, w=TILE).float() / 255
        errors = torch.stack([(tiles - t).square().mean(-1) for t in self._textures.to(video.device)], -1)
        error, terrain = errors.min(-1)
        return _Tiles(terrain, error <= VALID_MSE)

    def _all_walks(self) -> Iterator[tuple[str, Walks]]:
        first = 0
        for split, count in self.maps.items():
            source = generator(self.seed, f"walks of {split}")
            yield split, self._walks(source, np.arange(first, first + count), self.walks[split])
            first += count

    def _walks(self, source: np.random.Generator, maps: Int[np.ndarray, "m"], number: int) -> Walks:
        last = self.layout.map_tiles - self.layout.view
        moves = np.array(list(MOVES.values()))
        start = source.integers(last + 1, size=(number, 2))
        position, action = start, np.zeros(number, np.int64)
        actions = np.empty((number, self.length), np.int8)
        for frame in range(self.length):
            target = position[:, None] + moves
            legal = np.all((target >= 0) & (target <= last), axis=-1)
            drawn = np.where(legal, source.random(legal.shape), -1).argmax(1)
            repeat = (source.random(number) < self.stickiness) & legal[np.arange(number), action] & (frame > 0)
            action = np.where(repeat, action, drawn)
            actions[:, frame] = action
            position = position + moves[action]
        return Walks(source.choice(maps, number).astype(np.int32), start.astype(np.int32), actions)


def terrain_distance(generated: Measures, true: Measures) -> float:
    """Total-variation distance (0..1) between the terrains that generated and true frames newly show, over all clips.

    NaN where nothing new was shown.
    """
    counts = [measures.extra["terrain"].sum(0).double() for measures in (generated, true)]
    first, second = (count / count.sum() for count in counts)
    return float((first - second).abs().sum() / 2)


def _judged(values: Float[Tensor, "b f"], context: int) -> Float[Tensor, "b f"]:
    values = values.clone()
    values[:, :context] = torch.nan
    return values


def _positions(clip: Clip) -> Int[Tensor, "b f 2"]:
    if "position" in clip.truth:
        return clip.truth["position"]
    moves = torch.tensor(list(MOVES.values()), device=clip.condition.actions.device)
    return moves[clip.condition.actions[:, : clip.video.shape[1]].argmax(-1)].cumsum(1)


def _covered(position: Int[Tensor, "b f 2"], view: int) -> Bool[Tensor, "b f g i j"]:
    """Whether the place that frame f shows at tile (i, j) lies in the view of frame g."""
    offset = position[:, :, None] - position[:, None]
    place = torch.arange(view, device=position.device) + offset[..., None]
    inside = (place >= 0) & (place < view)
    return inside[..., 0, :, None] & inside[..., 1, None, :]


def _action_error(terrain: Int[Tensor, "b f i j"], position: Int[Tensor, "b f 2"]) -> Float[Tensor, "b f"]:
    view = terrain.shape[-1]
    moves = torch.tensor(list(MOVES.values()), device=terrain.device)
    scores = torch.stack([_match(terrain, row, column, view) for row, column in moves.tolist()], -1)
    best = scores == scores.amax(-1, keepdim=True)
    wanted = (position.diff(dim=1)[:, :, None] == moves).all(-1)
    error = (~(best & wanted).any(-1)).float()
    error[(best & wanted).any(-1) & (best.sum(-1) > 1)] = torch.nan
    return torch.nn.functional.pad(error, (1, 0), value=torch.nan)


def _match(terrain: Int[Tensor, "b f i j"], row: int, column: int, view: int) -> Float[Tensor, "b steps"]:
    """Share of equal tiles where the view moved by (row, column) overlaps the view before."""
    before = terrain[:, :-1, max(row, 0) : view + min(row, 0), max(column, 0) : view + min(column, 0)]
    after = terrain[:, 1:, max(-row, 0) : view - max(row, 0), max(-column, 0) : view - max(column, 0)]
    return (before == after).double().mean((2, 3))


def _smooth(noise: Float[np.ndarray, "h w"], sigma: float) -> Float[np.ndarray, "h w"]:
    """Gaussian smoothing on a torus."""
    rows, columns = (np.fft.fftfreq(size)[:, None] for size in noise.shape)
    decay = np.exp(-2 * (np.pi * sigma) ** 2 * (rows**2 + columns.T**2))
    return np.fft.ifft2(np.fft.fft2(noise) * decay).real


def _quantiles(field: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Every value's rank in (0, 1), so that each terrain covers a set share of every map."""
    return ((field.ravel().argsort().argsort() + 0.5) / field.size).reshape(field.shape)
