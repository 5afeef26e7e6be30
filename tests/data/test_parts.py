"""Parts of a set that stores no validation: no fault of one episode moves another one into another part."""

import shutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra.utils import instantiate

from tests.data.fault_sets import SETS, composed, opened
from wm_lightning.data.datamodule import SPLITS
from wm_lightning.data.formats.rlds import INFO
from wm_lightning.data.formats.store_reader import StoreReader
from wm_lightning.data.source_datamodule import SourceDataModule
from wm_lightning.worlds.faults.catalogue import inject

# What is found without decoding, by form: how a training episode is lost.
LOST: Mapping[str, tuple[str, ...]] = {
    "mp4": ("table missing", "file missing"),
    "own": ("table missing", "file missing"),
    "lerobot2": ("file missing", "table missing", "row missing"),
    "lerobot3": ("file missing", "table missing", "row missing"),
    "rlds": ("file missing", "other file cut at 70.0%", "empty file"),
    "tar": ("HDF5 cut at 30.0%",),
    "folders": ("poses missing",),
}


def parts(form: str, root: Path, cache_dir: Path, share: float) -> dict[str, frozenset[str]]:
    """The names of every part, whatever can be read of them."""
    config = composed(form, ("data.on_error=quarantine", "data.max_bad_share=1.0")).copy()
    config.data.root, config.data.cache_dir, config.data.val_share = str(root), str(cache_dir), share
    data = instantiate(config.data, _convert_="all")
    assert isinstance(data, SourceDataModule)
    source = data.open_source("train")
    return {split: frozenset(data.share(source, split)) for split in SPLITS if split != "test"}


@cache
def shared(form: str, place: Path) -> Path:
    root = place / form
    SETS[form].make(root)  # type: ignore[operator]
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parts")


def lose_row(root: Path, number: int) -> None:
    lines = root / "meta/episodes.jsonl"
    if lines.is_file():
        rows = lines.read_text().splitlines()
        lines.write_text("\n".join([*rows[:number], *rows[number + 1 :]]) + "\n")
        return
    (table,) = root.glob("meta/episodes/chunk-*/file-*.parquet")
    rows = pq.read_table(table).to_pylist()
    pq.write_table(pa.Table.from_pylist([*rows[:number], *rows[number + 1 :]]), table)


def lose_poses(root: Path, number: int) -> None:
    (sorted(root.glob("jackal_*"))[number] / "traj_data.npz").unlink()


OWN: Mapping[str, Callable[[Path, int], None]] = {"row missing": lose_row, "poses missing": lose_poses}


@pytest.mark.parametrize(("form", "fault"), [(form, fault) for form, faults in LOST.items() for fault in faults])
def test_a_fault_moves_no_episode_into_another_part(form: str, fault: str, place: Path, tmp_path: Path) -> None:
    whole = shared(form, place)
    for episode in (0, 2, 3):
        root = tmp_path / str(episode)
        shutil.copytree(whole, root)
        if fault in OWN:
            OWN[fault](root, episode)
        else:
            inject(root, form, fault, episode=episode, seed=0)
        for share in (0.1, 0.2, 0.3, 0.4):
            assert parts(form, root, tmp_path / "cache", share) == parts(form, whole, tmp_path / "cache", share)


def test_what_is_lost_from_one_part_is_taken_from_no_other(place: Path, tmp_path: Path) -> None:
    whole, root = shared("mp4", place), tmp_path / "set"
    shutil.copytree(whole, root)
    (lost,) = parts("mp4", whole, tmp_path, 0.2)["val"]
    (root / f"train/{lost}.npz").unlink()
    with pytest.raises(ValueError, match="no episode of val is usable"):
        read(root, tmp_path / "cache", 0.2)
    before, after = (read(folder, tmp_path / "cache", 0.5) for folder in (whole, root))
    assert after == {**before, "val": before["val"] - {lost}}


def read(root: Path, cache_dir: Path, share: float) -> dict[str, set[str]]:
    data = opened(root, "mp4", cache_dir, "data.max_bad_share=0.3", f"data.val_share={share}")
    readers = {split: data.reader(split) for split in SPLITS}
    assert all(isinstance(reader, StoreReader) for reader in readers.values())
    return {split: {reader.name(k) for k in range(len(reader))} for split, reader in readers.items()}  # type: ignore[attr-defined]


@pytest.mark.parametrize("form", ["rlds", "tar"])
def test_parts_are_not_drawn_where_it_cannot_be_told_what_is_lost(form: str, place: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(shared(form, place), root)
    if form == "rlds":
        (root / "1.0.0" / INFO).write_text("{}")
        inject(root, form, "file missing", episode=0, seed=0)
    else:
        inject(root, form, "HDF5 cut at 30.0%", episode=0, seed=0)
        first = min(root.glob("*.tar"))
        first.rename(first.with_name("part.tar"))
    with pytest.raises(ValueError, match="which episodes are lost with it cannot be told"):
        parts(form, root, tmp_path / "cache", 0.2)
