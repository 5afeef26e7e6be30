"""A checkpoint is the old file or the new one, whole; and nothing in it can run code."""

import os
import resource
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.small_disk import small_disk_at
from wm_lightning.checkpoint_io import AtomicCheckpointIO, damage, fall_back, keep_previous, remove_partials

ROOT = Path(__file__).resolve().parents[1]


class Stopped(Exception):
    """The machine stops here."""


def content(value: int) -> dict:
    return {"weights": torch.full((4, 5), float(value)), "loops": {"count": value}, "names": ["a", "b"]}


def save(path: Path, value: int) -> None:
    AtomicCheckpointIO().save_checkpoint(content(value), path)


def count(path: Path) -> int:
    return AtomicCheckpointIO().load_checkpoint(path)["loops"]["count"]


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    save(tmp_path / "new/folder/last.ckpt", 3)
    loaded = AtomicCheckpointIO().load_checkpoint(tmp_path / "new/folder/last.ckpt")
    torch.testing.assert_close(loaded["weights"], content(3)["weights"], rtol=0, atol=0)
    assert loaded["loops"] == {"count": 3} and loaded["names"] == ["a", "b"]
    assert sorted(path.name for path in (tmp_path / "new/folder").iterdir()) == ["last.ckpt"]


@pytest.mark.parametrize("stage", ["write", "fsync", "replace"])
def test_a_stop_at_any_stage_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    path = tmp_path / "last.ckpt"
    save(path, 1)

    def stop(*_: object) -> None:
        raise Stopped

    def torn(_: object, file) -> None:
        file.write(b"half a checkpoint")
        raise Stopped

    patched = {"write": (torch, "save", torn), "fsync": (os, "fsync", stop), "replace": (os, "replace", stop)}
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(*patched[stage])
        save(path, 2)
    assert count(path) == 1
    assert [stale.name for stale in remove_partials(tmp_path)] == ["last.ckpt.partial"]
    assert [left.name for left in tmp_path.iterdir()] == ["last.ckpt"]


