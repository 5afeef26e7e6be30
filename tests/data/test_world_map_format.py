"""World maps survive the disk, and damaged ones are refused by name before work starts."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wm_lightning.data.formats.world_map import MOVES, Layout, Walks, WorldMapReader, map_path, paint, write_world_map
from wm_lightning.data.worldmap import WorldMapDataModule
from wm_lightning.worlds.world_map import TEXTURES, WorldMap

Damage = Callable[[Path], None]


@pytest.fixture
def folder(tmp_path: Path, make_world: Callable[..., WorldMap]) -> Path:
    make_world().write(tmp_path / "root", lambda steps: None)
    return tmp_path / "root"


def reader(folder: Path, split: str = "train", action_shift: int = 1, cached_maps: int = 4) -> WorldMapReader:
    return WorldMapReader(folder, split, action_shift=action_shift, cached_maps=cached_maps)


def write_one(folder: Path, layout: Layout, actions: list[int], start: tuple[int, int]) -> np.ndarray:
    """One random map with one walk; returns the map's pixels."""
    grid = np.random.default_rng(0).integers(6, size=(layout.map_tiles,) * 2).astype(np.uint8)
    walk = Walks(np.zeros(1, np.int32), np.array([start], np.int32), np.array([actions], np.int8))
    write_world_map(folder, layout, TEXTURES, [grid], {"train": walk}, lambda steps: None)
    return paint(grid, TEXTURES)


@pytest.mark.parametrize("action", MOVES)
def test_an_action_shifts_the_next_frame_by_exactly_one_tile(
    tmp_path: Path, make_world: Callable[..., WorldMap], action: str
) -> None:
    number = list(MOVES).index(action)
    write_one(tmp_path / "root", make_world().layout, [0, number, number, 0, 0], (5, 5))
    episode = reader(tmp_path / "root").read(0, 0, 5)
    assert episode.actions.argmax(1)[1:].tolist() == [0, number, number, 0]
    row, column = (4 * step for step in MOVES[action])
    for frame in (2, 3):
        before, after = episode.video[frame - 1], episode.video[frame]
        old = before[:, max(row, 0) : 24 + min(row, 0), max(column, 0) : 24 + min(column, 0)]
        new = after[:, max(-row, 0) : 24 + min(-row, 0), max(-column, 0) : 24 + min(-column, 0)]
        assert np.array_equal(old, new)
        assert np.array_equal(before, after) == (action == "stay")


def test_frames_are_the_crops_of_the_map(tmp_path: Path, make_world: Callable[..., WorldMap]) -> None:
    pixels = write_one(tmp_path / "root", make_world().layout, [2, 4, 4, 1], (3, 7))
    episode = reader(tmp_path / "root").read(0, 0, 4)
    positions = [(3, 7), (3, 8), (4, 8), (5, 8)]
    assert episode.truth["position"].tolist() == [list(p) for p in positions]
    for frame, (row, column) in zip(episode.video, positions, strict=True):
        assert np.array_equal(frame.transpose(1, 2, 0), pixels[4 * row : 4 * row + 24, 4 * column : 4 * column + 24])


def test_moves_beyond_the_border_are_clamped(tmp_path: Path, make_world: Callable[..., WorldMap]) -> None:
    write_one(tmp_path / "root", make_world().layout, [1, 3, 4, 2], (0, 0))
    assert reader(tmp_path / "root").read(0, 0, 4).truth["position"].tolist() == [[0, 0], [0, 0], [0, 0], [1, 0]]


def test_part_of_an_episode_equals_the_episode(folder: Path) -> None:
    walks = reader(folder)
    whole = walks.read(3, 0, 20)
    part = walks.read(3, 7, 12)
    assert np.array_equal(part.video, whole.video[7:12])
    assert np.array_equal(part.actions, whole.actions[7:12])
    assert np.array_equal(part.state, whole.state[7:12])


def test_the_shift_moves_actions_only(folder: Path) -> None:
    late, now = reader(folder, action_shift=1).read(0, 0, 20), reader(folder, action_shift=0).read(0, 0, 20)
    assert np.array_equal(late.video, now.video)
    assert np.array_equal(late.actions[1:], now.actions[:-1])


def test_a_small_cache_reads_the_same(folder: Path) -> None:
    small, large = reader(folder, cached_maps=1), reader(folder)
    for episode in range(20):
        assert np.array_equal(small.read(episode, 0, 20).video, large.read(episode, 0, 20).video)
    assert len(small._views) == 1
    assert len(large._views) == 3


def truncate(name: str, share: float) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    return damage


def walks(**changes: Callable[[np.ndarray], np.ndarray | None]) -> Damage:
    """Rewrites train.npz with arrays changed, or left out where the change gives None."""

    def damage(folder: Path) -> None:
        with np.load(folder / "train.npz") as file:
            arrays = {key: changes.get(key, lambda a: a)(file[key]) for key in file.files}
        np.savez(folder / "train.npz", **{key: a for key, a in arrays.items() if a is not None})  # pyright: ignore

    return damage


