import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from wm_lightning.clip import Clip
from wm_lightning.data.worldmap import WorldMapDataModule
from wm_lightning.worlds.world_map import WorldMap

MakeData = Callable[..., WorldMapDataModule]


def test_simulated_data_say_so_also_when_read_as_root(data: WorldMapDataModule, make_data: MakeData) -> None:
    assert data.simulated
    assert data.name == "simulated-worldmap"
    assert data.folder.name.startswith("simulated-worldmap-")
    assert make_data(root=str(data.folder)).name == "simulated-worldmap"


def test_a_root_without_the_marker_is_real(
    data: WorldMapDataModule, make_data: MakeData, make_world: Callable[..., WorldMap], tmp_path: Path
) -> None:
    make_world().write(tmp_path / "recorded", lambda steps: None)
    real = make_data(root=str(tmp_path / "recorded"))
    real.prepare_data()
    assert not real.simulated
    assert real.name == "worldmap"
    clips = [next(d.clips("test", 4, 6, 4)) for d in (data, real)]
    assert torch.equal(clips[0].video, clips[1].video)


def test_batches_are_clips(data: WorldMapDataModule) -> None:
    data.setup("fit")
    clip = next(iter(data.train_dataloader()))
    assert isinstance(clip, Clip)
    assert clip.video.shape == (3, 5, *data.frame_shape) and clip.video.dtype == torch.uint8
    assert clip.condition.actions.shape == (3, 5, data.spec.dim)
    assert clip.condition.actions.dtype == torch.float32 and clip.condition.state.dtype == torch.int64
    assert not clip.truth
    validation = next(iter(data.val_dataloader()))
    assert validation.video.shape[1] == 7
    assert validation.truth["position"].shape == (4, 7, 2)  # validation takes pairs of clips


def test_evaluation_clips_are_fixed_and_complete(data: WorldMapDataModule, make_data: MakeData) -> None:
    first = list(data.clips("test", 8, 6, 3))
    assert [len(clip) for clip in first] == [3, 3, 2]
    again = list(make_data().clips("test", 8, 6, 8))
    assert torch.equal(Clip.cat(first).video, again[0].video)
    assert again[0].index.tolist() == list(range(8))


def test_splits_share_no_map(data: WorldMapDataModule) -> None:
    maps = [set(data.open_split(data.folder, split).maps) for split in ("train", "val", "test")]
    assert maps[0] | maps[1] | maps[2] == set(range(7))
    assert sum(map(len, maps)) == 7


def test_manifest_counts_and_its_hash_follows_the_content(
    data: WorldMapDataModule, make_data: MakeData, make_world: Callable[..., WorldMap], tmp_path: Path
) -> None:
    assert data.manifest["splits"]["train"] == {"episodes": 20, "frames": 400}
    copy = shutil.copytree(data.folder, tmp_path / "copy")
    assert make_data(root=str(copy)).manifest["hash"] == data.manifest["hash"]
    path = copy / "val.npz"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert make_data(root=str(copy)).content_hash() != data.manifest["hash"]
    other = make_data(world=make_world(seed=1))
    other.prepare_data()
    assert other.manifest["hash"] != data.manifest["hash"]
    assert other.folder != data.folder


def test_the_same_settings_give_the_same_bytes(data: WorldMapDataModule, tmp_path: Path, make_data: MakeData) -> None:
    again = make_data(cache_dir=str(tmp_path / "elsewhere"))
    again.prepare_data()
    assert again.folder.name == data.folder.name
    assert again.manifest["hash"] == data.manifest["hash"]


def test_a_root_that_is_not_there_is_never_replaced(make_data: MakeData, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.root=.*missing is not a folder; .* null to simulate"):
        make_data(root=str(tmp_path / "missing")).prepare_data()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"data\.root=.*empty is empty; .* null to simulate"):
        make_data(root=str(tmp_path / "empty")).prepare_data()
    assert not (tmp_path / "cache").exists()


def test_reading_before_preparing_is_refused(make_data: MakeData) -> None:
    with pytest.raises(ValueError, match=r"call prepare_data\(\) first"):
        make_data().setup("fit")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("height", 32, "must be the view of the world map, 24 pixels"),
        ("frames", 1, r"data\.frames=1 is too small"),
        ("train_batches", 0, r"data\.train_batches=0 is too small"),
        ("num_workers", -1, r"data\.num_workers=-1 is too small"),
    ],
)
def test_wrong_settings_are_refused_at_once(make_data: MakeData, key: str, value: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_data(**{key: value})


def test_clips_longer_than_the_walks_are_refused(make_data: MakeData) -> None:
    data = make_data(frames=21)
    data.prepare_data()
    with pytest.raises(ValueError, match=r"no episode has 21 frames \(the longest of 20 has 20\)"):
        data.train_dataloader()


def test_unknown_split_is_refused(data: WorldMapDataModule) -> None:
    with pytest.raises(ValueError, match="split='validation' is not one of"):
        next(data.clips("validation", 1, 5, 1))
