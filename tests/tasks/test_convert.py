"""Recordings written in every form and read back by its own reader."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig

from tests.data.making import episode
from wm_lightning.config import compose
from wm_lightning.data.convert import FORMS
from wm_lightning.data.formats.mp4_npz import EpisodeFiles, write_episode
from wm_lightning.data.formats.own import OwnSource, read_spec
from wm_lightning.data.formats.robot_actions import FIELDS, columns, convert
from wm_lightning.data.formats.robot_sources import Opening, detect, open_source, stored_splits
from wm_lightning.data.formats.source import EpisodeSource
from wm_lightning.data.formats.video_files import Encoding
from wm_lightning.tasks.convert import Convert

ENCODING = Encoding(fps=5, crf=8, preset="veryfast")
BOUNDS = "{" + ", ".join(f"{field}: 1.0" for field in FIELDS if field != "terminate_episode") + "}"
LENGTHS = {"train": (6, 9, 7), "test": (8,)}


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


def config_of(root: Path, tmp_path: Path, *words: str) -> DictConfig:
    data = ["data=rt1", f"data.root={root}", "data.subset=arm", f"+data.bounds.arm={BOUNDS}"]
    return compose(["task=convert", *data, f"cache_dir={tmp_path / 'cache'}", f"run_dir={tmp_path / 'run'}", *words])


def converted(root: Path, tmp_path: Path, to: str, changes: Mapping[str, object] | None = None) -> Path:
    settings: dict = dict(to=to, into=str(tmp_path / to), encoding=ENCODING, version="v3.0") | dict(changes or {})
    Convert(**settings)(config_of(root, tmp_path))
    return Path(settings["into"])


def reopened(folder: Path, form: str, split: str) -> EpisodeSource:
    if form == "own":
        return OwnSource(folder / split, read_spec(folder), decoder="pyav", trim_tail=False)
    assert detect(folder) == form
    return open_source(detect(folder), folder, split, Opening("pyav", trim_tail=False, image=None))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_reads_back_what_was_converted(recordings: Path, tmp_path: Path, form: str) -> None:
    folder = converted(recordings, tmp_path, form)
    splits = {"train": [*LENGTHS["train"]], "test": [*LENGTHS["test"]]}
    if form == "npz":  # no splits in this form: the episodes of both, by name
        splits = {"train": [*LENGTHS["test"], *LENGTHS["train"]]}
    elif form != "own":
        assert stored_splits(detect(folder), folder) == tuple(splits)
    order = [3, 0, 1, 2] if form == "npz" else [0, 1, 2, 3]
    for split, lengths in splits.items():
        source = reopened(folder, form, split)
        for place, length in enumerate(lengths):
            number = order[place + (3 if split == "test" else 0)]
            expected, found = episode(length, "oxe10", number), source.read(place)
            actions = convert(expected.actions, columns("oxe10"), source.columns)
            np.testing.assert_array_equal(found.actions, actions)
            assert found.video.shape == expected.video.shape
            assert np.abs(found.video.astype(int) - expected.video.astype(int)).mean() < 6, "another picture"


def test_a_damaged_episode_is_refused_or_left_out_and_nothing_half_written(recordings: Path, tmp_path: Path) -> None:
    for split in LENGTHS:
        (tmp_path / "set/arm" / split).mkdir(parents=True)
        for path in (recordings / "arm" / split).iterdir():
            (tmp_path / "set/arm" / split / path.name).write_bytes(path.read_bytes())
    (tmp_path / "set/arm/train/000000001.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=r"(?s)train: 1 unusable, 0 allowed.*000000001\.mp4"):
        converted(tmp_path / "set", tmp_path, "rlds")
    assert not (tmp_path / "rlds").exists() and not list(tmp_path.glob("*partial*"))
    settings: dict = dict(to="rlds", into=str(tmp_path / "rlds"), encoding=ENCODING, version="v3.0")
    lenient = ("data.on_error=quarantine", "data.max_bad_share=0.5")
    assert Convert(**settings)(config_of(tmp_path / "set", tmp_path, *lenient)) == {"episodes": 3.0}


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"to": "avi"}, "mp4|npz"), ({"into": None}, "task.into=FOLDER"), ({"into": "/tmp"}, "there already")],
)
def test_what_cannot_be_done_is_said(recordings: Path, tmp_path: Path, changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("|", r"\|")):
        converted(recordings, tmp_path, "mp4", changes)


def test_other_actions_are_no_robot_actions(tmp_path: Path, recordings: Path) -> None:
    own = converted(recordings, tmp_path, "own")
    text = (own / "actions.yaml").read_text()
    for name in read_spec(own).names:
        text = text.replace(name, f"my_{name}")
    (own / "actions.yaml").write_text(text)
    for path in own.rglob("*.csv"):
        path.write_text(
            ",".join(f"my_{name}" for name in columns("oxe10")) + path.read_text()[path.read_text().index("\n") :]
        )
    data = ["data=own", f"data.root={own}", f"cache_dir={tmp_path / 'cache'}", f"run_dir={tmp_path / 'run'}"]
    task = Convert(to="mp4", into=str(tmp_path / "again"), encoding=ENCODING, version="v3.0")
    with pytest.raises(ValueError, match="to=own takes any"):
        task(compose(["task=convert", *data]))
