"""One fault in one form: put in, read as a training reads, and what came of it.

`./wm python -m tests.data.fault_trial docs/data.md` tries every fault in every form that can have it and writes the
counts into the page.
"""

import wm_lightning  # noqa: F401, I001  (before lightning: it makes a CPU torch and torchvision agree)

import contextlib
import logging
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import track

from tests.data.fault_sets import SETS, opened, rows_served, served
from wm_lightning.clip import ActionState
from wm_lightning.data.checks import swapped
from wm_lightning.data.formats.csgo import MOUSE
from wm_lightning.data.formats.episode import Episode
from wm_lightning.data.formats.world_tasks import read_tasks
from wm_lightning.data.source_datamodule import SourceDataModule
from wm_lightning.worlds.faults.catalogue import FAULTS, Answer, Injected, inject

LENIENT = ("data.on_error=quarantine", "data.max_bad_share=0.7")
SEEDS = 3
MARK = re.compile(r"(<!-- faults -->\n).*?(<!-- /faults -->)", re.DOTALL)


@dataclass(frozen=True)
class Clean:
    """A sound set: its folder, what is served of it, and the names of training episodes in the order of their files."""

    root: Path
    served: Mapping[str, Episode]
    names: Sequence[str]


def clean_set(form: str, folder: Path) -> Clean:
    """Makes a set of a form and reads it."""
    root = folder / f"clean-{form}"
    SETS[form].make(root)  # type: ignore[operator]
    if form == "tasks":
        return Clean(root, rows_served(root), [row.id for row in read_tasks(root).rows])
    data = opened(root, form, folder / f"cache-{form}")
    if isinstance(data, SourceDataModule):
        return Clean(root, served(data), [f"train/{name}" for name in data.open_source("train").names])
    return Clean(root, served(data), ())


def trial(clean: Clean, form: str, fault: str, seed: int, folder: Path) -> str | None:
    """What a reader did wrong about a fault; None where it did what it must."""
    root = folder / "set"
    shutil.copytree(clean.root, root)
    # Places in the order of files, of episodes that are long enough to be altered.
    injected = inject(root, form, fault, episode=(0, 2, 3)[seed % 3], seed=seed)
    if not injected.touched:
        return "nothing was altered"
    before = content(root)
    wrong = _refused(clean, form, root, folder, injected) if injected.answer is Answer.REFUSED else None
    if injected.answer is Answer.LEFT_OUT:
        wrong = _left_out(clean, form, root, folder, injected)
    elif injected.answer is not Answer.REFUSED:
        wrong = _served(clean, form, root, folder, injected)
    if content(root) != before:
        return "reading altered files"
    return wrong


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _words(injected: Injected, *more: str) -> tuple[str, ...]:
    return (*more, "data.trim_tail=true") if injected.lenient else more


def _refused(clean: Clean, form: str, root: Path, folder: Path, injected: Injected) -> str | None:
    for number, words in enumerate(((), LENIENT)):
        words = () if form == "map" else words
        try:
            _ = read_tasks(root) if form == "tasks" else opened(root, form, folder / f"cache-{number}", *words)
        except ValueError as error:
            if not any(path.name in str(error) or path.stem in str(error) for path in (*injected.touched, root)):
                return f"refused without naming a file: {error}"
        else:
            return "not refused"
    return None


def _left_out(clean: Clean, form: str, root: Path, folder: Path, injected: Injected) -> str | None:
    allowed = {clean.names[number] for number in injected.sharing}
    if form == "tasks":
        found, listed = rows_served(root), None
    else:
        cache_dir = folder / "cache-strict"
        try:
            opened(root, form, cache_dir, *_words(injected))
        except ValueError as error:
            if not any(path.name in str(error) or path.parent.name in str(error) for path in injected.touched):
                return f"refused by the budget without naming the file: {error}"
        else:
            return "the default budget let it pass"
        if list(cache_dir.glob("*-train-*")):
            return "something is left of a refused set"
        data = opened(root, form, folder / "cache", *_words(injected, *LENIENT))
        found, listed = served(data), len(data.quarantined)
    lost = clean.served.keys() - found.keys()
    if not lost or not lost <= allowed:
        return f"lost are {sorted(lost)}, touched were {sorted(allowed)}"
    if listed is not None and listed != len(lost):
        return f"{listed} are listed, {len(lost)} are lost"
    return _same(clean, found, without=lost)


def _same(clean: Clean, found: Mapping[str, Episode], without: Set[str]) -> str | None:
    """Whether all others are as they were."""
    for name, one in found.items():
        was = clean.served[name]
        same = np.array_equal(one.video, was.video) and np.allclose(one.actions, was.actions, atol=2e-6)
        if name not in without and not same:
            return f"{name} is altered"
    return None


