import wm_lightning  # noqa: F401, I001  (before lightning: it makes a CPU torch and torchvision agree)

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wm_lightning.clip import Clip
from wm_lightning.data.formats.world_map import MOVES
from wm_lightning.data.worldmap import WorldMapDataModule
from wm_lightning.worlds.world import Measures
from wm_lightning.worlds.world_map import TERRAINS, TEXTURES, VALID_MSE, WorldMap, terrain_distance

ACTIONS = list(MOVES)
CONTEXT = 2


def make_world(**changes: Any) -> WorldMap:
    settings: dict[str, Any] = dict(seed=0, map_tiles=32, view=6, smoothness=2.0, stickiness=0.6, length=17)
    settings |= dict(maps=dict(train=2, val=2, test=8), walks=dict(train=4, val=4, test=64))
    return WorldMap(**(settings | changes))


@pytest.fixture(scope="module")
def world() -> WorldMap:
    return make_world()


@pytest.fixture(scope="module")
def clip(world: WorldMap, tmp_path_factory: pytest.TempPathFactory) -> Clip:
    data = WorldMapDataModule(
        world=world,
        cached_maps=8,
        root=None,
        cache_dir=str(tmp_path_factory.mktemp("cache")),
        frames=5,
        height=24,
        width=24,
        batch_size=1,
        train_batches=1,
        val_clips=2,
        val_frames=5,
        augment=None,
        num_workers=0,
        seed=0,
        action_shift=1,
    )
    data.prepare_data()
    return next(data.clips("test", 64, 17, 64))


def defined(values: torch.Tensor) -> torch.Tensor:
    return values[~values.isnan()]


def test_the_mean_of_two_textures_is_no_terrain() -> None:
    pictures = TEXTURES.astype(np.float64) / 255
    for first in range(6):
        for second in range(first):
            mean = (pictures[first] + pictures[second]) / 2
            assert all(((mean - picture) ** 2).mean() > VALID_MSE for picture in pictures)


def test_terrain_is_coherent_and_every_kind_occurs(world: WorldMap) -> None:
    grids = np.stack([world.grid(index) for index in range(8)])
    shares = np.bincount(grids.ravel(), minlength=6) / grids.size
    assert (shares > 0.02).all() and (shares < 0.5).all()
    assert (grids[:, 1:] == grids[:, :-1]).mean() > (shares**2).sum() + 0.3


def test_a_map_depends_on_seed_and_index_alone(world: WorldMap) -> None:
    assert np.array_equal(world.grid(5), make_world(length=3).grid(5))
    assert not np.array_equal(world.grid(5), world.grid(6))
    assert not np.array_equal(world.grid(5), make_world(seed=1).grid(5))


def test_walks_are_legal_sticky_and_use_every_action() -> None:
    world = make_world(map_tiles=12, walks=dict(train=4000, val=1, test=1))
    walks = dict(world._all_walks())["train"]
    moves = np.array(list(MOVES.values()))[walks.actions]
    positions = walks.start[:, None] + moves.cumsum(1)
    assert positions.min() == 0 and positions.max() == 12 - 6
    inner = ((positions[:, :-1] > 0) & (positions[:, :-1] < 6)).all(-1)
    repeated = (walks.actions[:, 1:] == walks.actions[:, :-1])[inner].mean()
    assert abs(repeated - (0.6 + 0.4 / 5)) < 0.01
    assert (np.bincount(walks.actions.ravel(), minlength=5) / walks.actions.size > 0.1).all()


def test_the_truth_is_without_fault(world: WorldMap, clip: Clip) -> None:
    measures = world.measure(clip.video, clip, CONTEXT)
    assert (defined(measures.action_error) == 0).all()
    assert (defined(measures.object_error) == 0).all()
    assert (defined(measures.presence) == 1).all()
    for values in (measures.action_error, measures.object_error, measures.presence):
        assert values[:, :CONTEXT].isnan().all()
    assert measures.action_error[:, CONTEXT:].isnan().float().mean() < 0.05
    assert not measures.presence[:, CONTEXT:].isnan().any()
    assert terrain_distance(measures, measures) == 0


