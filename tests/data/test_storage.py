"""Storage that fails, links to nowhere, folders in the place of files: faults of one episode, never a traceback."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Lock, current_thread, main_thread
from time import sleep

import numpy as np
import pytest

from tests.data.fault_sets import opened
from tests.data.fault_trial import LENIENT
from wm_lightning.data.formats import store_reader
from wm_lightning.data.formats.csgo import CSGOSource
from wm_lightning.data.formats.mp4_npz import Mp4NpzSource
from wm_lightning.data.formats.resize import Resize
from wm_lightning.data.formats.source import StoredEpisode
from wm_lightning.data.formats.store_reader import attempt, build_store, check_actions, read_all, split_key
from wm_lightning.data.formats.video_files import BadFile
from wm_lightning.data.formats.world_tasks import read_tasks, sound
from wm_lightning.data.source_datamodule import SourceDataModule


def nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "nowhere")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


FILES = {
    "mp4": "train/000000002.mp4", "own": "train/walk_2.mp4", "npz": "train_eps_00000002.npz",
    "csgo": "hdf5_dm_july2021_2.hdf5", "diamond": "train/000/00/2/2.pt", "recon": "jackal_2.hdf5",
    "folders": "jackal_2/3.jpg",
}  # fmt: skip


@pytest.mark.parametrize("put", [nowhere, folder])
@pytest.mark.parametrize("form", FILES)
def test_what_is_no_file_is_left_out(form: str, put: Callable[[Path], None], clean, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(clean(form).root, root)
    put(root / FILES[form])
    data = opened(root, form, tmp_path / "cache", *LENIENT)
    assert isinstance(data, SourceDataModule)
    ((path, reason),) = data.quarantined.items()
    assert "2" in Path(path).name or "jackal_2" in path, (path, reason)


@pytest.mark.parametrize("put", [nowhere, folder])
def test_a_shard_that_is_no_file_loses_its_episodes(put: Callable[[Path], None], clean, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(clean("rlds").root, root)
    put(next(root.glob("1.0.0/*-train.tfrecord-00000-*")))
    data = opened(root, "rlds", tmp_path / "cache", *LENIENT)
    assert len(data.quarantined) == 3


def test_a_picture_that_cannot_be_opened_loses_its_tasks(clean, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(clean("tasks").root, root)
    tasks = read_tasks(root)
    folder(root / tasks.rows[0].image)
    bad = sound(tasks, 1).bad
    assert bad and all("cannot be read" in error.reason for error in bad)


@pytest.mark.parametrize(
    "form", ["mp4", "own", "npz", "rlds", "lerobot3", "csgo", "tar", "diamond", "recon", "folders"]
)
def test_an_error_of_the_storage_is_a_fault_of_every_form(form: str, clean, tmp_path: Path, monkeypatch) -> None:
    data = opened(clean(form).root, form, tmp_path / "cache")
    assert isinstance(data, SourceDataModule)
    source = data.open_source("train")

    def broken(*args: object, **settings: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.open", broken)
        patch.setattr("pathlib.Path.read_bytes", broken)
        patch.setattr("pathlib.Path.stat", broken)
        patch.setattr("builtins.open", broken)
        patch.setattr("zipfile.ZipFile", broken)
        patch.setattr("numpy.load", broken)
        patch.setattr("h5py.File", broken)
        patch.setattr("pyarrow.parquet.read_table", broken)
        patch.setattr("os.scandir", broken)
        found = attempt(source, 0)
        plan = check_actions(source)
    assert isinstance(found, BadFile) and "Input/output error" in str(found)
    assert not plan.episodes and len(plan.bad) == len(source.names)


@pytest.mark.parametrize(
    "change",
    [{"resize": Resize("crop", 48, 48)}, {"resize": Resize("squash", 48, 32)}, {"decoder": "auto"}, {"trim": True}],
)
def test_the_key_of_a_store_hangs_on_how_files_are_read(change: dict, clean, tmp_path: Path) -> None:
    pytest.importorskip("decord")
    root = clean("mp4").root
    plain = opened(root, "mp4", tmp_path / "cache")
    before = {path.name for path in (tmp_path / "cache").glob("frames-*-train-*")}
    words = (
        [f"data.resize={change['resize'].policy}", f"data.width={change['resize'].width}"] if "resize" in change else []
    )
    words += ["data.decoder=auto"] if "decoder" in change else ["data.trim_tail=true"] if "trim" in change else []
    other = opened(root, "mp4", tmp_path / "cache", *words)
    after = {path.name for path in (tmp_path / "cache").glob("frames-*-train-*")}
    assert len(before) == 1 and len(after) == 2, "the frames of other settings were taken"
    assert plain.manifest["simulated"] == other.manifest["simulated"]


def test_the_key_of_a_store_hangs_on_the_order_of_colours(clean) -> None:
    root = clean("csgo").root
    keys = {split_key(CSGOSource(root, colours=colours), f"hdf5 {colours}") for colours in ("bgr", "rgb")}
    assert len(keys) == 2


def test_few_episodes_wait_in_memory_and_they_are_small(clean, tmp_path: Path, monkeypatch) -> None:
    source = Mp4NpzSource(clean("mp4").root / "train", decoder="pyav", trim_tail=False)
    many, started, lock = tuple(range(6)) * 8, [0], Lock()
    read = Mp4NpzSource.read

    def counted(self: Mp4NpzSource, episode: int) -> StoredEpisode:
        with lock:
            started[0] += 1
        return read(self, episode)

    monkeypatch.setattr(Mp4NpzSource, "read", counted)
    given = read_all(source, many, 2)
    assert isinstance(next(given).content, StoredEpisode)
    sleep(0.5)  # a taker that is slow
    assert started[0] == 2 * 2
    assert len(list(given)) == len(many) - 1 and started[0] == len(many)

    waiting = []
    shrink = store_reader.SmallEpisode.of

    def watched(episode: StoredEpisode, resize: Resize):
        waiting.append(current_thread() is main_thread())
        return shrink(episode, resize)

    monkeypatch.setattr(store_reader.SmallEpisode, "of", watched)
    resize = Resize("squash", 16, 16)
    build_store(tmp_path / "s", source, check_actions(source), resize, allowed=0, workers=2, report=lambda step: None)
    assert len(waiting) == 6 and not any(waiting), "the taker makes frames smaller"
    frames = np.load(tmp_path / "s/frames.npy")
    wanted = np.concatenate([resize(source.read(episode).video) for episode in range(6)])
    assert np.array_equal(frames, wanted)
