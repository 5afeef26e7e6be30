"""Recordings written in every form and read back by its own DataModule, with where they came from."""

import json
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig

from tests.data.making import episode, moving_picture
from wm_lightning.config import compose
from wm_lightning.data.cache import MARKER
from wm_lightning.data.convert import FORMS, RECORD
from wm_lightning.data.formats.csgo import COLUMNS, MOUSE
from wm_lightning.data.formats.csgo_writer import write_csgo
from wm_lightning.data.formats.mp4_npz import EpisodeFiles, write_episode
from wm_lightning.data.formats.own import read_spec
from wm_lightning.data.formats.recon import RECONSource, write_recon_file
from wm_lightning.data.formats.robot_actions import FIELDS, columns, convert
from wm_lightning.data.formats.source import StoredEpisode, save_arrays
from wm_lightning.data.formats.video_files import Encoding
from wm_lightning.data.source_datamodule import SourceDataModule
from wm_lightning.tasks.convert import Convert

ENCODING = Encoding(fps=5, crf=8, preset="veryfast")
BOUNDS = "+data.bounds.arm={" + ", ".join(f"{field}: 1.0" for field in FIELDS if field != "terminate_episode") + "}"
LENGTHS = {"train": (6, 9, 7), "test": (8,)}
ROBOTS, GAMES, DRIVES = ("mp4", "npz", "rlds", "lerobot"), ("csgo", "tar", "diamond"), ("recon", "folders")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, number = tmp_path_factory.mktemp("set"), 0
    for split, lengths in LENGTHS.items():
        (root / "arm" / split).mkdir(parents=True)
        for length in lengths:
            one = episode(length, "oxe10", number)
            files = EpisodeFiles.of(root / "arm" / split, f"{number:09d}")
            write_episode(files, one.video, one.actions, {}, ENCODING)
            number += 1
    return root


