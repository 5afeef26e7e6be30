"""task=encode: what it leaves, that it goes on after a kill, and what it refuses."""

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from safetensors.numpy import load_file

from tests.data.encoding import LENGTHS, encode, opened, recordings
from wm_lightning.config import compose
from wm_lightning.data.formats.episode import Reader
from wm_lightning.data.formats.latent_files import read_about, read_whole
from wm_lightning.data.source_datamodule import SourceDataModule
from wm_lightning.data.start_images import StartImages, image_clips
from wm_lightning.networks.autoencoders import PatchAutoencoder

# What a constructor raises comes through Hydra, which wraps it; run.py unwraps it.
REFUSED = (ValueError, InstantiationException)
FRAMES = sum(map(sum, LENGTHS.values()))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recordings(tmp_path_factory.mktemp("recordings"))


@pytest.fixture(scope="module")
def cache(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished cache of patches."""
    folder = tmp_path_factory.mktemp("encoded")
    encode(root, folder, folder / "latents")
    return folder / "latents"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


def same_content(one: Path, other: Path) -> bool:
    """Equal headers and arrays of all episodes; the order of a header's entries is free."""
    if files(one).keys() != files(other).keys():
        return False
    pairs = [(one / name, other / name) for name in files(one)]
    arrays = ((load_file(a), load_file(b)) for a, b in pairs)
    return all(read_about(a) == read_about(b) for a, b in pairs) and all(
        x.keys() == y.keys() and all(np.array_equal(x[key], y[key]) for key in x) for x, y in arrays
    )


def test_every_episode_of_every_split_is_encoded_once(root: Path, tmp_path: Path) -> None:
    found = encode(root, tmp_path, tmp_path / "latents")
    assert (found["episodes"], found["frames"]) == (10, FRAMES)
    assert found["bytes"] == sum(map(len, files(tmp_path / "latents").values()))
    assert found["bytes"] / FRAMES < 2 * 48 * 8 * 8 + 4 * 10 + 4 + 80
    for split, lengths in LENGTHS.items():
        paths = sorted((tmp_path / "latents" / split).glob("*.safetensors"))
        assert [read_about(path)[1] for path in paths] == [(length, 48, 8, 8) for length in lengths]
    stored = json.loads((tmp_path / "latents/cache.json").read_text())
    assert stored["parts"]["autoencoder"] == {"kind": "patch", "factor": 4} and len(stored["key"]) == 64
    assert not list((tmp_path / "latents").rglob("*.partial"))
    assert not (tmp_path / "cache").exists(), "frames were decoded into a store that nobody reads"


def same_actions(one: Reader, other: Reader) -> None:
    assert len(one) == len(other)
    for episode in range(len(one)):
        a, b = (reader.read(episode, 1, reader.length(episode)) for reader in (one, other))
        np.testing.assert_array_equal(a.actions, b.actions)
        np.testing.assert_array_equal(a.state, b.state)


def test_what_is_read_is_what_encoding_the_pixels_gives(root: Path, cache: Path, tmp_path: Path) -> None:
    latents, pixels = opened(root, tmp_path, "autoencoder=patch", f"data.latents={cache}"), opened(root, tmp_path)
    autoencoder = PatchAutoencoder(factor=4, batch_frames=64)
    assert latents.frame_shape == (48, 8, 8) and pixels.frame_shape == (3, 32, 32)
    for split in ("train", "val", "test"):
        same_actions(latents.reader(split), pixels.reader(split))
        for mine, theirs in zip(latents.clips(split, 3, 5, 2), pixels.clips(split, 3, 5, 2), strict=True):
            assert torch.equal(mine.video, theirs.video), "evaluation is held against other pixels"
            assert mine.latents is not None and mine.latents.dtype == torch.float16
            assert torch.equal(mine.latents, autoencoder.encode(theirs.video).half())
            assert torch.equal(latents.decode(mine.x0), theirs.video)
    assert latents.content_hash() == pixels.content_hash()


def test_pictures_from_elsewhere_become_latents_as_the_datas_frames_do(root: Path, cache: Path, tmp_path: Path) -> None:
    data = opened(root, tmp_path, "autoencoder=patch", f"data.latents={cache}")
    clip = next(data.clips("test", 1, 4, 1))
    images = StartImages(("frame.png",), clip.video[0, :1].numpy())
    [made] = image_clips(data, images, clip.condition, 2, 4)
    assert data.picture_size == data.frame_cache.resize and made.latents is not None
    assert made.x0.shape == clip.x0.shape
    for frame in (0, 1):  # held
        # The cache is in half precision.
        torch.testing.assert_close(made.x0[:, frame], clip.x0[:, 0], atol=1e-3, rtol=0)
    pixels = opened(root, tmp_path)
    [made] = image_clips(pixels, images, clip.condition, 1, 4)
    assert made.latents is None and torch.equal(made.video[:, 0], clip.video[:, 0])


def test_training_reads_latents_and_no_pixels(
    root: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = opened(root, tmp_path, "autoencoder=patch", f"data.latents={cache}", "data.batch_size=2")
    source = type(data.open_source("train"))
    monkeypatch.setattr(source, "read", lambda self, episode: pytest.fail("a recording was decoded"))
    clip = next(iter(data.train_dataloader()))
    assert clip.x0.shape == (2, 5, 48, 8, 8) and clip.x0.dtype == torch.float32
    assert clip.video.shape == (2, 5, 3, 0, 0)
    assert clip.frames(1, 3).x0.equal(clip.x0[:, 1:3]) and clip[:1].x0.equal(clip.x0[:1])


def killed_at_the_third(root: Path, place: Path, into: Path) -> None:
    own, count = PatchAutoencoder.encode, []

    def encode_or_die(self: PatchAutoencoder, video: torch.Tensor) -> torch.Tensor:
        count.append(1)
        if len(count) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return own(self, video)

    PatchAutoencoder.encode = encode_or_die  # type: ignore[method-assign,assignment]
    encode(root, place, into)


def test_goes_on_after_a_kill_and_ends_the_same(root: Path, cache: Path, tmp_path: Path) -> None:
    into = tmp_path / "latents"
    process = multiprocessing.get_context("fork").Process(target=killed_at_the_third, args=(root, tmp_path, into))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in into.rglob("*.safetensors")}
    assert len(kept) == 2
    (into / "train" / "half.safetensors.partial").write_bytes(b"half")
    with pytest.raises(ValueError, match="encoding was not finished; go on with it: .*task=encode"):
        opened(root, tmp_path, "autoencoder=patch", f"data.latents={into}")
    encode(root, tmp_path, into)
    assert same_content(into, cache), "not what it is without the kill"
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items()), "a finished episode was encoded again"
    assert not list(into.rglob("*.partial"))


