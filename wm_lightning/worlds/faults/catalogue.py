"""Faults of data sets, put into a copy of a folder on purpose, with what a reader must do about each.

Every fault is a pure function of (folder, form, episode, seed): equal arguments change equal bytes. How the files
of a form are altered is in the modules beside this one; `inject` puts a fault in and says what it touched.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np

from wm_lightning.randomness import generator
from wm_lightning.worlds.faults import recordings, robots, sets
from wm_lightning.worlds.faults.stand import Form, Rows, Stand

FORMS = {**robots.FORMS, **recordings.FORMS, **sets.FORMS}


class Answer(Enum):
    """What a reader must do."""

    LEFT_OUT = "left out and listed"  # the episode, and at most those that share its file
    TRIMMED = "trimmed"  # to the frames that are whole
    CLIPPED = "clipped and counted"
    MENDED = "mended with a warning"
    KEPT = "kept with a warning"
    UNMOVED = "read as before"
    NOTICED = "named by the doctor"
    REFUSED = "refused"  # the whole set


@dataclass(frozen=True)
class Fault:
    """`put(form, stand, source)` alters files; `lenient` says that lengths may differ by one frame."""

    answer: Answer
    put: Callable[[Form, Stand, np.random.Generator], None]
    forms: tuple[str, ...]
    lenient: bool = False


@dataclass(frozen=True)
class Injected:
    """What a fault touched: files, by path; the episodes that stand in them, by place in the split; what is due."""

    answer: Answer
    lenient: bool
    touched: tuple[Path, ...]
    episode: int
    sharing: tuple[int, ...]


def inject(folder: Path, form: str, fault: str, *, episode: int, seed: int) -> Injected:
    """Puts a fault into an episode of the training split of `folder`, in place: give it a copy.

    Raises ValueError where the form cannot have the fault.
    """
    if fault not in FAULTS or form not in FAULTS[fault].forms:
        known = sorted(name for name, entry in FAULTS.items() if form in entry.forms)
        raise ValueError(f"{form=} cannot have {fault=}; it can have {known or f'none: forms are {sorted(FORMS)}'}")
    chosen, entry = FORMS[form], FAULTS[fault]
    before = _content(folder)
    stand = chosen.stand(folder, episode)
    entry.put(chosen, stand, generator(seed, f"fault {fault} {form}", episode))
    after = _content(folder)
    touched = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    return Injected(entry.answer, entry.lenient, tuple(touched), episode, stand.sharing)


def cut(path: Path, start: int, size: int, share: float) -> None:
    """Ends the `size` bytes at `start` of a file, and with them the file, after `share` of them."""
    path.write_bytes(path.read_bytes()[: start + int(share * size)])


def scramble(path: Path, start: int, size: int, source: np.random.Generator) -> None:
    """Overwrites 5 % (16 bytes at least) of a stretch, somewhere in its middle half, by other bytes."""
    content = bytearray(path.read_bytes())
    count = max(16, size // 20)
    first = start + size // 4 + int(source.integers(max(1, size // 2 - count)))
    for place in range(first, min(first + count, start + size)):
        content[place] ^= int(source.integers(1, 256))
    path.write_bytes(content)


def _cut(share: float) -> Callable[[Form, Stand, np.random.Generator], None]:
    return lambda form, stand, source: cut(stand.pictures, stand.start, stand.size, share)


def _scrambled(form: Form, stand: Stand, source: np.random.Generator) -> None:
    scramble(stand.pictures, stand.start, stand.size, source)


def _emptied(what: str) -> Callable[[Form, Stand, np.random.Generator], None]:
    return lambda form, stand, source: getattr(stand, what).write_bytes(b"")


def _removed(what: str) -> Callable[[Form, Stand, np.random.Generator], None]:
    return lambda form, stand, source: getattr(stand, what).unlink()


def _rows(change: Callable[[Rows, np.random.Generator], Rows]) -> Callable[[Form, Stand, np.random.Generator], None]:
    """Alters the table of actions (of poses, where actions come from them)."""

    def put(form: Form, stand: Stand, source: np.random.Generator) -> None:
        assert form.rewrite is not None
        form.rewrite(stand, lambda rows: change(np.array(rows, np.float64), source))

    return put


def _special(name: str) -> Callable[[Form, Stand, np.random.Generator], None]:
    return lambda form, stand, source: form.special[name](stand, source)


def _one_value(value: float) -> Callable[[Rows, np.random.Generator], Rows]:
    def change(rows: Rows, source: np.random.Generator) -> Rows:
        rows[source.integers(len(rows)), source.integers(rows.shape[1])] = value
        return rows

    return change


def _outlier(rows: Rows, source: np.random.Generator) -> Rows:
    rows[source.integers(len(rows) - 1), 0] = 40.0  # the last leads to no frame
    return rows


def _no_one_hot(rows: Rows, source: np.random.Generator) -> Rows:
    first, second = source.choice(len(rows) - 1, 2, replace=False)
    rows[first, 13:36] = 0
    rows[second, 36:51] = np.eye(15)[3] * 0.6 + np.eye(15)[9] * 0.4
    return rows


def _opposite(rows: Rows, source: np.random.Generator) -> Rows:
    rows[source.integers(len(rows) - 1), [0, 2]] = 1  # w and s
    return rows


VIDEOS = ("mp4", "own", "lerobot2", "lerobot3")
ROBOTS = ("mp4", "own", "npz", "rlds", "lerobot2", "lerobot3")
GAMES = ("csgo", "tar", "diamond")
WALKS = ("recon", "folders")
SETS = (*ROBOTS, *GAMES, *WALKS)
HDF5 = ("csgo", "tar", "recon")

FAULTS: Mapping[str, Fault] = {
    **{f"mp4 cut at {share:.1%}": Fault(Answer.LEFT_OUT, _cut(share), VIDEOS) for share in (0.5, 0.95, 0.995)},
    **{f"HDF5 cut at {share:.1%}": Fault(Answer.LEFT_OUT, _cut(share), HDF5) for share in (0.3, 0.9, 0.999)},
    "other file cut at 70.0%": Fault(Answer.LEFT_OUT, _cut(0.7), ("npz", "rlds", "diamond", "folders", "tasks")),
    "map cut at 70.0%": Fault(Answer.REFUSED, _cut(0.7), ("map",)),
    "damaged bytes": Fault(Answer.LEFT_OUT, _scrambled, ("npz", "rlds", "diamond", "tasks")),
    # H.264 carries no checksum: where the damaged bytes are a stream again, other pixels come out and nobody can tell.
    "damaged bytes of a video": Fault(Answer.LEFT_OUT, _scrambled, VIDEOS),
    "damaged map": Fault(Answer.REFUSED, _scrambled, ("map",)),
    "empty file": Fault(Answer.LEFT_OUT, _emptied("pictures"), (*ROBOTS, "csgo", "diamond", *WALKS, "tasks")),
    "empty map": Fault(Answer.REFUSED, _emptied("pictures"), ("map",)),
    "empty table": Fault(Answer.LEFT_OUT, _emptied("table"), ("mp4", "own", "lerobot2", "lerobot3", "folders")),
    "empty table of all": Fault(Answer.REFUSED, _emptied("table"), ("map", "tasks")),
    "file missing": Fault(Answer.LEFT_OUT, _removed("pictures"), ("mp4", "own", "lerobot2", "lerobot3", "rlds")),
    "table missing": Fault(Answer.LEFT_OUT, _removed("table"), ("mp4", "own", "lerobot2", "lerobot3")),
    "picture missing": Fault(Answer.LEFT_OUT, _special("picture missing"), ("folders", "tasks", "rlds", "recon")),
    "map missing": Fault(Answer.REFUSED, _removed("pictures"), ("map",)),
    "frame missing": Fault(Answer.LEFT_OUT, _special("frame missing"), ("csgo", "tar")),
    "last frames missing": Fault(Answer.TRIMMED, _special("last frames missing"), ("csgo", "tar")),
    "NaN": Fault(Answer.LEFT_OUT, _rows(_one_value(np.nan)), SETS),
    "infinite": Fault(Answer.LEFT_OUT, _rows(_one_value(-np.inf)), SETS),
    "outlier": Fault(Answer.CLIPPED, _rows(_outlier), (*ROBOTS, *WALKS)),
    "one action too few": Fault(Answer.LEFT_OUT, _rows(lambda rows, _: rows[:-1]), (*ROBOTS, "diamond", *WALKS)),
    "one action too many": Fault(
        Answer.LEFT_OUT, _rows(lambda rows, _: np.concatenate([rows, rows[-1:]])), (*ROBOTS, "diamond", *WALKS)
    ),
    "one action too few, allowed": Fault(Answer.TRIMMED, _rows(lambda rows, _: rows[:-1]), ("mp4", "own"), True),
    "three actions too few, one allowed": Fault(
        Answer.LEFT_OUT, _rows(lambda rows, _: rows[:-3]), ("mp4", "own"), True
    ),
    # By the rate of the container; the pictures are the same.
    "container too slow": Fault(Answer.UNMOVED, _special("slow"), ("mp4", "own")),
    "container too fast": Fault(Answer.UNMOVED, _special("fast"), ("mp4", "own")),
    "timed container too slow": Fault(Answer.LEFT_OUT, _special("slow"), ("lerobot2", "lerobot3")),
    "timed container too fast": Fault(Answer.LEFT_OUT, _special("fast"), ("lerobot2", "lerobot3")),
    "yaw as a column": Fault(Answer.UNMOVED, _special("yaw as a column"), WALKS),
    "yaw beyond a turn": Fault(Answer.UNMOVED, _special("yaw beyond a turn"), WALKS),
    "mouse labels no one-hot": Fault(Answer.MENDED, _rows(_no_one_hot), GAMES),
    "opposite keys": Fault(Answer.KEPT, _rows(_opposite), GAMES),
    "red and blue swapped": Fault(Answer.NOTICED, _special("swapped"), ("csgo", "npz", "recon", "folders")),
    "in two splits": Fault(
        Answer.REFUSED, _special("in two splits"),
        ("mp4", "own", "rlds", "lerobot2", "lerobot3", "csgo", "diamond", "recon", "folders", "tasks", "map"),
    ),
}  # fmt: skip


def _content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
