"""Commands as programs of their own, watched until a moment and killed then."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.system.conftest import command, environment


def heed_interrupts() -> None:
    """What a shell starts in the background ignores Ctrl-C, and all its children do."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Program:
    """A command as a program of its own, to be watched and killed."""

    def __init__(self, words: Sequence[str], cache: Path, folder: Path, wrapper: Sequence[str] = ()) -> None:
        self.out, self.err = folder / "out.txt", folder / "err.txt"
        started = [sys.executable, *wrapper, *words] if wrapper else command(words)
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                started, cwd=folder, env=environment(cache), stdout=out, stderr=err, preexec_fn=heed_interrupts
            )

    def until(self, seen: Iterator[bool]) -> None:
        """Waits for a True; fails the test where the program ends before it."""
        for moment in seen:
            assert self.process.poll() is None, f"ended before the kill: {self.err.read_text()[-2000:]}"
            if moment:
                return
            time.sleep(0.002)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        assert self.process.wait() == -9, "the program was through before the kill"

    def finish(self) -> None:
        """Waits for success."""
        assert self.process.wait(timeout=300) == 0, self.err.read_text()[-3000:]


def writes(path: Path, count: int) -> Iterator[bool]:
    """True once `path` was written `count` times."""
    seen: set[tuple[int, int]] = set()
    while True:
        if path.exists():
            state = path.stat()
            seen.add((state.st_ino, state.st_mtime_ns))
        yield len(seen) >= count


def there(path: Path) -> Iterator[bool]:
    """True once `path` exists."""
    while True:
        yield path.exists()


def written_somewhere(folder: Path, count: int) -> Iterator[bool]:
    """True once the last.ckpt of the only run below `folder` was written `count` times."""
    while not (found := list(folder.glob("*/checkpoints/last.ckpt"))):
        yield False
    yield from writes(found[0], count)
