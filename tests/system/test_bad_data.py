"""Data that cannot be used is refused by file and reason before training, and single bad files are counted."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.system.conftest import QUICK, Run, fast, snapshot, torn
from wm_lightning.config import compose
from wm_lightning.config_errors import refusal
from wm_lightning.tasks.build import build_data
from wm_lightning.tasks.start import start

TEACHER = "experiment=teacher"


def _actions(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def damage(split: Path) -> None:
        path = split / "000000001.npz"
        with np.load(path, allow_pickle=False) as arrays:
            actions = arrays["arr_0"]
        np.savez(path, change(actions))

    return damage


def _nan(actions: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(actions))[:, None] == 3, np.nan, actions)


def _truncate(split: Path) -> None:
    torn(split / "000000001.mp4", split / "000000001.mp4")


def _empty(split: Path) -> None:
    shutil.rmtree(split)
    split.mkdir()


DAMAGE: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "no npz": (lambda split: (split / "000000001.npz").unlink(), ["000000001.mp4", "has no 000000001.npz beside it"]),
    "no mp4": (lambda split: (split / "000000001.mp4").unlink(), ["000000001.npz", "has no 000000001.mp4 beside it"]),
    "lengths": (_actions(lambda a: a[:-2]), ["000000001.mp4", "has 14 frames for 12 actions"]),
    "NaN": (_actions(_nan), ["000000001.npz", "NaN"]),
    "dimension": (_actions(lambda a: a[:, :7]), ["000000001.npz", "[14, 7], [frames, 10] is expected"]),
    "truncated": (_truncate, ["000000001.mp4", "may be truncated or damaged"]),
    "no npz at all": (lambda split: [path.unlink() for path in split.glob("*.npz")], ["000000000.mp4", "has no"]),
    "empty split": (_empty, ["train holds no episode", "NNNNNNNNN.mp4"]),
    "no split": (shutil.rmtree, ["train is not there"]),
    "no subset": (lambda split: split.parent.rename(split.parents[1] / "x"), ["bridge is not there", "data.subset"]),
    "same clip": (lambda split: [shutil.copy(split / f"000000000.{kind}", split.parent / f"test/000000009.{kind}")
                                 for kind in ("mp4", "npz")], ["the same as", "splits must share none"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", fast(2, list(DAMAGE)))
def test_damaged_data(run: Run, teacher: Path, clips: Path, tmp_path: Path, kind: str) -> None:
    root, damage, said = tmp_path / "clips", *DAMAGE[kind]
    shutil.copytree(clips, root)
    damage(root / "bridge/train")
    before, data = snapshot(teacher), snapshot(root)
    own = tmp_path / "cache"
    words = [TEACHER, "data=rt1", f"data.root={root}", "data.subset=bridge", "size=debug", f"run_dir={teacher}"]
    done = run(*words, folder=tmp_path, WM_CACHE=str(own))
    assert done.code == 2 and "Traceback" not in done.err, done.err[-2000:]
    for words_said in said:
        assert words_said in done.err
    assert snapshot(teacher) == before and snapshot(root) == data
    # What stands in the cache are whole stores; the split at fault has none.
    assert all((store / "index.json").is_file() for store in own.glob("*") if store.is_dir())
    assert kind == "same clip" or not list(own.glob("*-train-*"))


@pytest.mark.slow
def test_an_empty_folder(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    root = f"data.root={tmp_path / 'nothing'}"
    refused(TEACHER, root, said=("nothing is empty",))
    refused(TEACHER, "data=rt1", root, "data.subset=bridge", said=("nothing is empty",))


def test_single_damaged_files_are_left_out_and_counted_where_that_is_allowed(clips: Path, tmp_path: Path) -> None:
    root = tmp_path / "clips"
    shutil.copytree(clips, root)
    DAMAGE["NaN"][0](root / "bridge/train")
    words = ["data=rt1", f"data.root={root}", "data.subset=bridge", f"cache_dir={tmp_path / 'cache'}"]
    data = build_data(compose([TEACHER, "size=debug", *words, "data.max_bad_share=0.2"]))
    assert data.manifest["splits"]["train"]["episodes"] == 5
    [(path, reason)] = data.manifest["quarantined"].items()
    assert path.endswith("train/000000001.npz") and "NaN" in reason


@pytest.mark.slow
def test_a_damaged_world_map(refused: Callable[..., str], cache: Path, tmp_path: Path, teacher: Path) -> None:
    data = next(cache.glob("simulated-worldmap-*"))
    for name, said in (("maps/0001.png", "cannot be read"), ("val.npz", "cannot be read"), ("world.json", "world map")):
        root = tmp_path / name.replace("/", "-")
        shutil.copytree(data, root)
        torn(root / name, root / name)
        refused(TEACHER, f"data.root={root}", said=(name, said, "simulate it again"))


@pytest.mark.parametrize("words", [["data=worldmap"], ["data=rt1"]], ids=["worldmap", "rt1"])
def test_no_room_for_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**30, 2**30, 2**10))  # type: ignore[attr-defined]
    places = [f"run_dir={tmp_path / 'run'}", f"cache_dir={tmp_path / 'cache'}"]
    with pytest.raises(ValueError, match="0 MiB free.*make room or name another folder with data.cache_dir=") as caught:
        start(compose([TEACHER, *QUICK, *words, *places]), [])
    assert refusal(caught.value) is not None
    assert not list((tmp_path / "cache").iterdir()) and not (tmp_path / "run").exists()


def test_no_room_for_decoded_frames(tmp_path: Path, clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**30, 2**30, 2**10))  # type: ignore[attr-defined]
    words = ["data=rt1", f"data.root={clips}", "data.subset=bridge", f"cache_dir={tmp_path / 'cache'}"]
    words.append("data.store=keep")  # by itself it would read the recordings instead
    with pytest.raises(ValueError, match="0 MiB free, decoded frames need .* data.cache_dir="):
        start(compose([TEACHER, *QUICK, *words, f"run_dir={tmp_path / 'run'}"]), [])
    assert not list((tmp_path / "cache").iterdir()) and not (tmp_path / "run").exists()