@pytest.fixture(scope="module")
def games(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("games")
    for number in (3, 4, 12, 140):
        source, name = np.random.default_rng(number), f"hdf5_dm_july2021_{number}"
        actions = np.zeros((5, len(COLUMNS)), np.float32)
        actions[:, :13] = source.random((5, 13)) < 0.3
        for part in MOUSE.values():
            actions[np.arange(5), part.start + source.integers(part.stop - part.start, size=5)] = 1
        video = source.integers(0, 256, (5, 14, 28, 3), dtype=np.uint8)
        write_csgo(root / f"{name}.hdf5", video, actions)
        save_arrays(root / f"{name}.state.npz", {"health": np.arange(5)})
    (root / "test_split.txt").write_text("hdf5_dm_july2021_12.hdf5\n")
    (root / MARKER).write_text(json.dumps({"world": "maze", "settings": {}}))
    return root


@pytest.fixture(scope="module")
def rides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rides")
    for number, name in enumerate(("jackal_a", "jackal_b", "jackal_c")):
        source = np.random.default_rng(number)
        yaw = np.cumsum(source.uniform(-0.4, 0.4, 7)) + 3
        position = np.cumsum(0.2 * np.stack([np.cos(yaw), np.sin(yaw)], 1), axis=0) + 40
        write_recon_file(root / f"{name}.hdf5", moving_picture(7, number), position, yaw)
    (root / "train.txt").write_text("jackal_a\njackal_c\n")
    (root / "test.txt").write_text("jackal_b\n")
    return root


@cache
def composed(words: tuple[str, ...]) -> DictConfig:
    return compose(["task=convert", *words])


def config_of(tmp_path: Path, *words: str) -> DictConfig:
    # Composing takes longer than converting these sets, so words that name no folder are composed once.
    roots = [word.removeprefix("data.root=") for word in words if word.startswith("data.root=")]
    config = composed(tuple(word for word in words if not word.startswith("data.root="))).copy()
    config.cache_dir, config.run_dir = str(tmp_path / "cache"), str(tmp_path / "run")
    config.data.root = roots[0] if roots else None
    return config


def words_of(form: str, root: Path) -> list[str]:
    data = {"csgo": GAMES, "recon": DRIVES, "own": ("own",), "rt1": ROBOTS}
    name = next(name for name, forms in data.items() if form in forms)
    return [f"data={name}", f"data.root={root}", *(["data.subset=arm"] if name == "rt1" else [])]


def converted(words: list[str], tmp_path: Path, to: str, changes: Mapping[str, object] | None = None) -> Path:
    settings: dict = dict(to=to, into=str(tmp_path / to), encoding=ENCODING, version="v3.0", images=None, license=None)
    settings |= dict(changes or {})
    Convert(**settings)(config_of(tmp_path, *words))
    return Path(settings["into"])


def opened(form: str, folder: Path, tmp_path: Path, *words: str) -> SourceDataModule:
    return instantiate(config_of(tmp_path, *words_of(form, folder), *words).data, _convert_="all")


def all_of(data: SourceDataModule) -> dict[str, dict[str, StoredEpisode]]:
    sources = {split: data.open_source(split) for split in data.stored_splits()}
    return {split: {n: s.read(k) for k, n in enumerate(s.names)} for split, s in sources.items()}


def record_of(folder: Path) -> dict:
    return json.loads((folder / RECORD).read_text())


def followed(before: SourceDataModule, folder: Path, after: SourceDataModule) -> list[tuple]:
    """Pairs of an episode and what became of it, by the record's names; every episode of both sides is in one."""
    old, new, names = all_of(before), all_of(after), record_of(folder)["names"]
    assert {s: sorted(found) for s, found in names.items()} == {s: sorted(found) for s, found in old.items()}
    assert {s: sorted(found.values()) for s, found in names.items()} == {s: sorted(found) for s, found in new.items()}
    return [(old[split][name], new[split][to]) for split, found in names.items() for name, to in found.items()]


@pytest.mark.parametrize("form", [*ROBOTS, "own"])
def test_every_robot_form_reads_back_what_was_converted(recordings: Path, tmp_path: Path, form: str) -> None:
    folder = converted(words_of("mp4", recordings), tmp_path, form)  # without bounds: nothing is clipped here
    data = opened(form, folder, tmp_path)
    assert {split: len(found) for split, found in all_of(data).items()} == {"train": 3, "test": 1}
    target = data.open_source("train").columns
    for before, after in followed(opened("mp4", recordings, tmp_path), folder, data):
        np.testing.assert_array_equal(after.actions, convert(before.actions, columns("oxe10"), target))
        assert after.video.shape == before.video.shape
        assert np.abs(after.video.astype(int) - before.video.astype(int)).mean() < 6, "another picture"


def test_own_recordings_get_bounds_that_were_set_or_such_as_the_actions_propose(
    recordings: Path, tmp_path: Path
) -> None:
    proposed = read_spec(converted(words_of("mp4", recordings), tmp_path, "own"))
    assert proposed.names == columns("oxe10") and 0.7 < proposed.high[0] <= 0.9
    given = converted([*words_of("mp4", recordings), BOUNDS], tmp_path, "own", {"into": str(tmp_path / "given")})
    assert set(read_spec(given).high) == {1.0}


def test_the_games_go_through_every_form_and_come_back_bit_for_bit(games: Path, tmp_path: Path) -> None:
    here, form, start = games, "csgo", opened("csgo", games, tmp_path)
    for number, to in enumerate(("tar", "diamond", "csgo", "diamond", "tar", "csgo")):
        folder = converted(words_of(form, here), tmp_path, to, {"into": str(tmp_path / f"{number}")})
        after = opened(to, folder, tmp_path)
        for old, new in followed(opened(form, here, tmp_path), folder, after):
            assert np.array_equal(old.video, new.video) and np.array_equal(old.actions, new.actions)
        assert record_of(folder)["from"]["converted"] == (record_of(here) if number else None)
        if to != "diamond":  # which numbers anew, and keeps the names inside: official lists hold again
            assert after.open_source("test").names == ("hdf5_dm_july2021_12.hdf5",)
            assert set(after.open_source("train").names) == set(start.open_source("train").names)
        here, form = folder, to
    tar = all_of(opened("tar", tmp_path / "0", tmp_path))
    assert all("health" in one.truth for split in tar.values() for one in split.values()), "hidden state went lost"


def test_rides_keep_their_bytes_and_poses_between_files_and_folders(rides: Path, tmp_path: Path) -> None:
    folders = converted(words_of("recon", rides), tmp_path, "folders")
    files = converted(words_of("folders", folders), tmp_path, "recon")
    for form, folder in (("folders", folders), ("recon", files)):
        for before, after in followed(opened("recon", rides, tmp_path), folder, opened(form, folder, tmp_path)):
            assert np.array_equal(before.video, after.video) and np.array_equal(before.actions, after.actions)
        one, other = (RECONSource(place, names=frozenset({"jackal_b"})) for place in (rides, folder))
        assert one.jpegs(0) == other.jpegs(0) and np.array_equal(one.poses(0)[0], other.poses(0)[0])


@pytest.mark.parametrize(
    ("form", "atol"), [("csgo", 0), ("diamond", 0), ("tar", 0), ("recon", 1e-6), ("folders", 1e-6)]
)
def test_own_recordings_go_back_into_the_form_they_are_from(
    games: Path, rides: Path, tmp_path: Path, form: str, atol: float
) -> None:
    first, root = ("csgo", games) if form in GAMES else ("recon", rides)
    own = converted(words_of(first, root), tmp_path, "own")
    back = converted(words_of("own", own), tmp_path, form)
    before, after = all_of(opened("own", own, tmp_path)), opened(form, back, tmp_path)
    for old, new in followed(opened("own", own, tmp_path), back, after):
        np.testing.assert_allclose(old.actions, new.actions, atol=atol, rtol=0)
        assert np.abs(old.video.astype(int) - new.video).mean() < 4
    # The csv is exact: what own recordings hold is what was read.
    for old, new in followed(opened(first, root, tmp_path), own, opened("own", own, tmp_path)):
        assert np.array_equal(old.actions, new.actions)
    assert set(before) == {"train", "test"}


@pytest.mark.parametrize("form", [*GAMES, "own"])
def test_simulated_games_stay_simulated(games: Path, tmp_path: Path, form: str) -> None:
    folder = converted(words_of("csgo", games), tmp_path, form)
    data = opened(form, folder, tmp_path)
    assert data.simulated and data.name.startswith("simulated-") and record_of(folder)["from"]["simulated"]


def test_a_judge_is_there_only_with_the_hidden_state_that_it_asks_for(recordings: Path, tmp_path: Path) -> None:
    shutil.copytree(recordings / "arm", tmp_path / "set")
    (tmp_path / "set" / MARKER).write_text(json.dumps({"world": "pusher", "settings": {"seed": 0}}))
    for form, judged in (("mp4", True), ("npz", False), ("lerobot", False)):
        folder = converted(words_of("mp4", tmp_path / "set"), tmp_path, form)
        data = opened(form, folder, tmp_path, BOUNDS)
        assert data.simulated and (data.world is not None) == judged
    real = converted(words_of("mp4", recordings), tmp_path, "npz", {"into": str(tmp_path / "real")})
    assert not opened("npz", real, tmp_path).simulated and not record_of(real)["from"]["simulated"]


def test_the_record_says_what_was_made_of_what(recordings: Path, tmp_path: Path) -> None:
    found = record_of(converted(words_of("mp4", recordings), tmp_path, "npz"))
    assert found["from"]["format"] == "mp4" and found["from"]["data"] == "arm" and found["to"] == "npz"
    assert found["names"]["test"] == {"000000003": "test_eps_00000000"} and found["splits"] == {"train": 3, "test": 1}
    assert found["action_shift"] == 1 and found["revision"] and found["columns"] == list(columns("vid2world13"))


def test_a_damaged_episode_is_refused_or_left_out_and_nothing_half_written(recordings: Path, tmp_path: Path) -> None:
    shutil.copytree(recordings / "arm", tmp_path / "set/arm")
    (tmp_path / "set/arm/train/000000001.mp4").write_bytes(b"")
    words = words_of("mp4", tmp_path / "set")
    with pytest.raises(ValueError, match=r"(?s)train: 1 unusable, 0 allowed.*000000001\.mp4"):
        converted(words, tmp_path, "rlds")
    assert not (tmp_path / "rlds").exists() and not list(tmp_path.glob("*partial*"))
    folder = converted([*words, "data.on_error=quarantine", "data.max_bad_share=0.5"], tmp_path, "rlds")
    found = record_of(folder)
    assert list(found["names"]["train"]) == ["000000000", "000000002"]
    assert [Path(path).name for path in found["left_out"]["train"]] == ["000000001.mp4"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"to": "avi"}, "mp4|npz"), ({"into": None}, "task.into=FOLDER"), ({"into": "/tmp"}, "there already"),
     ({"to": "csgo"}, "stores the 51 keys.*these recordings hold world_vector_x.*task.to=mp4|npz|rlds|lerobot|own$"),
     ({"to": "recon"}, "planar motion by which poses can be summed up .dx, dy, dyaw"),
     ({"to": "tasks"}, "pictures with a prompt, a solution"), ({"to": "map"}, "whole maps")],
)  # fmt: skip
def test_what_cannot_be_done_is_said(recordings: Path, tmp_path: Path, changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("|", r"\|")):
        converted(words_of("mp4", recordings), tmp_path, "mp4", {"into": str(tmp_path / "x"), **changes})
    assert not (tmp_path / "x").exists()


def test_robot_forms_refuse_other_actions_and_task_sets_are_no_recordings(
    games: Path, rides: Path, tmp_path: Path
) -> None:
    for words, fitting in (
        (words_of("csgo", games), "csgo|tar|diamond|own"),
        (words_of("recon", rides), "recon|folders|own"),
    ):
        for form in ROBOTS:
            with pytest.raises(ValueError, match=rf"action fields of RT-1.*task\.to={fitting}$".replace("|", r"\|")):
                converted(words, tmp_path, form)
    with pytest.raises(ValueError, match=r"takes recordings with actions, data=rt1\|csgo\|recon\|own"):
        converted(["data=world_tasks"], tmp_path, "own")


def test_a_split_that_a_form_cannot_tell_apart_is_not_trained_on(games: Path, tmp_path: Path) -> None:
    folder = converted(words_of("csgo", games), tmp_path, "diamond")
    shutil.copytree(folder / "test", folder / "val")
    with pytest.raises(ValueError, match=r"val would become train; task.to=diamond\|own keeps the splits"):
        converted(words_of("diamond", folder), tmp_path, "csgo")


def test_every_form_is_asked_for() -> None:
    assert {*ROBOTS, *GAMES, *DRIVES, "own"} == set(FORMS)
