"""Every fault in every form is answered as it must be, and nothing else is lost, replaced or altered."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.data.fault_sets import SHORT, opened
from tests.data.fault_trial import LENIENT, SEEDS, Found, clean_set, every_case, on_page, table, trial, try_all
from wm_lightning.data.formats.frame_store import Index
from wm_lightning.data.formats.mp4_npz import Mp4NpzSource
from wm_lightning.data.formats.store_reader import StoreReader
from wm_lightning.data.formats.video_files import BadFile
from wm_lightning.data.windows import WindowStream, fixed_windows
from wm_lightning.worlds.faults.catalogue import FAULTS, inject

PAGE = Path(__file__).resolve().parents[2] / "docs/data.md"
FEW = {
    "mp4": ("mp4 cut at 99.5%", "one action too few, allowed", "container too slow"),
    "npz": ("damaged bytes", "NaN", "outlier", "red and blue swapped"),
    "rlds": ("other file cut at 70.0%", "file missing"),
    "csgo": ("last frames missing", "mouse labels no one-hot", "opposite keys", "in two splits"),
    "folders": ("picture missing", "yaw beyond a turn"),
    "tasks": ("picture missing", "in two splits"),
}


@pytest.mark.parametrize("form", FEW)
def test_some_faults_are_answered_as_they_must_be(form: str, tmp_path: Path) -> None:
    clean = clean_set(form, tmp_path)
    for number, fault in enumerate(FEW[form]):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert trial(clean, form, fault, 0, folder) is None, fault


# A video has no checksum: some damage decodes without an error, how much hangs on the decoder's version.
UNSEEN = "damaged bytes of a video"


def tried_everything(seeds: int) -> Found:
    found = try_all(seeds)
    assert len(found) == seeds * len(every_case()) > 120 * seeds
    wrong = {case: why for case, why in found.items() if why is not None and case[1] != UNSEEN}
    assert not wrong
    assert sum(why is None for case, why in found.items() if case[1] == UNSEEN) >= 2 * seeds
    return found


@pytest.mark.slow
def test_all_faults_are_answered() -> None:
    tried_everything(seeds=1)


@pytest.mark.nightly
def test_all_faults_of_the_page_are_answered_as_it_says() -> None:
    def certain(text: str) -> list[str]:
        return [line for line in text.splitlines() if not line.startswith((f"| {UNSEEN} ", "| all "))]

    found = tried_everything(seeds=SEEDS)
    assert certain(on_page(PAGE)) == certain(table(found)), "run ./wm python -m tests.data.fault_trial docs/data.md"


def test_a_fault_is_the_same_every_time_and_only_where_it_can_be(tmp_path: Path) -> None:
    clean = clean_set("npz", tmp_path)
    contents = []
    for seed in (0, 0, 1):
        folder = tmp_path / f"copy-{len(contents)}"
        folder.mkdir()
        for path in clean.root.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        touched = inject(folder, "npz", "damaged bytes", episode=2, seed=seed).touched
        assert [path.name for path in touched] == ["train_eps_00000002.npz"]
        contents.append(touched[0].read_bytes())
    assert contents[0] == contents[1] != contents[2]
    with pytest.raises(ValueError, match="it can have"):
        inject(clean.root, "npz", "yaw as a column", episode=0, seed=0)
    assert {form for fault in FAULTS.values() for form in fault.forms} == {form for form, _ in every_case()}


def test_short_episodes_are_in_no_window_and_nothing_takes_their_place(tmp_path: Path) -> None:
    clean = clean_set("mp4", tmp_path)
    data = opened(clean.root, "mp4", tmp_path / "cache")
    # The short episode is among those kept for validation or among the others, as its name has it.
    readers = [data.reader(split) for split in ("train", "val")]
    shorts = [{episode for episode in range(len(reader)) if reader.length(episode) == SHORT} for reader in readers]
    ((reader, short),) = [(reader, short) for reader, short in zip(readers, shorts, strict=True) if short]
    stream = WindowStream(reader, 5, 0)
    drawn = [stream[index] for index in range(300)]
    assert not short & {window.episode for window in drawn}
    assert {window.episode for window in drawn} == set(range(len(reader))) - short
    assert all(window.start + 5 <= reader.length(window.episode) for window in drawn)
    fixed = fixed_windows(reader, 10, 5, 0)
    assert len({(window.episode, window.start) for window in fixed}) == 10
    with pytest.raises(ValueError, match="asked for"):
        reader.read(0, reader.length(0), reader.length(0) + 1)


def test_a_bad_file_makes_validation_smaller_and_never_other(tmp_path: Path) -> None:
    clean = clean_set("mp4", tmp_path)

    def names(root: Path, cache: str) -> dict[str, set[str]]:
        data = opened(root, "mp4", tmp_path / cache, *LENIENT)
        readers = {split: data.reader(split) for split in ("train", "val", "test")}
        assert all(isinstance(reader, StoreReader) for reader in readers.values())
        return {split: {reader.name(k) for k in range(len(reader))} for split, reader in readers.items()}  # type: ignore[attr-defined]

    before = names(clean.root, "one")
    assert len(before["val"]) == 3
    lost = sorted(before["val"])[0]
    path = clean.root / f"train/{lost}.npz"
    np.savez(path, np.full((9, 10), np.nan))
    after = names(clean.root, "two")
    assert after == {**before, "val": before["val"] - {lost}}


def unreliable(monkeypatch: pytest.MonkeyPatch, name: str, times: int) -> Callable[[], int]:
    """Makes reading of one episode fail so often; gives how often it was tried."""
    read, tried = Mp4NpzSource.read, [0]

    def failing(self: Mp4NpzSource, episode: int):
        if self.names[episode] == name:
            tried[0] += 1
            if tried[0] <= times:
                raise BadFile(self.found.episodes[episode].video, "the storage did not answer")
        return read(self, episode)

    monkeypatch.setattr(Mp4NpzSource, "read", failing)
    return lambda: tried[0]


@pytest.mark.parametrize(("times", "lost"), [(1, 0), (2, 1)])
def test_a_read_that_fails_is_tried_once_more(tmp_path, monkeypatch, times: int, lost: int) -> None:
    clean = clean_set("mp4", tmp_path)
    tried = unreliable(monkeypatch, "000000003", times)
    data = opened(clean.root, "mp4", tmp_path / "cache", *LENIENT)
    assert len(data.manifest["quarantined"]) == lost and tried() == 2


def test_skipped_episodes_are_tried_again_and_quarantined_ones_are_not(tmp_path, monkeypatch) -> None:
    clean = clean_set("mp4", tmp_path)
    for word, later in (("quarantine", 1), ("skip", 0)):
        words = (f"data.on_error={word}", "data.max_bad_share=0.3")
        with monkeypatch.context() as patch:
            unreliable(patch, "000000003", 2)
            first = opened(clean.root, "mp4", tmp_path / word, *words)
            assert len(first.manifest["quarantined"]) == 1
        again = opened(clean.root, "mp4", tmp_path / word, *words)
        assert len(again.manifest["quarantined"]) == later
        (store,) = (tmp_path / word).glob("frames-*-train-*")
        assert ("000000003" in Index.read(store).names) == (word == "skip")
