"""Frames read from the recordings, window by window: the bits of a store, in any process, and faults found late."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from tests.data import fault_sets
from tests.data.fault_sets import SETS, opened, picture
from tests.data.fault_trial import LENIENT, trial
from tests.data.test_faults import FEW
from tests.tiny_run import NETWORK, QUIET, TRAINING
from wm_lightning.clip import Clip
from wm_lightning.config import compose
from wm_lightning.config_record import save_record
from wm_lightning.data.formats import tfrecord, video_parts
from wm_lightning.data.formats.direct import DAMAGED, FrameIndex
from wm_lightning.data.formats.source import EpisodeSource
from wm_lightning.data.formats.video_files import BadFile, decode
from wm_lightning.data.formats.video_parts import decode_part, first_picture
from wm_lightning.data.frame_cache import way_named
from wm_lightning.data.source_datamodule import SourceDataModule
from wm_lightning.tasks.build import build_card, build_data
from wm_lightning.tasks.fit import fit
from wm_lightning.worlds.faults.catalogue import inject

FORMS = [form for form in SETS if form not in ("tasks", "map")]
DIRECT = "data.store=direct"


def open_set(root: Path, form: str, cache: Path, *words: str) -> SourceDataModule:
    data = opened(root, form, cache, *words)
    assert isinstance(data, SourceDataModule)
    return data


def counted(monkeypatch: pytest.MonkeyPatch, source: type) -> list[str]:
    """What is read of episodes from now on."""
    seen: list[str] = []
    for name in ("actions", "read", "outline"):
        method = getattr(source, name)
        monkeypatch.setattr(source, name, lambda self, e, m=method, n=name: (seen.append(n), m(self, e))[1])
    walk = tfrecord.index_records
    monkeypatch.setattr(tfrecord, "index_records", lambda path: (seen.append("walk"), walk(path))[1])
    return seen


@pytest.mark.parametrize("form", FORMS)
def test_every_window_has_the_bits_of_the_store_and_the_index_is_made_once(
    form: str, clean, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = clean(form)
    data = open_set(made.root, form, tmp_path, DIRECT)
    assert not list(tmp_path.glob("frames-*")) and list(tmp_path.glob("index-*"))
    for split in ("train", "val", "test"):
        reader = data._opened(split)
        for episode in range(len(reader)):
            stored = split if split in data.stored_splits() else "train"
            whole, frames = made.served[f"{stored}/{reader.name(episode)}"], reader.length(episode)
            assert len(whole.video) == frames
            for start, stop in [(0, frames), (frames - 1, frames), *((k, k + 2) for k in range(frames - 1))]:
                found = reader.read(episode, start, stop)
                assert np.array_equal(found.video, whole.video[start:stop])
                assert np.array_equal(found.actions, whole.actions[start:stop])
    seen = counted(monkeypatch, type(data.open_source("train")))
    again = open_set(made.root, form, tmp_path, DIRECT)
    assert again.manifest["hash"] == data.manifest["hash"] and not seen, "a second start reads episodes again"
    shutil.rmtree(tmp_path)
    open_set(made.root, form, tmp_path, DIRECT)
    assert seen.count("outline") == 8, "each episode is read once"


def batches(data: SourceDataModule, workers: int, context: str | None = None) -> list[Clip]:
    data.num_workers = workers
    loader = data.train_dataloader()
    if context is not None:
        loader.multiprocessing_context = context
    return list(islice(loader, 4))


def equal(one: list[Clip], other: list[Clip]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(
        torch.equal(a.video, b.video) and torch.equal(a.condition.actions, b.condition.actions) for a, b in pairs
    )


FEW_BATCHES = ("data.batch_size=2", "data.train_batches=4")


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", ["mp4", "rlds", "csgo"])
def test_workers_give_what_one_process_gives(form: str, context: str, clean, tmp_path: Path) -> None:
    root = clean(form).root
    kept = batches(open_set(root, form, tmp_path, *FEW_BATCHES, "data.store=keep"), 0)
    data = open_set(root, form, tmp_path, *FEW_BATCHES, DIRECT)
    assert equal(batches(data, 0), kept), "frames read directly are others"
    assert equal(batches(data, 2, context), kept), "workers read others"
    other = open_set(root, form, tmp_path, *FEW_BATCHES, DIRECT, "data.seed=1")
    assert not equal(batches(other, 0), kept), "the order hangs on no seed"


def test_what_is_too_large_is_read_directly_and_said(clean, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root, bound = clean("mp4").root, "data.cache_gib=0.0001"
    with pytest.raises(ValueError, match="data.store=direct"):
        open_set(root, "mp4", tmp_path, "data.store=keep", bound)
    small = open_set(root, "mp4", tmp_path, "data.store=auto", bound)
    assert isinstance(small._stores["train"], FrameIndex)
    assert "need 0.00 GiB" in caplog.text and "data.cache_gib=0.0001 are allowed" in caplog.text
    large = open_set(root, "mp4", tmp_path, "data.store=auto")
    assert not isinstance(large._stores["train"], FrameIndex), "what fits now is not kept"
    with pytest.raises(ValueError, match="data.store=some is not one of auto, keep, direct"):
        way_named("some")


@pytest.mark.nightly
def test_a_training_on_what_is_too_large_is_that_on_what_is_kept(clean, tmp_path: Path) -> None:
    weights = []
    for number, words in enumerate((("data.store=keep",), ("data.store=auto", "data.cache_gib=0.0001"))):
        places = [f"run_dir={tmp_path}/run{number}", f"cache_dir={tmp_path}/cache{number}"]
        shape = ["data.frames=5", "data.val_frames=5", "data.val_clips=2", "rollout.window=5", "data.val_share=0.5"]
        own = [f"data.root={clean('csgo').root}", "data.subset=set", "data.test_share=0.3"]
        config = compose(
            ["experiment=teacher", "data=csgo", *NETWORK, *TRAINING, *QUIET, *shape, *own, *places, *words]
        )
        save_record(config, [], Path(config.run_dir))
        data = build_data(config)
        module = fit(config, data, build_card(config, data, "teacher"), None).lightning_module
        weights.append(module.state_dict())
    kept = [list((tmp_path / cache).glob("frames-*-train-*")) for cache in ("cache0", "cache1")]
    assert kept[0] and not kept[1]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


# All 48 frames of train take 332 KiB, the 18 of test 124 KiB.
@pytest.mark.parametrize("words", [(DIRECT,), ("data.store=auto", "data.cache_gib=0.0002")])
def test_an_episode_in_two_splits_is_refused(words: tuple[str, ...], clean, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(clean("mp4").root, root)
    ways = {split: type(store) for split, store in open_set(root, "mp4", tmp_path, *words)._stores.items()}
    assert (len(set(ways.values())) == 1) == (words == (DIRECT,)), ways
    inject(root, "mp4", "in two splits", episode=0, seed=0)
    with pytest.raises(ValueError, match="splits must share none"):
        open_set(root, "mp4", tmp_path, *words)


@pytest.fixture
def reading_directly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All sets are read directly."""
    for form, made in list(SETS.items()):
        if form in FORMS:
            monkeypatch.setitem(SETS, form, replace(made, words=(*made.words, DIRECT)))
    fault_sets.composed.cache_clear()
    yield
    fault_sets.composed.cache_clear()


