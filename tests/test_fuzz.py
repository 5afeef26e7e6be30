"""Whatever is done to a file, its reader serves or refuses it: no other error, no crash, no waiting, no code run."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzzed import IMPORTERS, READERS, SUBJECTS
from tests.fuzzing import Subject, counted, row, trials, tried

OFTEN = 150  # alterations of every subject


def answered(subject: Subject, count: int, folder: Path) -> None:
    outcomes = list(trials(subject, count, folder))
    print(row(subject.name, outcomes))
    found = counted(outcomes)
    assert not found["wrong"], "\n".join(outcome for outcome in outcomes if outcome not in ("served", "refused"))
    assert len(outcomes) == count and found["refused"] > count // 20, "next to nothing was refused: what was altered?"


@pytest.mark.parametrize("subject", IMPORTERS, ids=lambda subject: subject.name)
def test_some_alterations_of_weights_are_answered(subject: Subject, tmp_path: Path) -> None:
    answered(subject, 12, tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("subject", READERS, ids=lambda subject: subject.name)
def test_some_alterations_of_data_are_answered(subject: Subject, tmp_path: Path) -> None:
    answered(subject, 8, tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_alterations_are_answered(subject: Subject, tmp_path: Path) -> None:
    answered(subject, OFTEN, tmp_path)


def raises(root: Path, own: Path) -> None:
    raise TypeError("a bug")


def dies(root: Path, own: Path) -> None:
    os.abort()


def calls(root: Path, own: Path) -> None:
    os.system("true")
    raise ValueError("refused, and too late")


def writes(root: Path, own: Path) -> None:
    (root / "a.txt").write_text("another")


@pytest.mark.parametrize(
    ("read", "said"),
    [(raises, "TypeError: a bug"), (dies, "the process died"), (calls, "os.system"), (writes, "altered files")],
)
def test_what_a_reader_must_not_do_is_seen(tmp_path: Path, read: Callable[[Path, Path], None], said: str) -> None:
    (tmp_path / "sound-text").mkdir()
    (tmp_path / "sound-text/a.txt").write_text("1 2 3")
    subject = Subject("text", lambda root: None, read)
    outcome = tried(subject, tmp_path / "sound-text", 0, tmp_path)
    assert said in outcome and "a.txt: " in outcome