def test_the_truth_is_recognised_without_hidden_state(world: WorldMap, clip: Clip) -> None:
    with_state, without = (world.measure(clip.video, c, CONTEXT) for c in (clip, replace(clip, truth={})))
    assert torch.equal(with_state.object_error.nan_to_num(7), without.object_error.nan_to_num(7))
    assert torch.equal(with_state.action_error.nan_to_num(7), without.action_error.nan_to_num(7))
    assert torch.equal(with_state.extra["terrain"], without.extra["terrain"])


def test_slight_noise_changes_no_verdict(world: WorldMap, clip: Clip) -> None:
    noise = torch.randint(-12, 13, clip.video.shape, generator=torch.Generator().manual_seed(0))
    noisy = (clip.video.int() + noise).clamp(0, 255).to(torch.uint8)
    clean, judged = (world.measure(video, clip, CONTEXT) for video in (clip.video, noisy))
    assert torch.equal(clean.object_error.nan_to_num(7), judged.object_error.nan_to_num(7))
    assert torch.equal(clean.action_error.nan_to_num(7), judged.action_error.nan_to_num(7))
    assert (defined(judged.presence) == 1).all()


def test_a_frozen_frame_fails_wherever_the_command_was_to_move(world: WorldMap, clip: Clip) -> None:
    frozen = clip.video[:, :1].expand_as(clip.video)
    error = world.measure(frozen, replace(clip, video=clip.video), 1).action_error[:, 1:]
    moved = clip.truth["position"].diff(dim=1).any(-1)
    assert torch.equal(error[~error.isnan()].bool(), moved[~error.isnan()])
    assert 0.5 < defined(error).mean() < 1


def test_reversed_moves_are_all_wrong(world: WorldMap, clip: Clip) -> None:
    moves = (clip.truth["position"] - clip.truth["position"][:, :1]) * -1
    other = replace(clip, truth={"position": clip.truth["position"][:, :1] + moves})
    error = world.measure(clip.video, other, 1).action_error[:, 1:]
    moved = clip.truth["position"].diff(dim=1).any(-1)
    assert torch.equal(error[~error.isnan()].bool(), moved[~error.isnan()])


def test_a_uniform_picture_tells_no_motion(world: WorldMap, clip: Clip) -> None:
    water = torch.from_numpy(np.tile(TEXTURES[0], (6, 6, 1)).transpose(2, 0, 1).copy())
    video = clip.video.clone()
    video[:, CONTEXT:] = water
    measures = world.measure(video, clip, CONTEXT)
    assert measures.action_error[:, CONTEXT + 1 :].isnan().all()
    assert defined(measures.object_error).mean() > 0.5


def test_a_blur_is_no_terrain(world: WorldMap, clip: Clip) -> None:
    mean = ((clip.video.float() + clip.video.roll(1, 0).float()) / 2).to(torch.uint8)
    same = (clip.video == clip.video.roll(1, 0)).float().mean()
    assert defined(world.measure(mean, clip, CONTEXT).presence).mean() < same + 0.1


def test_one_wrong_tile_counts_in_proportion(world: WorldMap, clip: Clip) -> None:
    still = torch.nonzero((clip.truth["position"] == clip.truth["position"][:, :1]).all(-1)[:, CONTEXT])[0].tolist()[0]
    video = clip.video.clone()
    tile = video[still, CONTEXT, :, 4:8, 8:12]
    other = next(t for t in TEXTURES if not np.array_equal(t.transpose(2, 0, 1), tile.numpy()))
    video[still, CONTEXT, :, 4:8, 8:12] = torch.from_numpy(other.transpose(2, 0, 1).copy())
    measures = world.measure(video, clip, CONTEXT)
    assert measures.object_error[still, CONTEXT].item() == pytest.approx(1 / 36)
    video[still, CONTEXT, :, 4:8, 8:12] = 128
    assert world.measure(video, clip, CONTEXT).presence[still, CONTEXT].item() == pytest.approx(35 / 36)