@contextlib.contextmanager
def _heard() -> Iterator[list[str]]:
    """The warnings of the package."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("wm_lightning")
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)


def _served(clean: Clean, form: str, root: Path, folder: Path, injected: Injected) -> str | None:
    """All episodes are there, all but the target as they were, and the target as its answer has it."""
    with _heard() as said:
        data = opened(root, form, folder / "cache", *_words(injected))
    found, target = served(data), clean.names[injected.episode]
    if found.keys() != clean.served.keys() or data.quarantined:
        return f"{sorted(clean.served.keys() ^ found.keys())} differ, left out are {list(data.quarantined)}"
    answer, one, was = injected.answer, found[target], clean.served[target]
    wrong = _same(clean, found, without=set() if answer is Answer.UNMOVED else {target})
    if wrong or answer is Answer.UNMOVED:
        return wrong
    if answer is Answer.TRIMMED:
        kept = len(one.video)
        good = kept < len(was.video) and np.array_equal(one.video, was.video[:kept])
        return None if good and np.array_equal(one.actions, was.actions[:kept]) else "not trimmed to what is whole"
    if answer is Answer.NOTICED:
        assert isinstance(data, SourceDataModule)
        source = data.open_source("train")
        named = swapped({name: source.read(number) for number, name in enumerate(source.names)})
        return None if [f"train/{name}" for name in named] == [target] else f"named are {named}"
    if not np.array_equal(one.video, was.video):
        return "pictures are altered"
    spec = data.spec
    if answer is Answer.CLIPPED:
        inside = ((one.actions >= np.array(spec.low) - 1e-6) & (one.actions <= np.array(spec.high) + 1e-6)).all()
        counted = any("outside their bounds" in line for line in said)
        return None if inside and counted and not np.allclose(one.actions, was.actions) else "not clipped and counted"
    if not any(target.removeprefix("train/") in line and "opposite keys" in line for line in said):
        return f"no warning, only {said}"
    given = one.actions[one.state == ActionState.GIVEN]
    one_hot = all((given[:, part].sum(1) == 1).all() for part in MOUSE.values())
    return None if one_hot and not np.array_equal(one.actions, was.actions) else "labels are not mended, or not kept"


def every_case() -> list[tuple[str, str]]:
    """All pairs of form and fault that can be."""
    return [(form, name) for form in SETS for name, fault in FAULTS.items() if form in fault.forms]


Found = Mapping[tuple[str, str, int], str | None]  # by form, fault and seed: what went wrong


def try_all(seeds: int = SEEDS) -> Found:
    """Every fault in every form that can have it, with several seeds."""
    found: dict[tuple[str, str, int], str | None] = {}
    with tempfile.TemporaryDirectory() as place:
        clean = {form: clean_set(form, Path(place)) for form in SETS}
        for form, fault in track(every_case(), description="trying faults", transient=True):
            for seed in range(seeds):
                with tempfile.TemporaryDirectory() as folder:
                    found[form, fault, seed] = trial(clean[form], form, fault, seed, Path(folder))
    return found


def table(found: Found) -> str:
    """What became of every fault, as Markdown: tried, and answered as they must be."""
    lines = ["| fault | forms | a reader must answer | tried | so answered |", "| :-- | :-- | :-- | --: | --: |"]
    tried, right = 0, 0
    for name, fault in FAULTS.items():
        own = [wrong is None for (_, other, _), wrong in found.items() if other == name]
        lines.append(f"| {name} | {', '.join(fault.forms)} | {fault.answer.value} | {len(own)} | {sum(own)} |")
        tried, right = tried + len(own), right + sum(own)
    return "\n".join([*lines, f"| all | | | {tried} | {right} |"])


def on_page(page: Path) -> str:
    """The table as it stands on a page."""
    found = MARK.search(page.read_text())
    return "" if found is None else found[0].split("\n", 2)[2].rsplit("\n\n", 1)[0]


def main(page: Path) -> None:
    """Writes the table between the page's marks, and says what went wrong."""
    found = try_all()
    page.write_text(MARK.sub(lambda match: f"{match[1]}\n{table(found)}\n\n{match[2]}", page.read_text()))
    print(table(found))
    for case, wrong in found.items():
        if wrong is not None:
            print(*case, wrong, sep=" | ")


if __name__ == "__main__":
    logging.getLogger("wm_lightning").addHandler(logging.NullHandler())  # trials listen to warnings, nobody else
    main(Path(sys.argv[1]))
