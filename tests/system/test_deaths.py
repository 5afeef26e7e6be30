"""Processes of a training that die, and a disk that fills up: the training ends, says so, and goes on afterwards."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.small_disk import small_disk_at
from tests.system.comparing import differences, read, state_of
from tests.system.conftest import QUICK, Run
from tests.system.killing import Program, writes

ITERATIONS = 12
WORDS = [
    "experiment=teacher", *QUICK, f"module.iterations={ITERATIONS}", "module.validate_every=100",
    "callbacks.checkpoint.every=1",
]  # fmt: skip
TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"]


def children(process: int) -> list[int]:
    """The processes that one started, as Linux knows them."""
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return [int(word) for task in tasks for word in task.read_text().split()]


def command(process: int) -> str:
    return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def ended(program: Program, seconds: int = 120) -> tuple[int, str]:
    """Exit code of a program that must end by itself, and all it said: its log goes to the output, as Hydra has it."""
    code = program.process.wait(timeout=seconds)
    return code, program.out.read_text() + program.err.read_text()


def same_as_whole(run: Run, folder: Path, words: list[str], tmp_path: Path) -> None:
    run(*words, f"run_dir={tmp_path / 'whole'}").must_succeed()
    found = list(differences(*(state_of(one / "checkpoints/last.ckpt") for one in (tmp_path / "whole", folder))))
    assert not found, found[:10]


@pytest.mark.parametrize(
    "place", [pytest.param("first", marks=pytest.mark.slow), pytest.param("second", marks=pytest.mark.nightly)]
)
def test_a_rank_that_dies_ends_the_job_with_a_message(place: str, cache: Path, tmp_path: Path) -> None:
    target = tmp_path / "run"
    words = [*WORDS, *TWO, f"run_dir={target}", "ckpt_path=last"]
    program = Program(words, cache, tmp_path)
    program.until(writes(target / "checkpoints/last.ckpt", 3))
    ranks = [one for one in children(program.process.pid) if "run.py" in command(one)]
    assert len(ranks) == 1, "the second rank is a process of its own"
    victim = ranks[0] if place == "second" else program.process.pid
    os.kill(victim, signal.SIGKILL)
    code, said = ended(program)
    assert code != 0
    if place == "second":
        assert "another rank ended before this one" in said and f"run_dir={target} ckpt_path=last goes on" in said
    for _ in range(600):
        if not any(Path(f"/proc/{rank}").exists() for rank in ranks):
            break
        time.sleep(0.1)
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks), "the other rank goes on and on"
    last = read(target / "checkpoints/last.ckpt")
    assert 3 <= last["card"]["iterations"] < ITERATIONS
    Program(words, cache, tmp_path).finish()
    assert read(target / "checkpoints/last.ckpt")["card"]["iterations"] == ITERATIONS


@pytest.mark.slow
def test_a_worker_that_dies_ends_the_training_which_goes_on_as_it_was(run: Run, cache: Path, tmp_path: Path) -> None:
    target, own = tmp_path / "run", [*WORDS, "data.num_workers=1"]
    words = [*own, f"run_dir={target}", "ckpt_path=last"]
    program = Program(words, cache, tmp_path)
    program.until(writes(target / "checkpoints/last.ckpt", 3))
    workers = children(program.process.pid)
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    assert workers
    code, said = ended(program)
    # What torch itself says depends on whether it sees the end of the process or that of its socket first.
    assert code != 0 and "a process that loads data was ended from outside" in said
    assert f"run_dir={target} ckpt_path=last goes on" in said
    Program(words, cache, tmp_path).finish()
    same_as_whole(run, target, own, tmp_path)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk in memory that is smaller than what a training writes. Skips, and says so, where none may be made."""
    with small_disk_at(tmp_path / "disk", "1m") as place:
        yield place


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_the_training_which_goes_on_where_there_is_room(
    run: Run, cache: Path, disk: Path, tmp_path: Path
) -> None:
    target = disk / "run"
    run(*WORDS, f"run_dir={tmp_path / 'first'}", "module.iterations=1").must_succeed()
    size = (tmp_path / "first/checkpoints/last.ckpt").stat().st_size
    # Room for the last, and not for another that is being written beside it.
    subprocess.run(["mount", "-o", f"remount,size={int(1.8 * size)}", str(disk)], check=True)
    done = run(*WORDS, f"run_dir={target}", "ckpt_path=last")
    assert done.code == 2 and "Traceback" not in done.err
    assert "last.ckpt cannot be written" in done.err and "No space left on device" in done.err
    assert sorted(path.name for path in (target / "checkpoints").iterdir()) == ["last.ckpt", "previous.ckpt"]
    before = read(target / "checkpoints/last.ckpt")["card"]["iterations"]
    assert 0 < before < ITERATIONS
    subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
    run(*WORDS, f"run_dir={target}", "ckpt_path=last").must_succeed()
    same_as_whole(run, target, WORDS, tmp_path)


@pytest.mark.slow
def test_a_damaged_last_checkpoint_is_gone_back_from(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "run"
    run(*WORDS, f"run_dir={target}").must_succeed()
    last = target / "checkpoints/last.ckpt"
    whole, content = state_of(last), bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.unlink()
    last.write_bytes(content)
    done = run(*WORDS, f"run_dir={target}", "ckpt_path=last").must_succeed()
    assert "last.ckpt is damaged" in done.out and "Going on from the checkpoint before it" in done.out
    assert read(last)["card"]["iterations"] == ITERATIONS and not list(differences(whole, state_of(last)))
