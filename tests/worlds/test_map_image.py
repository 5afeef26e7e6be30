"""The judge of a map in one picture: truth is faultless, kinds of error are told apart, baselines are what they say."""

import wm_lightning  # noqa: F401, I001  (before lightning: it makes a CPU torch and torchvision agree)

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.test_map_image import make_data
from wm_lightning.clip import Clip
from wm_lightning.data.formats.map_image import MAP, UNSEEN
from wm_lightning.worlds.map_image import MapImage, copy_shift
from wm_lightning.worlds.map_painting import Density, paint_map
from wm_lightning.worlds.world import OffersBaselines

DENSITY = Density(6, 10, 40)


def make_world() -> MapImage:
    return MapImage(seed=0, unseen_seed=1, height=64, width=320, towns=6, rivers=10, signs=40)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    data = make_data(tmp_path_factory.mktemp("cache"), height=24, width=24)
    data.prepare_data()
    return next(data.clips("test", 128, 3, 128))


def test_a_seed_paints_one_map_with_land_and_sea() -> None:
    first, again, other = (paint_map(seed, 96, 160, DENSITY) for seed in (0, 0, 1))
    assert first.shape == (96, 160, 3) and np.array_equal(first, again) and not np.array_equal(first, other)
    blue = (first[..., 2] > first[..., 0].astype(int) + 40).mean()
    assert 0.25 < blue < 0.65, "about half of a map is sea"


def test_both_maps_are_written(tmp_path: Path) -> None:
    steps: list[int] = []
    make_world().write(tmp_path, steps.append)
    maps = [np.asarray(Image.open(tmp_path / name)) for name in (MAP, UNSEEN)]
    assert steps == [1, 1] and not np.array_equal(*maps)


def test_the_truth_is_faultless_and_its_distance_is_the_floor(clip: Clip) -> None:
    world = make_world()
    true = world.measure(clip.video, clip, 1)
    assert true.action_error[:, 0].isnan().all() and not true.action_error.nansum()
    assert float((~true.action_error[:, 1:].isnan()).float().mean()) > 0.9, "moves cannot be told from the pixels"
    said = world.compare(true, true)
    assert said["overlap_error"] == said["strip_error"] == 0 and said["moves_told"] > 0.9
    assert said["frame_distance"] == pytest.approx(said["frame_floor"], abs=1e-9)


def test_copy_and_shift_has_the_overlap_and_not_the_strip(clip: Clip) -> None:
    world = make_world()
    assert isinstance(world, OffersBaselines)
    true, made = world.measure(clip.video, clip, 1), world.measure(copy_shift(clip, 1), clip, 1)
    assert float(made.object_error.nansum()) == 0 and float(made.action_error.nanmean()) < 0.02
    said = world.compare(made, true)
    assert 0.01 < said["strip_error"] < 0.3
    still = clip.video[:, :1].expand_as(clip.video).contiguous()
    held = world.measure(still, clip, 1)
    assert float(held.action_error.nanmean()) > 0.9 and float(held.object_error.nanmean()) > 0.03


def test_damage_is_found_where_it_is(clip: Clip) -> None:
    """Noise in the strip leaves the overlap's error alone, and the other way round."""
    world, frame = make_world(), 1
    moved = clip.truth["position"][:, frame] - clip.truth["position"][:, 0]
    down = (moved == torch.tensor([4, 0])).all(-1).nonzero()[:, 0].tolist()
    video = clip.video.clone()
    for row in down[:2]:
        video[row, frame, :, -4:] = 255 - video[row, frame, :, -4:]
    found = world.measure(video, clip, 1)
    assert all(float(found.extra["strip_error"][row, frame]) > 0.1 for row in down[:2])
    assert float(found.object_error[:, frame].nansum()) == 0
    video = clip.video.clone()
    video[down[0], frame, :, :8] = 255 - video[down[0], frame, :, :8]
    found = world.measure(video, clip, 1)
    assert float(found.object_error[down[0], frame]) > 0.05
    assert float(found.extra["strip_error"][:, frame].nansum()) == 0


def test_a_move_the_other_way_is_noticed(clip: Clip) -> None:
    world = make_world()
    mirrored = clip.video.clone()
    position = clip.truth["position"]
    for row in range(len(clip)):
        rows, columns = (position[row, 1] - position[row, 0]).tolist()
        mirrored[row, 1] = clip.video[row, 0].roll((rows, columns), (1, 2))  # the view moved back, not forth
    judged = world.measure(mirrored, clip, 1).action_error[:, 1]
    whole = (position[:, 1] - position[:, 0]).abs().sum(-1) > 2
    assert float(judged[whole].nanmean()) > 0.9


def test_single_frames_tell_noise_from_maps(clip: Clip) -> None:
    world = make_world()
    true = world.measure(clip.video, clip, 1)
    noise = torch.randint(0, 256, clip.video.shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    blurred = clip.video.float().mean((-1, -2), keepdim=True).expand_as(clip.video).to(torch.uint8).contiguous()
    distances = [world.compare(world.measure(v, clip, 1), true)["frame_distance"] for v in (clip.video, blurred, noise)]
    assert distances[0] < 0.1 * min(distances[1:]), distances


def test_wrong_shapes_and_seeds_are_refused(clip: Clip) -> None:
    with pytest.raises(ValueError, match="must have the shape of the clip"):
        make_world().measure(clip.video[:, :2], clip, 1)
    with pytest.raises(ValueError, match="so it would be seen"):
        MapImage(seed=1, unseen_seed=1, height=64, width=320, towns=1, rivers=1, signs=1)
