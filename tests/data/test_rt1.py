import wm_lightning  # noqa: F401, I001  (before lightning: it makes a CPU torch and torchvision agree)

import json
import os
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from wm_lightning.clip import ActionState
from wm_lightning.data import frame_cache
from wm_lightning.data.cache import MARKER
from wm_lightning.data.formats.mp4_npz import EpisodeFiles
from wm_lightning.data.rt1 import RT1DataModule
from wm_lightning.worlds.pusher import PusherWorld
from wm_lightning.worlds.pusher_measure import look

FIELDS = ("world_vector", "rotation_delta", "gripper_closedness_action", "base_displacement_vector")
BRIDGE = dict(zip((*FIELDS, "base_displacement_vertical_rotation"), (1.75, 1.4, 1.0, 1.0, 1.0), strict=True))


def make_world(**changes) -> PusherWorld:
    settings: dict = dict(seed=0, length=12, episodes=dict(train=5, val=2, test=3), pixels=64, fps=20, crf=18)
    settings |= dict(policies=dict(scripted=0.4, noisy=0.25, failing=0.1, random=0.25))
    return PusherWorld(**(settings | dict(reach=2.5 / 32, jump=0.042, workers=1) | changes))


def make_data(cache: Path, **changes) -> RT1DataModule:
    settings: dict = dict(world=make_world(), subset="pusher", bounds={"bridge": BRIDGE}, val_share=0.2)
    settings |= dict(test_share=0.2, format=None, order=None, image=None, resize="squash")
    settings |= dict(decoder="pyav", trim_tail=False, on_error="quarantine", max_bad_share=0.001, decode_workers=1)
    settings |= dict(latents=None, autoencoder=None, store="keep")
    settings |= dict(cache_gib=1.0, root=None, cache_dir=str(cache), frames=5, height=32, width=32, batch_size=3)
    settings |= dict(train_batches=4, val_clips=4, val_frames=7, num_workers=0, seed=0, action_shift=1, augment=None)
    return RT1DataModule(**(settings | changes))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the simulated pusher in it."""
    folder = tmp_path_factory.mktemp("cache")
    make_data(folder).prepare_data()
    return folder


@pytest.fixture
def real(tmp_path: Path, cache: Path) -> Path:
    """The simulated files posing as real ones: no marker, no hidden state, no validation folder."""
    root = tmp_path / "root"
    for split in ("train", "test"):
        source = make_data(cache).folder / "pusher" / split
        shutil.copytree(source, root / "bridge" / split, ignore=shutil.ignore_patterns("*.state.npz"))
    return root


def names(data: RT1DataModule, split: str) -> set[str]:
    reader = data._opened(split)
    return {reader.name(episode) for episode in range(len(reader))}


def test_without_a_root_the_pusher_is_simulated_once_and_says_so(cache: Path):
    data = make_data(cache)
    before = sorted(path.name for path in cache.iterdir())
    data.prepare_data()
    assert sorted(path.name for path in cache.iterdir()) == before, "a second start wrote something"
    assert all("simulated" in name for name in before) and "simulated" in data.name
    assert data.manifest["simulated"] and data.world is not None and not data.quarantined
    assert {split: entry["episodes"] for split, entry in data.manifest["splits"].items()} == dict(
        train=5, val=2, test=3
    )


def test_evaluation_clips_carry_truth_that_their_pixels_agree_with(cache: Path):
    (clip,) = make_data(cache).clips("test", 3, 9, 8)
    assert clip.video.shape == (3, 9, 3, 32, 32) and clip.video.dtype == torch.uint8
    assert (look(clip.video).gripper.place - clip.truth["gripper"]).norm(dim=-1).max() < 0.03
    assert all(len(value) == 3 and value.shape[1] == 9 for value in clip.truth.values())


def test_the_producing_action_moves_the_gripper_and_its_neighbours_do_not(cache: Path):
    clips = list(make_data(cache, batch_size=16, frames=9).clips("train", 12, 9, 12))
    motion = look(clips[0].video).gripper.place.diff(dim=1)
    actions = clips[0].condition.actions[..., :2] * 2.5 / 32
    error = {lag: (motion[:, 1:-1] - actions[:, 2 - lag : 9 - 1 - lag]).norm(dim=-1).mean() for lag in (-1, 0, 1)}
    assert error[0] < 0.7 * min(error[-1], error[1])


def test_training_batches_hold_no_truth_and_the_same_seed_repeats_them(cache: Path):
    first, again = (list(islice(make_data(cache).train_dataloader(), 3)) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert one.video.shape == (3, 5, 3, 32, 32) and not one.truth
        torch.testing.assert_close(one.video, other.video, rtol=0, atol=0)


def test_a_folder_without_validation_gives_some_training_episodes_to_it(real: Path, tmp_path: Path):
    data = make_data(tmp_path / "c", root=str(real), subset="bridge")
    data.prepare_data()
    train, val, test = (names(data, split) for split in ("train", "val", "test"))
    assert len(val) == 1 and len(train) == 4 and len(test) == 3
    assert not train & val and not train & test and not val & test
    assert data.world is None and not data.simulated and data.name == "bridge"
    assert all("real" in path.name for path in (tmp_path / "c").iterdir())
    larger = make_data(tmp_path / "c", root=str(real), subset="bridge", height=16, width=24)
    larger.prepare_data()
    assert names(larger, "val") == val, "the split hangs on the size of the pictures"
    assert larger.manifest["hash"] != data.manifest["hash"]


def test_one_training_episode_is_too_few_to_validate(real: Path, tmp_path: Path):
    for path in sorted((real / "bridge" / "train").iterdir())[2:]:
        path.unlink()
    with pytest.raises(ValueError, match=r"has 1 training episode.*val"):
        make_data(tmp_path / "c", root=str(real), subset="bridge").prepare_data()


def test_an_episode_in_two_splits_is_refused(real: Path, tmp_path: Path):
    source = EpisodeFiles.of(real / "bridge" / "train", "000000000")
    leak = EpisodeFiles.of(real / "bridge" / "test", "000000777")
    shutil.copy(source.video, leak.video)
    shutil.copy(source.actions, leak.actions)
    with pytest.raises(ValueError, match=r"000000777.*same as 000000000"):
        make_data(tmp_path / "c", root=str(real), subset="bridge").prepare_data()


def test_bad_files_are_refused_above_the_budget_and_reported_below(real: Path, tmp_path: Path):
    EpisodeFiles.of(real / "bridge" / "train", "000000003").video.write_bytes(b"x")
    settings = dict(root=str(real), subset="bridge")
    for strict in (dict(), dict(on_error="raise", max_bad_share=1.0)):
        with pytest.raises(ValueError, match=r"(?s)000000003.mp4.*data.on_error=quarantine data.max_bad_share=0.2"):
            make_data(tmp_path / "c", **settings, **strict).prepare_data()
    data = make_data(tmp_path / "c", **settings, max_bad_share=0.2)
    data.prepare_data()
    ((path, reason),) = data.manifest["quarantined"].items()
    assert path.endswith("000000003.mp4") and "decoded" in reason
    assert len(names(data, "train") | names(data, "val")) == 4
    with pytest.raises(ValueError, match="000000003"):  # a store that was built leniently does not excuse a strict run
        make_data(tmp_path / "c", **settings).prepare_data()


def test_nothing_left_is_refused_whatever_the_budget(real: Path, tmp_path: Path):
    for path in (real / "bridge" / "test").glob("*.mp4"):
        path.write_bytes(b"x")
    with pytest.raises(ValueError, match="all 3 episodes are unusable"):
        make_data(tmp_path / "c", root=str(real), subset="bridge", max_bad_share=1.0).prepare_data()


def test_a_changed_file_is_read_anew(real: Path, tmp_path: Path):
    settings = dict(root=str(real), subset="bridge")
    first = make_data(tmp_path / "c", **settings)
    first.prepare_data()
    files = EpisodeFiles.of(real / "bridge" / "test", min(names(first, "test")))
    actions = np.load(files.actions, allow_pickle=False)["arr_0"]
    np.savez(files.actions, 0.5 * actions)
    os.utime(files.actions, ns=(1, 1))
    second = make_data(tmp_path / "c", **settings)
    second.prepare_data()
    assert second.manifest["hash"] != first.manifest["hash"]
    np.testing.assert_allclose(
        second.reader("test").read(0, 0, 6).actions, 0.5 * first.reader("test").read(0, 0, 6).actions, atol=1e-6
    )


def test_a_simulated_folder_named_as_root_stays_simulated(cache: Path, tmp_path: Path):
    folder = make_data(cache).folder
    data = make_data(tmp_path / "c", root=str(folder))
    data.prepare_data()
    assert data.simulated and data.world is not None and "simulated" in data.name
    assert all("simulated" in path.name for path in (tmp_path / "c").iterdir())


def test_a_mark_below_the_root_counts_and_the_judge_asks_for_its_own_world(real: Path, tmp_path: Path):
    mark = real / "bridge" / MARKER
    assert not make_data(tmp_path / "c", root=str(real), subset="bridge").simulated
    for world, judged in (("pusher", True), ("pusher without hidden state", False)):
        mark.write_text(json.dumps({"world": world}))
        data = make_data(tmp_path / "c", root=str(real), subset="bridge")
        assert data.simulated and data.name == "simulated-bridge" and (data.world is not None) == judged


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subset": "bridge"}, "data.root=PATH"),
        ({"decoder": "vlc"}, "pyav"),
        ({"on_error": "ignore"}, "quarantine"),
        ({"max_bad_share": 2.0}, "share"),
        ({"val_share": 0.0}, "val_share"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        make_data(tmp_path, **changes)


def test_a_subset_without_bounds_is_told_where_to_give_them(real: Path, tmp_path: Path):
    (real / "bridge").rename(real / "fractal")
    with pytest.raises(ValueError, match=r"data.bounds.fractal to conf/data/rt1.yaml"):
        make_data(tmp_path / "c", root=str(real), subset="fractal").prepare_data()
    with pytest.raises(ValueError, match=r"data.root=.*nowhere is not a folder"):
        _ = make_data(tmp_path / "c", root=str(tmp_path / "nowhere"), subset="fractal").spec


def test_a_missing_subset_names_those_that_are_there(real: Path, tmp_path: Path):
    (real / "bridge").rename(real / "other")
    with pytest.raises(ValueError, match="other"):
        make_data(tmp_path / "c", root=str(real), subset="bridge").prepare_data()
    with pytest.raises(ValueError, match="not a folder"):
        make_data(tmp_path / "c", root=str(real / "nowhere"), subset="bridge").prepare_data()


def test_the_frame_cache_is_bounded_and_drops_what_was_long_unused(
    real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = dict(root=str(real), subset="bridge")
    make_data(tmp_path / "c", **settings).prepare_data()
    tight = 400 * 1024 / 2**30  # the first size takes 295 KiB, the second as much
    with pytest.raises(ValueError, match="data.cache_gib"):
        make_data(tmp_path / "c", **settings, height=30, cache_gib=tight).prepare_data()
    monkeypatch.setattr(frame_cache, "IN_USE_SECONDS", -1)
    make_data(tmp_path / "c", **settings, height=30, cache_gib=tight).prepare_data()
    left = [path.name for path in (tmp_path / "c").iterdir()]
    assert sum("30x32" in name for name in left) == 2 and len(left) < 4


def test_a_full_disk_is_said_before_anything_is_written(real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(frame_cache.shutil, "disk_usage", lambda path: full)
    with pytest.raises(ValueError, match="data.cache_dir="):
        make_data(tmp_path / "c", root=str(real), subset="bridge").prepare_data()
    assert not list((tmp_path / "c").iterdir())


@pytest.mark.real
def test_real_bridge_clips_are_read(tmp_path: Path):
    root = Path(os.environ.get("WM_REAL_DATA", "")) / "oxe_mp4"
    if "WM_REAL_DATA" not in os.environ or not (root / "bridge").is_dir():
        pytest.skip("no real Bridge clips: WM_REAL_DATA names no folder with oxe_mp4/bridge")
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    data = make_data(tmp_path, root=str(root), subset="bridge", frames=13, val_frames=13, val_clips=2)
    data.prepare_data()
    assert data.name == "bridge" and not data.simulated and data.world is None and not data.quarantined
    assert data.manifest["clipped_values"] == dict(train=0, val=0, test=0)
    assert not names(data, "train") & names(data, "val")
    (clip,) = data.clips("test", 1, 13, 1)
    assert clip.video.shape == (1, 13, 3, 32, 32) and clip.condition.actions.shape == (1, 13, 10) and not clip.truth
    # Motion follows the producing action better than the one taken two frames later.
    energy, later = [], []
    for episode in range(len(data.reader("train"))):
        whole = data.reader("train").read(episode, 0, data.reader("train").length(episode))
        assert whole.state[0] == ActionState.NONE
        moved = np.abs(np.diff(whole.video.astype(float), axis=0)).mean((1, 2, 3))
        size = np.linalg.norm(whole.actions[:, :6], axis=1)
        energy.append(np.corrcoef(moved[:-2], size[1:-2])[0, 1])
        later.append(np.corrcoef(moved[:-2], size[3:])[0, 1])
    assert np.mean(energy) > np.mean(later) + 0.1
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*")}