def test_a_damaged_episode_is_the_only_one_made_again(root: Path, cache: Path, tmp_path: Path) -> None:
    into = tmp_path / "latents"
    shutil.copytree(cache, into)
    flip(into / "train/000000002.safetensors")
    assert not same_content(into, cache)
    before = {path: path.stat().st_mtime_ns for path in into.rglob("*.safetensors")}
    encode(root, tmp_path, into)
    changed = [path.stem for path, time in before.items() if path.stat().st_mtime_ns != time]
    assert changed == ["000000002"] and same_content(into, cache)


def flip(path: Path) -> None:
    """Changes one bit of a latent."""
    content = bytearray(path.read_bytes())
    latents, _ = read_whole(path)
    place = bytes(content).index(latents[3].tobytes()) + 100
    content[place] ^= 1
    path.write_bytes(bytes(content))


def test_a_cut_latent_file_is_refused_or_left_out_and_counted(root: Path, cache: Path, tmp_path: Path) -> None:
    into = tmp_path / "latents"
    shutil.copytree(cache, into)
    place = into / "train/000000002.safetensors"
    place.write_bytes(place.read_bytes()[:-50])
    before = files(into)
    named = ["autoencoder=patch", f"data.latents={into}"]
    said = r"train: 1 unusable, 0 allowed:\n.*000000002.*cannot be read as latents(.|\n)*made again by the task=encode"
    with pytest.raises(ValueError, match=said):
        opened(root, tmp_path, *named)
    data = opened(root, tmp_path, *named, "data.max_bad_share=0.2")
    assert {Path(path).stem for path in data.quarantined} == {"000000002"}
    whole = opened(root, tmp_path, "autoencoder=patch", f"data.latents={cache}")
    names = [{split: set(map(reader.name, range(len(reader)))) for split, reader in readers(d)} for d in (data, whole)]
    assert names[0]["train"] | names[0]["val"] == (names[1]["train"] | names[1]["val"]) - {"000000002"}
    assert names[0]["val"] <= names[1]["val"], "an episode changed its split"
    place.unlink()
    with pytest.raises(ValueError, match="1 unusable"):
        opened(root, tmp_path, *named)
    assert files(into) == {name: content for name, content in before.items() if "000000002" not in name}