@pytest.mark.parametrize("form", [form for form in FEW if form in FORMS])
def test_faults_that_show_without_decoding_are_answered_as_in_a_store(
    form: str, reading_directly: None, clean, tmp_path: Path
) -> None:
    for number, fault in enumerate(FEW[form]):
        if fault != "red and blue swapped":  # which the doctor names
            (tmp_path / str(number)).mkdir()
            assert trial(clean(form), form, fault, 0, tmp_path / str(number)) is None, fault


@pytest.fixture
def late(clean, tmp_path: Path) -> Path:
    """A set of folders, of which one frame of one episode is damaged, and its index from before that."""
    root = tmp_path / "set"
    shutil.copytree(clean("folders").root, root)
    data = open_set(root, "folders", tmp_path / "cache", DIRECT)
    path = root / data._opened("train").name(0) / "4.jpg"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(bytes(path.stat().st_size))
    os.utime(path, ns=times)
    return root


def test_a_clip_of_training_that_is_damaged_is_replaced_counted_and_listed(
    late: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = (*FEW_BATCHES, DIRECT, *LENIENT)
    data = open_set(late, "folders", tmp_path / "cache", *words)
    name = data._opened("train").name(0)
    alone = batches(data, 0)
    assert "4.jpg" in caplog.text and "replaced by others" in caplog.text
    (listed,) = (tmp_path / "cache").glob(f"index-*-train-*/{DAMAGED}")
    assert listed.read_text().count(name) >= 1 and len(listed.read_text().splitlines()) == 1
    assert equal(batches(data, 2), alone), "what takes the place of a clip hangs on the process"
    again = open_set(late, "folders", tmp_path / "cache", *words)
    assert list(again.manifest["damaged"]) == [name] and not again.quarantined
    assert equal(batches(again, 0), alone), "a later start draws others"
    # Sound windows are those of the stream, in their places.
    indices = [index for clip in alone for index in clip.index.tolist()]
    assert indices == list(range(8))
    with pytest.raises(ValueError, match=r"1 episodes were found damaged while training, 0 allowed(.|\n)*4\.jpg"):
        batches(open_set(late, "folders", tmp_path / "cache", *FEW_BATCHES, DIRECT), 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_takes_the_place_of_a_clip_where_all_is_to_be_sound(workers: int, late: Path, tmp_path: Path) -> None:
    data = open_set(late, "folders", tmp_path / "cache", *FEW_BATCHES, DIRECT, "data.on_error=raise")
    with pytest.raises(
        ValueError, match=r"4\.jpg: .*cannot be decoded.*; frames \d\.\.\d of jackal_\d were to be read"
    ):
        batches(data, workers)
    lenient = open_set(late, "folders", tmp_path / "cache", *FEW_BATCHES, DIRECT, *LENIENT)
    with pytest.raises(BadFile, match=r"4\.jpg: .*cannot be decoded"):
        for _ in lenient.clips("train", 100, 5, 2):  # as validation and tests read them
            pass


def test_what_a_validation_learns_from_training_clips_bears_damage_as_training_does(late: Path, tmp_path: Path) -> None:
    words = (*FEW_BATCHES, DIRECT, *LENIENT)
    first, again = (open_set(late, "folders", tmp_path / "cache", *words) for _ in range(2))
    clips = [list(data.clips("train", 100, 3, 2, learned=True)) for data in (first, again)]
    assert equal(*clips) and all(clip.video.shape[1] == 3 for clip in clips[0])
    (listed,) = (tmp_path / "cache").glob(f"index-*-train-*/{DAMAGED}")
    assert len(listed.read_text().splitlines()) == 1
    strict = open_set(late, "folders", tmp_path / "cache", *FEW_BATCHES, DIRECT, "data.on_error=raise")
    with pytest.raises(BadFile, match=r"4\.jpg: .*cannot be decoded"):
        list(strict.clips("train", 100, 3, 2, learned=True))


def test_a_frame_that_fails_once_is_read_again(clean, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_set(clean("mp4").root, "mp4", tmp_path, DIRECT)
    reader, tried = data._opened("train"), [0]
    assert reader.direct is not None
    source: type[EpisodeSource] = type(reader.direct.source)
    frames = source.frames

    def failing(self: EpisodeSource, *stretch: int) -> np.ndarray:
        tried[0] += 1
        if tried[0] == 1:
            raise BadFile(Path("a.mp4"), "the storage did not answer")
        return frames(self, *stretch)

    monkeypatch.setattr(source, "frames", failing)
    assert len(reader.read(0, 0, 2).video) == 2 and tried == [2]


@pytest.mark.parametrize("options", [{"g": "5", "bf": "3"}, {"g": "5", "x264-params": "open-gop=1:bframes=3"}, {}])
def test_frames_after_a_key_frame_have_the_bits_of_the_whole_file(
    options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=3, options=options)
        stream.width, stream.height, stream.pix_fmt = 48, 48, "yuv420p"
        for one in picture(0, 33):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(one, format="rgb24")))
        container.mux(stream.encode(None))
    whole, reached = decode(path, "pyav"), []
    sought = video_parts._sought

    def watched(*arguments: object) -> np.ndarray | None:
        found = sought(*arguments)  # type: ignore[arg-type]
        reached.append(found is not None)
        return found

    monkeypatch.setattr(video_parts, "_sought", watched)
    for start in range(33):
        assert np.array_equal(decode_part(path, "pyav", start, min(33, start + 4)), whole[start : start + 4]), start
    assert len(reached) >= 28 if options else not reached
    assert all(reached) if "bf" in options else True, "closed groups of pictures are not reached by their key frame"
    assert first_picture(path, "pyav", 33).frames == first_picture(path, "pyav", 7).frames == 33
    with pytest.raises(BadFile, match=r"ends within frames 30\.\.33"):
        decode_part(path, "pyav", 30, 34)