def test_everything_is_on_the_disk_before_the_name_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("fsync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("replace"), replace(a, b)))
    save(tmp_path / "last.ckpt", 1)
    assert order == ["fsync", "replace", "fsync"]


def writer(folder: Path) -> subprocess.Popen:
    """A program that rewrites last.ckpt (about 4 MB) without end, with the previous one kept."""
    program = """
        import sys, torch
        from pathlib import Path
        from wm_lightning.checkpoint_io import AtomicCheckpointIO, keep_previous
        folder, value = Path(sys.argv[1]), 0
        while True:
            value += 1
            keep_previous(folder / "last.ckpt", folder / "previous.ckpt")
            tensor = torch.full((1000, 1000), float(value))
            AtomicCheckpointIO().save_checkpoint({"weights": tensor, "loops": {"count": value}}, folder / "last.ckpt")
            print(value, flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_kill_leaves_whole_files(tmp_path: Path) -> None:
    process = writer(tmp_path)
    assert process.stdout is not None
    for _ in range(7):
        process.stdout.readline()
    process.kill()
    process.wait()
    process.stdout.close()
    last, previous = count(tmp_path / "last.ckpt"), count(tmp_path / "previous.ckpt")
    assert last >= 7 and last - previous in (0, 1)


def test_the_previous_file_keeps_its_content(tmp_path: Path) -> None:
    last, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    keep_previous(last, previous)
    assert not previous.exists()
    for value in (1, 2, 3):
        keep_previous(last, previous)
        save(last, value)
    assert (count(last), count(previous)) == (3, 2)


class Payload:
    def __reduce__(self) -> tuple:
        return (os.mkdir, (os.environ["PAYLOAD"],))


def test_code_in_a_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYLOAD", str(tmp_path / "ran"))
    torch.save({"state_dict": Payload()}, tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match="bad.ckpt.*plain"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match="weights_only=False"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "bad.ckpt", weights_only=False)
    assert not (tmp_path / "ran").exists()


def test_bad_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "torn.ckpt").write_bytes(b"half a checkpoint")
    with pytest.raises(ValueError, match="torn.ckpt"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "torn.ckpt")
    with pytest.raises(ValueError, match="absent.ckpt: there is no such checkpoint"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "absent.ckpt")


def test_storage_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="storage_options"):
        AtomicCheckpointIO().save_checkpoint(content(1), tmp_path / "x.ckpt", storage_options={"a": 1})


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes: what a writer sees of a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 160 KiB in memory. Skips the test, and says so, where this user may not make one."""
    with small_disk_at(tmp_path / "disk", "160k") as place:
        yield place


def big(value: int) -> dict:
    """Some 100 KB."""
    return {"weights": torch.full((160, 160), float(value)), "loops": {"count": value}}


@pytest.mark.parametrize("size", [0, 100, 40_000, 104_000])
def test_where_no_more_can_be_written_the_old_file_stays_and_nothing_else(tmp_path: Path, size: int) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(big(1), path)
    assert path.stat().st_size > size
    with files_of_at_most(size), pytest.raises(ValueError, match=r"last.ckpt cannot be written \(.*File too large"):
        AtomicCheckpointIO().save_checkpoint(big(2), path)
    assert count(path) == 1 and [left.name for left in tmp_path.iterdir()] == ["last.ckpt"]
    AtomicCheckpointIO().save_checkpoint(big(3), path)
    assert count(path) == 3


def test_a_full_disk_keeps_the_checkpoints_there_were(small_disk: Path) -> None:
    last, previous = small_disk / "last.ckpt", small_disk / "previous.ckpt"
    saved = []
    with pytest.raises(ValueError, match=r"last.ckpt cannot be written \(.*No space left on device.*Make room"):
        for value in range(1, 9):
            keep_previous(last, previous)
            AtomicCheckpointIO().save_checkpoint(big(value), last)
            saved.append(value)
    assert len(saved) >= 1 and count(last) == count(previous) == saved[-1]
    assert sorted(left.name for left in small_disk.iterdir()) == ["last.ckpt", "previous.ckpt"]


def flipped(path: Path) -> None:
    """One bit of a tensor's values is another: torch reads the file without a word."""
    content = bytearray(path.read_bytes())
    place = content.index(torch.full((160,), float(count(path))).numpy().tobytes()) + 101
    content[place] ^= 4
    path.unlink()  # the file before may have a second name
    path.write_bytes(content)


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])


def emptied(path: Path) -> None:
    path.unlink()
    path.touch()


DAMAGES: list[Callable[[Path], None]] = [flipped, cut, emptied]


@pytest.mark.parametrize("spoil", DAMAGES)
def test_a_damaged_last_checkpoint_gives_way_to_the_one_before(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    last, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    assert fall_back(last, previous) is None, "there is none"
    for value in (1, 2):
        keep_previous(last, previous)
        AtomicCheckpointIO().save_checkpoint(big(value), last)
    assert damage(last) is None and fall_back(last, previous) is None and count(last) == 2
    spoil(last)
    bytes_of_last = last.read_bytes()
    assert damage(last)
    said = fall_back(last, previous)
    assert said is not None and said.split()[-1] in {path.name for path in tmp_path.iterdir()}
    assert count(last) == count(previous) == 1 and (tmp_path / said.split()[-1]).read_bytes() == bytes_of_last
    assert fall_back(last, previous) is None and len(list(tmp_path.iterdir())) == 3


def test_there_is_no_way_back_to_what_is_damaged_too(tmp_path: Path) -> None:
    last, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    for path in (last, previous):
        AtomicCheckpointIO().save_checkpoint(big(1), path)
        cut(path)
    before = last.read_bytes()
    assert fall_back(last, previous) is None and last.read_bytes() == before and len(list(tmp_path.iterdir())) == 2
    previous.unlink()
    assert fall_back(last, previous) is None
