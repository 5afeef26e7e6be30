"""The index of what is read directly: made anew where files, what is lost, or settings are others."""

import os
import shutil
from pathlib import Path

import pytest

from tests.data.fault_trial import LENIENT
from tests.data.test_direct import DIRECT, open_set


def train_index(root: Path, form: str, cache: Path, *words: str) -> tuple[str, tuple[str, ...]]:
    """The folder of a training split's index, and the names in it."""
    store = open_set(root, form, cache, DIRECT, *LENIENT, *words)._stores["train"]
    return store.folder.name, store.index.names


@pytest.mark.parametrize("form", ["mp4", "folders", "rlds", "lerobot3"])
def test_an_index_is_that_of_the_files_and_settings_it_was_made_of(form: str, clean, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(clean(form).root, root)
    first, names = train_index(root, form, tmp_path)
    assert train_index(root, form, tmp_path) == (first, names)
    assert train_index(root, form, tmp_path, "data.resize=crop")[0] != first
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and path.suffix not in (".json", ".txt")]
    path = next(path for path in files if "test" not in path.relative_to(root).as_posix())
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    changed = train_index(root, form, tmp_path)
    assert changed[0] != first and changed[1] == names
    if form in ("rlds", "lerobot3"):  # several episodes a file
        return
    gone = [path for path in files if names[0] in (path.parent.name, path.name.partition(".")[0])]
    for path in gone:
        path.rename(tmp_path / path.name)
    lacking = train_index(root, form, tmp_path)
    assert gone and lacking[0] not in (first, changed[0]) and lacking[1] == names[1:]
    for path in gone:
        (tmp_path / path.name).rename(path)
    assert train_index(root, form, tmp_path) == changed


def test_what_is_lost_is_part_of_what_an_index_was_made_of(clean, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(clean("own").root, root)
    first, names = train_index(root, "own", tmp_path)
    alone = root / "train" / "alone.mp4"
    alone.write_bytes(b"")
    lost = open_set(root, "own", tmp_path, DIRECT, *LENIENT)
    assert lost._stores["train"].folder.name != first and str(alone) in lost.quarantined
    alone.unlink()
    assert train_index(root, "own", tmp_path) == (first, names)


def test_a_damaged_list_of_records_is_made_again(clean, tmp_path: Path) -> None:
    first = train_index(clean("rlds").root, "rlds", tmp_path)
    kept = {path: path.read_bytes() for path in tmp_path.glob("records-*.npz")}
    for path, whole in kept.items():
        path.write_bytes(whole[: len(whole) // 2])
    assert train_index(clean("rlds").root, "rlds", tmp_path) == first
    assert kept and all(path.read_bytes() == whole for path, whole in kept.items())