def readers(data: SourceDataModule) -> list[tuple[str, Any]]:
    return [(split, data.reader(split)) for split in ("train", "val")]


def test_a_changed_bit_is_found_where_it_is_read(root: Path, cache: Path, tmp_path: Path) -> None:
    into = tmp_path / "latents"
    shutil.copytree(cache, into)
    flip(into / "test/000000008.safetensors")
    reader = opened(root, tmp_path, "autoencoder=patch", f"data.latents={into}").reader("test")
    assert len(reader.read(0, 0, 3).video) == 3  # frames before it are sound
    with pytest.raises(ValueError, match="000000008.safetensors: is damaged at frame 3; task=encode makes it again"):
        reader.read(0, 2, 6)


AUGMENTATION = "wm_lightning.data.augment.Augmentation"
AUGMENT = "brightness: 0.1, contrast: 0.1, saturation: 0.1, hue: 0.0, shift: 0"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["autoencoder=patch", f"data.augment={{_target_: {AUGMENTATION}, {AUGMENT}}}"], "data.augment=null"),
        ([], "needs the autoencoder that made it: autoencoder=pixel"),
        (["autoencoder=patch", "data.latents=elsewhere"], "elsewhere is no latent cache: .*task=encode"),
        (["autoencoder=patch", "data.height=30"], "frames of 30 x 32 pixels cannot be encoded.*multiples of 4"),
    ],
)
def test_what_does_not_go_with_latents(root: Path, cache: Path, tmp_path: Path, given: list[str], said: str) -> None:
    with pytest.raises(REFUSED, match=said):
        opened(root, tmp_path, f"data.latents={cache}", *given)


@pytest.mark.parametrize(
    ("into", "given", "said"),
    [
        ("new", ["data.frames=5"], "task=encode needs task.into=FOLDER.*autoencoder="),
        ("full", ["autoencoder=patch"], "holds other things; name a new folder"),
        ("new", ["autoencoder=sd"], "weights=null: name the safetensors file"),
        ("new", ["autoencoder=patch", "data.height=30"], "multiples of 4"),
        ("new", ["autoencoder=patch", f"data.augment={{_target_: {AUGMENTATION}, {AUGMENT}}}"], "data.augment=null"),
    ],
)
def test_what_cannot_be_encoded_is_refused_before_work_begins(
    root: Path, tmp_path: Path, into: str, given: list[str], said: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("precious")
    with pytest.raises(REFUSED, match=said):
        encode(root, tmp_path, tmp_path / into, *given)
    assert not (tmp_path / "new").exists() and (tmp_path / "full/mine.txt").read_text() == "precious"


def test_a_world_map_has_no_recordings(tmp_path: Path) -> None:
    config = compose(["task=encode", "autoencoder=patch", f"task.into={tmp_path / 'new'}", f"cache_dir={tmp_path}"])
    with pytest.raises(ValueError, match="takes recordings: data=rt1"):
        instantiate(config.task)(config)


def test_too_little_space_is_said_before_anything_is_written(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**30, 2**30, 2**10))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=f"0 MiB free, the latents of {FRAMES} frames need .* task.into="):
        encode(root, tmp_path, tmp_path / "latents")
    assert not (tmp_path / "latents").exists()


def test_a_broken_recording_is_refused_or_left_out_and_named(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "copy")
    (tmp_path / "copy/bridge/train/000000003.mp4").write_bytes(b"no video")
    with pytest.raises(
        ValueError, match=r"train: 1 unusable, 0 allowed:(.|\n)*000000003.mp4(.|\n)*max_bad_share=0\.\d+ "
    ):
        encode(tmp_path / "copy", tmp_path, tmp_path / "latents")
    lenient = ["autoencoder=patch", "data.max_bad_share=0.2"]
    assert encode(tmp_path / "copy", tmp_path, tmp_path / "latents", *lenient)["episodes"] == 9
    named = ["autoencoder=patch", f"data.latents={tmp_path / 'latents'}"]
    with pytest.raises(ValueError, match="1 unusable, 0 allowed"):
        opened(tmp_path / "copy", tmp_path, *named)
    data = opened(tmp_path / "copy", tmp_path, *named, "data.max_bad_share=0.2")
    assert [Path(path).name for path in data.quarantined] == ["000000003.mp4"]


def test_two_at_once_are_refused(root: Path, tmp_path: Path) -> None:
    into = tmp_path / "latents"
    encode(root, tmp_path, into)
    with FileLock(into / "encode.lock"), pytest.raises(ValueError, match="is being written by another task=encode"):
        encode(root, tmp_path, into)
