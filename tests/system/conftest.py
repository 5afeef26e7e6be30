"""A server of commands, a cache they share, a debug teacher, and what a folder looks like before and after."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.system.server import ROOT

# The smallest table that has a row of each kind; pictures while training are left out.
QUICK = (
    "size=debug", "metrics.clips=4", "metrics.batch_size=4", "metrics.teacher_steps=[2]", "metrics.student_steps=[1]",
    "metrics.pictures=1", "callbacks.rollout_video=null", "callbacks.progress=null",
    "+trainer.enable_progress_bar=false",
)  # fmt: skip


@dataclass(frozen=True)
class Done:
    """A finished command."""

    words: tuple[str, ...]
    code: int
    out: str
    err: str

    def must_succeed(self) -> "Done":
        """Itself. Fails the test, showing the errors, unless the exit code is 0."""
        assert self.code == 0, f"python run.py {' '.join(self.words)}\n{self.err[-3000:]}"
        return self


class Run(Protocol):
    """Runs `python run.py WORDS` in `folder` (a temporary one)."""

    def __call__(self, *words: str, folder: Path | None = None, **environment: str) -> Done: ...


class Server:
    """Commands in forks; see server.py."""

    def __init__(self, place: Path, cache: Path) -> None:
        self.place, self.cache, self.count = place, cache, 0
        # The process that runs the tests may wait for this one to import; it checks types, this one does not.
        command = [sys.executable, str(Path(__file__).with_name("server.py"))]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert self._line() == "ready"

    def run(self, *words: str, folder: Path | None = None, **environment: str) -> Done:
        """The finished command."""
        self.count += 1
        out, err = (self.place / f"{self.count}.{kind}" for kind in ("out", "err"))
        request: dict[str, Any] = {"words": words, "out": str(out), "err": str(err)}
        request["folder"] = str(folder or self.place)
        request["environment"] = {"WM_CACHE": str(self.cache), "WANDB_MODE": "offline", **environment}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        code = int(self._line())
        return Done(words, code, out.read_text(), err.read_text())

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache that all commands share: data are simulated and teachers trained once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Run]:
    """Commands of run.py, without the seconds of starting Python."""
    server = Server(tmp_path_factory.mktemp("commands"), cache)
    yield server.run
    assert server.process.stdin is not None
    server.process.stdin.close()
    server.process.wait(timeout=60)


@pytest.fixture(scope="session")
def teacher(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a debug teacher of the world map, whole."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    run("experiment=teacher", f"run_dir={folder}", *QUICK, "module.iterations=2").must_succeed()
    return folder


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder with its size and time of change; Hydra's own log aside."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "run.log")
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def environment(cache: Path) -> dict[str, str]:
    """What a command that is a program of its own runs with."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "WM_CACHE": str(cache), "WANDB_MODE": "offline"}


def command(words: Sequence[str]) -> list[str]:
    """`python run.py WORDS` for subprocess."""
    return [sys.executable, str(ROOT / "run.py"), *words]