def world(**changes: object) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "world.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def picture(name: str, mode: str, size: tuple[int, int]) -> Damage:
    return lambda folder: Image.new(mode, size).save(folder / name)


def emptied(path: Path) -> None:
    path.write_text("[]")


def remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def with_nan(actions: np.ndarray) -> np.ndarray:
    actions = actions.astype(np.float32)
    actions[0, 0] = np.nan
    return actions


FAULTS: dict[str, tuple[Damage, str]] = {
    "map cut in half": (truncate("maps/0001.png", 0.5), r"0001\.png cannot be read"),
    "map cut by a byte of data": (truncate("maps/0001.png", 0.9), r"0001\.png cannot be read"),
    "map empty": (truncate("maps/0001.png", 0), r"0001\.png cannot be read"),
    "map missing": (remove("maps/0001.png"), r"0001\.png is missing"),
    "map of another size": (picture("maps/0001.png", "RGB", (64, 60)), r"0001\.png is .*60, 64.*64, 64.* is expected"),
    "map grey": (picture("maps/0001.png", "L", (64, 64)), r"0001\.png is \('L'.*is expected"),
    "walks missing": (remove("train.npz"), r"train\.npz is missing"),
    "walks cut": (truncate("train.npz", 0.7), r"train\.npz cannot be read"),
    "walks empty": (truncate("train.npz", 0), r"train\.npz cannot be read"),
    "array missing": (walks(start=lambda a: None), r"train\.npz lacks \['start'\]"),
    "actions float": (walks(actions=lambda a: a.astype(np.float32)), r"actions is float32.*int8"),
    "actions NaN": (walks(actions=with_nan), r"actions is float32.*int8"),
    "actions pickled": (walks(actions=lambda a: a.astype(object)), r"train\.npz cannot be read"),
    "actions one-hot": (
        walks(actions=lambda a: np.eye(5, dtype=np.int8)[a]),
        r"actions is int8 \(20, 20, 5\); int8 \[n, t\]",
    ),
    "action unknown": (walks(actions=lambda a: a + np.int8(1)), r"actions spans 1\.\.5, 0\.\.4 is expected"),
    "lengths differ": (walks(start=lambda a: a[1:]), r"'start': \(19, 2\), .* with one n are expected"),
    "start of one column": (walks(start=lambda a: a[:, :1]), r"'start': \(20, 1\), .* are expected"),
    "no walks": (walks(actions=lambda a: a[:0], map=lambda a: a[:0], start=lambda a: a[:0]), "not empty, is expected"),
    "start off the map": (walks(start=lambda a: a + np.int32(9)), r"start spans .* 0\.\.10 is expected"),
    "map index negative": (walks(map=lambda a: a - np.int32(1)), r"map spans -1"),
    "map index unknown": (walks(map=lambda a: a + np.int32(90)), r"0090\.png is missing"),
    "world.json missing": (remove("world.json"), r"world\.json does not describe"),
    "world.json cut": (truncate("world.json", 0.5), r"world\.json does not describe"),
    "world.json key": (world(tiles=4), r"world\.json does not describe.*tiles"),
    "world.json type": (world(tile="4"), r"world\.json does not describe"),
    "world.json list": (lambda folder: emptied(folder / "world.json"), r"world\.json does not describe"),
    "world.json format": (world(format=2), r"world\.json: format 1"),
    "world.json vast": (world(map_tiles=10**20), r"world\.json: sizes above 0 and view <= map_tiles"),
    "world.json view": (world(view=99), r"world\.json: sizes above 0 and view <= map_tiles"),
    "textures changed": (picture("terrain.png", "RGB", (24, 4)), r"terrain\.png holds other textures"),
    "textures missing": (remove("terrain.png"), r"terrain\.png cannot be read"),
    "other tile": (world(tile=2), r"terrain\.png is .* is expected"),
    "other terrains": (world(terrains=["a", "b", "c", "d", "e", "f"]), r"world\.json: terrains is .* data\.world has"),
    "split leaks": (walks(map=lambda a: np.full_like(a, 3)), "map 3 serves train and val, which must share none"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damage_is_named_with_what_to_do(
    folder: Path, make_data: Callable[..., WorldMapDataModule], fault: str
) -> None:
    damage, message = FAULTS[fault]
    make_data(root=str(folder)).prepare_data()  # whole before, so that the error is the damage's
    damage(folder)
    with pytest.raises(ValueError, match=message) as caught:
        make_data(root=str(folder)).prepare_data()
    assert str(folder) in str(caught.value)
    assert any(advice in str(caught.value) for advice in ("restore the file", "data.root=null", "remove its walks"))


def test_the_map_file_is_lossless(folder: Path, make_world: Callable[..., WorldMap]) -> None:
    for index in range(3):
        with Image.open(map_path(folder, index)) as image:
            assert np.array_equal(np.asarray(image), paint(make_world().grid(index), TEXTURES))
