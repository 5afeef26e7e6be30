import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wm_lightning.data import cache


def recipe(write: Callable[[Path, cache.Advance], None] | None = None, **changes: Any) -> cache.Recipe:
    def one_file(folder: Path, advance: cache.Advance) -> None:
        (folder / "data").write_text("whole")
        advance(1)

    settings: dict[str, Any] = {"world": "toy", "settings": {"seed": 0}, "size": 10, "steps": 1}
    return cache.Recipe(**(settings | changes), write=write or one_file)


def dead_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_simulates_once_and_says_simulated(tmp_path: Path) -> None:
    folder = cache.simulate(tmp_path, recipe())
    assert folder.name.startswith("simulated-toy-")
    assert json.loads((folder / cache.MARKER).read_text()) == {"world": "toy", "settings": {"seed": 0}}
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]

    def never(folder: Path, advance: cache.Advance) -> None:
        raise AssertionError("written a second time")

    assert cache.simulate(tmp_path, recipe(never)) == folder


def test_other_settings_have_another_folder(tmp_path: Path) -> None:
    folders = {cache.folder_of(tmp_path, recipe(settings={"seed": seed})) for seed in range(3)}
    assert len(folders) == 3
    same = [cache.folder_of(tmp_path, recipe(settings=s)) for s in ({"a": 1, "b": 2}, {"b": 2, "a": 1})]
    assert same[0] == same[1]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def breaks(folder: Path, advance: cache.Advance) -> None:
        (folder / "data").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.simulate(tmp_path, recipe(breaks))
    assert not list(tmp_path.iterdir())


def test_a_killed_simulation_is_never_read_and_removed(tmp_path: Path) -> None:
    folder = cache.folder_of(tmp_path, recipe())
    stale, live, foreign = (
        tmp_path / f"{folder.name}.partial-{host}-{process}"
        for host, process in (
            (socket.gethostname(), dead_process()),
            (socket.gethostname(), os.getppid()),
            ("another-machine", 1),
        )
    )
    for partial in (stale, live, foreign):
        partial.mkdir()
        (partial / "data").write_text("half")
    assert (cache.simulate(tmp_path, recipe()) / "data").read_text() == "whole"
    assert not stale.exists()
    assert live.exists() and foreign.exists()


def test_a_race_is_won_by_the_first(tmp_path: Path) -> None:
    def overtaken(folder: Path, advance: cache.Advance) -> None:
        (folder / "data").write_text("second")
        cache.folder_of(tmp_path, recipe()).mkdir()
        (cache.folder_of(tmp_path, recipe()) / "data").write_text("first")

    folder = cache.simulate(tmp_path, recipe(overtaken))
    assert (folder / "data").read_text() == "first"
    assert list(tmp_path.iterdir()) == [folder]


def test_too_little_space_is_said_before_anything_is_written(tmp_path: Path) -> None:
    needed = shutil.disk_usage(tmp_path).total * 2
    with pytest.raises(ValueError, match=r"MiB free.*needs about .* MiB.*data\.cache_dir="):
        cache.simulate(tmp_path / "cache", recipe(size=needed))
    assert not list((tmp_path / "cache").iterdir())


def test_a_cache_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot be made.*data\.cache_dir="):
        cache.simulate(tmp_path / "file" / "cache", recipe())
