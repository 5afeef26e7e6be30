"""One large map: crops are cut where the truth says, moves are clamped, and no pixel serves two splits."""

import wm_lightning  # noqa: F401, I001  (before lightning: it makes a CPU torch and torchvision agree)

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from wm_lightning.clip import ActionState
from wm_lightning.data.formats.map_image import MAP, MOVES, UNSEEN, Band, bands, read_map
from wm_lightning.data.map_image import MapImageDataModule
from wm_lightning.worlds.map_image import MapImage

SHARES = dict(train=0.5, val=0.2, test=0.3)


def make_data(cache: Path, **changes: Any) -> MapImageDataModule:
    world = MapImage(seed=0, unseen_seed=1, height=64, width=320, towns=6, rivers=10, signs=40)
    settings: dict[str, Any] = dict(
        world=world, shift=4, guard=40, bands=SHARES, test_map="band", walks=dict(train=40, val=20, test=200),
        lengths=dict(train=2, val=2, test=13), root=None, cache_dir=str(cache), frames=2, height=16, width=24,
        batch_size=4, train_batches=3, val_clips=4, val_frames=2, num_workers=0, seed=0, action_shift=1, augment=None,
    )  # fmt: skip
    return MapImageDataModule(**(settings | changes))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def data(cache: Path) -> MapImageDataModule:
    module = make_data(cache)
    module.prepare_data()
    return module


def test_crops_are_those_of_the_map(data: MapImageDataModule) -> None:
    pixels = torch.from_numpy(read_map(data.folder / MAP))
    clip = next(data.clips("test", 50, 13, 50))
    assert clip.video.shape == (50, 13, 3, 16, 24) and data.name == "simulated-mapimage"
    for number in range(0, 50, 7):
        for frame in (0, 5, 12):
            y, x = clip.truth["position"][number, frame].tolist()
            assert torch.equal(clip.video[number, frame], pixels[:, y : y + 16, x : x + 24])


def test_an_action_moves_the_crop_or_is_clamped_at_the_border(data: MapImageDataModule) -> None:
    clip = next(data.clips("test", 200, 13, 200))
    given = clip.condition.state == int(ActionState.GIVEN)
    assert given[:, 1:].all() and not given[:, 0].any()
    commanded = 4 * torch.tensor(list(MOVES.values()))[clip.condition.actions[:, 1:].argmax(-1)]
    moved = clip.truth["position"].diff(dim=1)
    whole = (moved == commanded).all(-1)
    assert 0.7 < whole.float().mean() < 1, "no walk of these reached a border, or all stand at one"
    short = moved[~whole].abs().sum(-1)
    assert (short < 4).all() and (moved * commanded >= 0).all()


def test_no_pixel_serves_two_splits(data: MapImageDataModule) -> None:
    reach = {}
    for split, frames in (("train", 2), ("val", 2), ("test", 13)):
        reader = data.reader(split)
        columns = np.concatenate([reader.read(e, 0, frames).truth["position"][:, 1] for e in range(len(reader))])
        reach[split] = (columns.min(), columns.max() + 24)
    assert reach["val"][0] - reach["train"][1] >= 40 and reach["test"][0] - reach["val"][1] >= 40
    assert reach["test"][1] <= 320


def test_bands_fill_the_map_but_for_the_guards() -> None:
    found = bands(320, SHARES, 40)
    assert found == {"train": Band(0, 120), "val": Band(160, 208), "test": Band(248, 320)}


def test_the_same_settings_give_the_same_walks_and_splits_differ(data: MapImageDataModule, cache: Path) -> None:
    first, again = (next(module.clips("test", 20, 13, 20)) for module in (data, make_data(cache)))
    assert torch.equal(first.video, again.video)
    offsets = [data.reader(split).read(0, 0, 2).actions.tolist() for split in ("train", "val", "test")]
    starts = [data.reader(split).read(0, 0, 2).truth["position"][0, 0] for split in ("train", "val", "test")]
    assert len({str(value) for value in (*offsets, *starts)}) > 2


def test_the_unseen_map_is_another_one(data: MapImageDataModule, cache: Path) -> None:
    unseen = make_data(cache, test_map="unseen")
    clip = next(unseen.clips("test", 20, 2, 20))
    assert unseen.folder == data.folder, "both maps are painted at once"
    y, x = clip.truth["position"][3, 1].tolist()
    maps = [torch.from_numpy(read_map(data.folder / name))[:, y : y + 16, x : x + 24] for name in (UNSEEN, MAP)]
    assert torch.equal(clip.video[3, 1], maps[0]) and not torch.equal(*maps)
    assert int(clip.truth["position"][..., 1].min()) < bands(320, SHARES, 40)["test"].left


def test_a_picture_of_ones_own_is_real_and_needs_no_second_map(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 400, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / MAP)
    own = make_data(tmp_path / "cache", root=str(tmp_path))
    own.prepare_data()
    assert (own.name, own.simulated) == ("mapimage", False)
    with pytest.raises(ValueError, match=r"unseen_map\.png is missing; data\.root names a folder with"):
        make_data(tmp_path / "cache", root=str(tmp_path), test_map="unseen").prepare_data()


@pytest.mark.parametrize("kind", ["grey", "torn", "text", "small"])
def test_a_picture_that_cannot_be_used_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    path = tmp_path / MAP
    pixels = np.random.default_rng(0).integers(0, 256, (64, 400, 3), np.uint8)
    Image.fromarray(pixels[..., 0] if kind == "grey" else pixels[:18] if kind == "small" else pixels).save(path)
    if kind == "torn":
        path.write_bytes(path.read_bytes()[:2000])
    if kind == "text":
        path.write_text("no picture")
    before = path.read_bytes()
    said = r"does not fit; use a larger map" if kind == "small" else r"cannot be used as a map"
    with pytest.raises(ValueError, match=rf"world_map\.png.*{said}"):
        make_data(tmp_path / "cache", root=str(tmp_path)).prepare_data()
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"guard": 27}, "less than a crop and its move, 28 pixels"),
        ({"shift": 16}, r"data\.shift=16 must be above 0 and below the crop"),
        ({"bands": {"train": 0.5, "val": 0.5}}, "must name train, val, test"),
        ({"bands": {"train": 0.5, "val": 0.2, "test": 0.4}}, "add up to 1"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], said: str, cache: Path) -> None:
    with pytest.raises(ValueError, match=said):
        make_data(cache, **changes).prepare_data()
