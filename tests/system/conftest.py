"""A server of commands, a cache they share, a debug teacher, and what a folder looks like before and after."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from tests.system.server import ROOT
from wm_lightning.data.formats.mp4_npz import COLUMNS, EpisodeFiles, write_episode
from wm_lightning.data.formats.video_files import Encoding

FRAMES = 14  # of the clips in the real layout
# The smallest table that has a row of each kind; pictures and drives while training are left out.
QUICK = (
    "size=debug", "metrics.clips=4", "metrics.batch_size=4", "metrics.teacher_steps=[2]", "metrics.student_steps=[1]",
    "metrics.pictures=1", "callbacks.rollout_video=null", "callbacks.progress=null",
    "callbacks.action_fidelity=null",
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

    def __call__(
        self, *words: str, folder: Path | None = None, script: Path | str = ROOT / "run.py", **environment: str
    ) -> Done: ...


class Server:
    """Commands in forks; see server.py."""

    def __init__(self, place: Path, cache: Path) -> None:
        self.place, self.cache, self.count = place, cache, 0
        # The process that runs the tests may wait for this one to import; it checks types, this one does not.
        command = [sys.executable, str(Path(__file__).with_name("server.py"))]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert self._line() == "ready"

    def run(
        self, *words: str, folder: Path | None = None, script: Path | str = ROOT / "run.py", **environment: str
    ) -> Done:
        """The finished command."""
        self.count += 1
        out, err = (self.place / f"{self.count}.{kind}" for kind in ("out", "err"))
        request: dict[str, Any] = {"script": str(script), "words": words, "out": str(out), "err": str(err)}
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


def fast(count: int, cases: Sequence[Any]) -> list[Any]:
    """The first `count` cases in the fast tier, the rest in the nightly one: each is a whole command."""
    return [*cases[:count], *(pytest.param(*_tuple(case), marks=pytest.mark.nightly) for case in cases[count:])]


def _tuple(case: Any) -> tuple[Any, ...]:
    return case if isinstance(case, tuple) else (case,)


@pytest.fixture
def refused(run: Run, cache: Path, teacher: Path, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Runs a command in a folder that holds a whole run, and sees to it that it is refused and changes nothing."""

    def check(*words: str, said: tuple[str, ...], **environment: str) -> str:
        before, data = snapshot(teacher), snapshot(cache)
        done = run(*words, f"run_dir={teacher}", "size=debug", folder=tmp_path, **environment)
        assert done.code == 2, f"exit code {done.code}: {done.err[-2000:]}"
        assert "Traceback" not in done.err
        for words_said in said:
            assert words_said in done.err
        # One paragraph: no stack, no page of nested causes.
        assert len(done.err.strip().splitlines()) <= 8
        assert snapshot(teacher) == before, "the run folder changed"
        changed = {path for path, state in snapshot(cache).items() if data.get(path) != state}
        assert not changed, f"the cache changed: {sorted(changed)}"
        assert not list(cache.rglob("*partial*"))
        return done.err

    yield check


def torn(source: Path, target: Path) -> None:
    """Half of a file."""
    content = source.read_bytes()
    target.write_bytes(content[: len(content) // 2])


def episodes(folder: Path, count: int) -> None:
    """A split of clips in the real layout, of 32 pixels and FRAMES frames."""
    folder.mkdir(parents=True)
    source = np.random.default_rng(count)
    for number in range(count):
        video = source.integers(0, 256, (FRAMES, 32, 32, 3), np.uint8)
        actions = source.uniform(-0.5, 0.5, (FRAMES, COLUMNS)).astype(np.float32)
        files = EpisodeFiles.of(folder, f"{number:09d}")
        write_episode(files, video, actions, {}, Encoding(fps=20, crf=20, preset="ultrafast"))


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set in the real layout, sound."""
    root = tmp_path_factory.mktemp("clips")
    for split, count in (("train", 6), ("val", 2), ("test", 4)):
        episodes(root / "bridge" / split, count)
    return root
