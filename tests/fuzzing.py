"""Files altered at random, and what comes of reading them: every reader and importer serves or refuses, and no more.

`./wm python -m tests.fuzzing 40` tries so many alterations of each and prints the counts.
"""

import wm_lightning  # noqa: F401, I001  (before lightning: it makes a CPU torch and torchvision agree)

import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

PATIENCE = 60  # seconds for one case
MEMORY = 8 * 2**30  # bytes of address space, beyond what is there, that one case may take
# What no file may make its reader do.
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "socket.connect", "pty.spawn")
NUMBERS = (b"-1", b"0", b"1e999", b"NaN", b"99999999999999999999", b"null", b"[]", b'""', b"{}")
Draw = np.random.Generator
Outcome = str  # "served", "refused", or what went wrong


@dataclass(frozen=True)
class Subject:
    """Something that reads files: how a sound folder of them is made, and what reads it, given a folder to write in."""

    name: str
    make: Callable[[Path], None]
    read: Callable[[Path, Path], None]


def flip(content: bytearray, draw: Draw) -> bytearray:
    for place in draw.integers(len(content), size=draw.integers(1, 9)):
        content[place] ^= 1 << int(draw.integers(8))
    return content


def overwrite(content: bytearray, draw: Draw) -> bytearray:
    start, size = _stretch(content, draw)
    content[start : start + size] = draw.bytes(size) if draw.random() < 0.5 else bytes(size)
    return content


def cut(content: bytearray, draw: Draw) -> bytearray:
    return content[: int(draw.integers(len(content)))]


def drop(content: bytearray, draw: Draw) -> bytearray:
    start, size = _stretch(content, draw)
    return content[:start] + content[start + size :]


def repeat(content: bytearray, draw: Draw) -> bytearray:
    start, size = _stretch(content, draw)
    return content[: start + size] + content[start : start + size] * int(draw.integers(1, 4)) + content[start + size :]


def insert(content: bytearray, draw: Draw) -> bytearray:
    place = int(draw.integers(len(content) + 1))
    return content[:place] + draw.bytes(int(draw.integers(1, 64))) + content[place:]


def renumber(content: bytearray, draw: Draw) -> bytearray:
    """Another value in the place of a number, as text has them; of a length in four bytes, as other files have them."""
    digits = [place for place, byte in enumerate(content) if chr(byte).isdigit()]
    if not digits or draw.random() < 0.3:
        place = int(draw.integers(max(1, len(content) - 4)))
        content[place : place + 4] = int(draw.choice([0, 1, 2**31 - 1, 2**32 - 1])).to_bytes(4, "little")
        return content
    start = int(draw.choice(digits))
    end = next((place for place in range(start, len(content)) if not chr(content[place]).isdigit()), len(content))
    return content[:start] + NUMBERS[int(draw.integers(len(NUMBERS)))] + content[end:]


ALTERATIONS = (flip, overwrite, cut, drop, repeat, insert, renumber, renumber)


def _stretch(content: bytearray, draw: Draw) -> tuple[int, int]:
    start = int(draw.integers(len(content)))
    return start, int(draw.integers(1, min(len(content) - start, 4096) + 1))


def alter(folder: Path, draw: Draw) -> list[str]:
    """Alters one file of a folder, now and then two, up to three times each; says which and how."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    done = []
    for place in draw.choice(len(files), size=min(len(files), 1 + (draw.random() < 0.2)), replace=False):
        content = bytearray(files[place].read_bytes())
        for number in draw.integers(len(ALTERATIONS), size=draw.integers(1, 4)):
            if content:
                content = bytearray(ALTERATIONS[number](content, draw))
                done.append(f"{files[place].relative_to(folder)}: {ALTERATIONS[number].__name__}")
        files[place].write_bytes(content)
    return done


def tried(subject: Subject, sound: Path, seed: int, folder: Path) -> Outcome:
    """What comes of reading a copy of the sound folder, altered by `seed`, in a process of its own."""
    root, own = folder / "altered", folder / "own"
    shutil.copytree(sound, root)
    own.mkdir()
    altered = alter(root, np.random.default_rng([seed, *subject.name.encode()]))
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_read, args=(subject, root, own, sender))
    process.start()
    sender.close()
    said = _heard(receiver)
    process.kill()
    process.join()
    if said in ("served", "refused") and {p: p.read_bytes() for p in root.rglob("*") if p.is_file()} != before:
        said = "reading altered files"
    return said if said in ("served", "refused") else f"{said} (after {'; '.join(altered)}; seed {seed})"


def _heard(receiver: Connection) -> Outcome:
    if not receiver.poll(PATIENCE):
        return f"no end after {PATIENCE} s"
    try:
        return receiver.recv()
    except EOFError:
        return "the process died"


def _read(subject: Subject, root: Path, own: Path, sender: Connection) -> None:
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MEMORY, hard))
    happened: list[str] = []
    sys.addaudithook(lambda event, _: happened.append(event) if event in FORBIDDEN else None)
    try:
        subject.read(root, own)
        said = "served"
    except ValueError as error:
        said = "refused" if str(error) else "refused without a word"
    except BaseException as error:  # noqa: BLE001  which errors there are is the question
        said = f"{type(error).__name__}: {error}"[:300]
    sender.send(f"it did {happened}" if happened else said)
    sender.close()
    os._exit(0)


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def trials(subject: Subject, count: int, folder: Path) -> Iterator[Outcome]:
    """Outcomes of `count` alterations. Raises AssertionError where the sound files are not served."""
    sound = folder / f"sound-{subject.name}"
    sound.mkdir()
    subject.make(sound)
    subject.read(sound, folder / f"first-{subject.name}")
    for seed in range(count):
        with tempfile.TemporaryDirectory(dir=folder) as place:
            yield tried(subject, sound, seed, Path(place))


def counted(outcomes: Sequence[Outcome]) -> Counter[str]:
    """How many were served, refused, and neither."""
    return Counter(outcome if outcome in ("served", "refused") else "wrong" for outcome in outcomes)


def row(name: str, outcomes: Sequence[Outcome]) -> str:
    """A line of the table."""
    found = counted(outcomes)
    return f"{name:14} {len(outcomes):6} {found['served']:8} {found['refused']:8} {found['wrong']:6}"


def main(count: int) -> int:
    """Prints a table over all subjects, and every wrong outcome; the exit code says whether there was one."""
    from tests.fuzzed import SUBJECTS  # noqa: PLC0415  which is made of what stands above

    every: list[Outcome] = []
    print(f"{'':14} {'cases':>6} {'served':>8} {'refused':>8} {'wrong':>6}")
    with tempfile.TemporaryDirectory() as folder:
        for subject in SUBJECTS:
            outcomes = list(trials(subject, count, Path(folder)))
            print(row(subject.name, outcomes), flush=True)
            every += outcomes
    print(row("all", every))
    wrong = [outcome for outcome in every if outcome not in ("served", "refused")]
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
