"""Every fault that a training refuses, leaves out or must be told of is one that `task=doctor` tells."""

import logging
import re
import shutil
from pathlib import Path

import pytest
from omegaconf import DictConfig

from tests.data.fault_sets import SETS, composed
from tests.data.fault_trial import every_case
from wm_lightning.config import compose
from wm_lightning.tasks.doctor import Doctor
from wm_lightning.worlds.faults.catalogue import FAULTS, Answer, Injected, inject

OUTSIDE = re.compile(r"│ +[1-9]\d* +│$", re.MULTILINE)  # the last column of the table of actions
FEW = (
    ("mp4", "mp4 cut at 95.0%"), ("mp4", "three actions too few, one allowed"), ("mp4", "one action too few, allowed"),
    ("mp4", "container too fast"), ("own", "one action too many"), ("npz", "damaged bytes"), ("npz", "NaN"),
    ("npz", "outlier"), ("npz", "red and blue swapped"), ("rlds", "other file cut at 70.0%"),
    ("lerobot3", "in two splits"), ("csgo", "frame missing"), ("csgo", "opposite keys"), ("csgo", "in two splits"),
    ("folders", "picture missing"), ("tasks", "picture missing"), ("map", "damaged map"), ("map", "in two splits"),
)  # fmt: skip


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound set of every form."""
    folder = tmp_path_factory.mktemp("clean")
    for form, one in SETS.items():
        one.make(folder / form)  # type: ignore[operator]
    return folder


def config_of(root: Path, form: str, cache_dir: Path, *words: str) -> DictConfig:
    config = compose(["data=world_tasks"]) if form == "tasks" else composed(form, words)
    config = config.copy()
    config.data.root, config.data.cache_dir = str(root), str(cache_dir)
    return config


def wrongly(clean: Path, form: str, fault: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> str | None:
    """What the doctor said wrong of a fault; None where it said what it must."""
    root = folder / "set"
    shutil.copytree(clean / form, root)
    injected = inject(root, form, fault, episode=2, seed=1)
    capsys.readouterr()
    config = config_of(root, form, folder / "cache", *(("data.trim_tail=true",) if injected.lenient else ()))
    try:
        Doctor(decoded=None)(config)
    except ValueError as error:
        return refused_rightly(injected, root, str(error))
    said = capsys.readouterr().out
    if injected.answer in (Answer.LEFT_OUT, Answer.REFUSED):
        return "not refused"
    if injected.answer is Answer.CLIPPED and not OUTSIDE.search(said):
        return "no value is said to lie outside its bounds"
    return "no colours are named" if injected.answer is Answer.NOTICED and "red and blue" not in said else None


def refused_rightly(injected: Injected, root: Path, error: str) -> str | None:
    if injected.answer not in (Answer.LEFT_OUT, Answer.REFUSED):
        return f"refused: {error}"
    if injected.answer is Answer.REFUSED:
        return None
    named = any(path.name in error or path.parent.name in error for path in injected.touched)
    return None if named else f"refused without naming the file: {error}"


@pytest.mark.parametrize("form", SETS)
def test_a_sound_set_passes(clean: Path, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Doctor(decoded=None)(config_of(clean / form, form, tmp_path))
    said = capsys.readouterr().out
    assert "unusable:" not in said and "red and blue" not in said
    assert form in ("tasks", "map") or not OUTSIDE.search(said)


@pytest.mark.parametrize(("form", "asked", "other"), [("recon", "hdf5", "folders"), ("folders", "folders", "hdf5")])
def test_another_form_of_recon_than_is_there_is_refused(
    clean: Path, form: str, asked: str, other: str, tmp_path: Path
) -> None:
    Doctor(decoded=None)(config_of(clean / form, form, tmp_path, f"data.format={asked}"))
    with pytest.raises(ValueError, match=rf"data.format={other}, but .* holds {asked}"):
        Doctor(decoded=None)(config_of(clean / form, form, tmp_path, f"data.format={other}"))


@pytest.mark.parametrize(("form", "fault"), FEW)
def test_some_faults_are_told(
    clean: Path, form: str, fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert wrongly(clean, form, fault, tmp_path, capsys) is None


@pytest.mark.nightly
@pytest.mark.parametrize("fault", FAULTS)
def test_all_faults_are_told(clean: Path, fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("wm_lightning").setLevel(logging.ERROR)
    cases = [form for form, name in every_case() if name == fault]
    found = {form: wrongly(clean, form, fault, _folder(tmp_path / form), capsys) for form in cases}
    wrong = {form: said for form, said in found.items() if said is not None}
    # A video has no checksum: some damage decodes without an error.
    assert not wrong or fault == "damaged bytes of a video"


def _folder(path: Path) -> Path:
    path.mkdir()
    return path