def test_only_what_the_context_showed_is_held_against_a_frame(world: WorldMap, clip: Clip) -> None:
    """Wrong terrain outside the field of the context changes the histogram and nothing else."""
    position = clip.truth["position"]
    place = position[:, :, None, None] + torch.stack(torch.meshgrid(*[torch.arange(6)] * 2, indexing="ij"), -1)
    field = [
        (place >= p[:, None, None, None]) & (place < p[:, None, None, None] + 6) for p in position[:, :2].unbind(1)
    ]
    unknown = ~(field[0].all(-1) | field[1].all(-1))
    mask = unknown.repeat_interleave(4, 2).repeat_interleave(4, 3)[:, :, None]
    water = torch.from_numpy(np.tile(TEXTURES[0], (6, 6, 1)).transpose(2, 0, 1).copy())
    video = torch.where(mask, water, clip.video)
    truth, judged = (world.measure(v, clip, CONTEXT) for v in (clip.video, video))
    assert (defined(judged.object_error) == 0).all()
    assert torch.equal(judged.object_error.isnan(), ~(~unknown[:, :]).any((2, 3)) | (torch.arange(17) < CONTEXT))
    counts = judged.extra["terrain"]
    assert torch.equal(counts.sum(1), truth.extra["terrain"].sum(1))
    assert (counts[:, 1:] == 0).all() and counts[:, 0].sum() > 0
    share = truth.extra["terrain"].sum(0) / truth.extra["terrain"].sum()
    assert terrain_distance(judged, truth) == pytest.approx(1 - share[0].item(), abs=1e-6)


def test_a_tile_is_counted_once_however_often_it_is_shown(world: WorldMap, clip: Clip) -> None:
    counts = world.measure(clip.video, clip, CONTEXT).extra["terrain"].sum(1)
    for row, positions in enumerate(clip.truth["position"].tolist()):
        shown = [{(y + i, x + j) for i in range(6) for j in range(6)} for y, x in positions]
        assert counts[row] == len(set.union(*shown) - set.union(*shown[:CONTEXT]))


def test_measures_of_batches_join(world: WorldMap, clip: Clip) -> None:
    whole = world.measure(clip.video, clip, CONTEXT)
    joined = Measures.cat([world.measure(c.video, c, CONTEXT) for c in (clip[slice(0, 20)], clip[slice(20, 64)])])
    assert torch.equal(whole.extra["terrain"], joined.extra["terrain"])
    assert torch.equal(whole.presence.nan_to_num(7), joined.presence.nan_to_num(7))


def test_wrong_shapes_are_refused(world: WorldMap, clip: Clip) -> None:
    with pytest.raises(ValueError, match="must have the shape of the clip"):
        world.measure(clip.video[:, 1:], clip, 1)
    for context in (0, 17):
        with pytest.raises(ValueError, match=f"{context=} must leave frames to judge"):
            world.measure(clip.video, clip, context)


def test_names_are_the_action_columns(world: WorldMap) -> None:
    assert list(world.spec.names) == ACTIONS == ["stay", "left", "right", "up", "down"]
    assert world.spec.kind == "discrete"
    assert world.layout.terrains == tuple(terrain.name for terrain in TERRAINS)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("maps", dict(train=1, val=1), "must both count train, val and test"),
        ("walks", dict(train=0, val=1, test=1), "must be above 0"),
        ("view", 40, "must lie between 2 and"),
        ("stickiness", 1.5, r"is not a probability"),
    ],
)
def test_wrong_settings_are_refused(key: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_world(**{key: value})


def test_size_is_an_upper_estimate(world: WorldMap, tmp_path: Path) -> None:
    world.write(tmp_path / "root", lambda steps: None)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < world.size
