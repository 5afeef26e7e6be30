"""Play in a terminal, which is one of the system's own: what is typed, what is shown, what is left behind."""

import io
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from wm_lightning.play import terminal
from wm_lightning.play.game import Game, Turn

Play = Callable[..., tuple[int, str]]
HOME, DELETE, END, CONTROL_UP, F1, F5, CONSOLE_F1 = (
    "\x1b[H", "\x1b[3~", "\x1bOF", "\x1b[1;5A", "\x1bOP", "\x1b[15~", "\x1b[[A"
)  # fmt: skip


@pytest.fixture
def play(game: Game, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Plays before somebody who types each answer when its words are shown, behind those of the one before.

    Returns how many frames were made, and all that was shown.
    """

    def played(answers: Sequence[tuple[bytes, bytes]], seconds: float = 20) -> tuple[int, str]:
        master, slave = os.openpty()
        screen: list[bytes] = []

        def watch() -> None:
            waiting, place = list(answers), 0
            while b"\x1b[?1049l" not in (shown := b"".join(screen)):
                while waiting and (found := shown.find(waiting[0][0], place)) >= 0:
                    place = found + len(waiting[0][0])
                    os.write(master, waiting.pop(0)[1])
                screen.append(os.read(master, 65536))

        with io.TextIOWrapper(os.fdopen(slave, "r+b", buffering=0), write_through=True) as end:
            monkeypatch.setattr(sys, "stdin", end)
            monkeypatch.setattr(sys, "stdout", end)
            watcher = threading.Thread(target=watch, daemon=True)
            watcher.start()
            try:
                made = terminal.play_here(game, fps=200, seconds=seconds)
            finally:
                watcher.join(10)
        os.close(master)
        return made, b"".join(screen).decode(errors="ignore")

    return played


def test_a_terminal_shows_two_rows_a_line() -> None:
    picture = np.zeros((3, 2, 3), np.uint8)
    picture[0, 0] = (1, 2, 3)
    lines = terminal.half_blocks(picture)
    assert len(lines) == 2 and lines[0].startswith("\x1b[38;2;1;2;3;48;2;0;0;0m▀") and lines[0].count("▀") == 2


def test_keys_are_named_and_others_are_no_escape() -> None:
    assert terminal.keys_of("w\x1b[A\x1bOD") == ["w", "ArrowUp", "ArrowLeft"]
    assert terminal.keys_of("\x1b") == [terminal.QUIT] and terminal.keys_of("w\x1b") == ["w", terminal.QUIT]
    assert terminal.keys_of("\r") == terminal.keys_of("\n") == [terminal.RECORD]
    for sequence in (HOME, DELETE, END, CONTROL_UP, F1, F5, CONSOLE_F1, "\x1b["):
        assert terminal.keys_of(sequence) == [], repr(sequence)
    for sequence in (HOME, DELETE, END, CONTROL_UP, F1, F5, CONSOLE_F1):
        assert terminal.keys_of(f"a{sequence}\x1b[Bd") == ["a", "ArrowDown", "d"], repr(sequence)


def test_play_in_a_terminal(game: Game, play: Play) -> None:
    made, shown = play([(b"Esc ends", b"\x1b[C"), (b"ms a decision", b"\x1b")])
    assert made > 0 and made % game.chunk == 0
    assert "▀" in shown and "Esc ends" in shown and "\x1b[?1049l" in shown, "the screen is put back"


def test_a_world_that_waits_answers_all_the_same(game: Game, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(game, "controls", replace(game.controls, waits=True))
    before = game.begun
    made, shown = play([(b"Esc ends", b"\r"), (b"recording", b"\t"), (b"\x1b[H", b"\x1b")])
    assert made == 0 and game.begun == before + 2
    assert "recording" in shown and shown.count("\x1b[H") == 3, "the start, the recording, the start anew"


def test_a_recording_that_ends_by_itself_is_said(game: Game, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(game.recorder, "most", 2 * game.chunk)
    _, shown = play([(b"Esc ends", b"\r"), (b"recorded: ", b"\x1b")])
    assert "recording" in shown and "recorded: " in shown and "recording goes on" not in shown


def test_a_reset_says_where_the_recording_is(play: Play) -> None:
    _, shown = play([(b"Esc ends", b"\r"), (b"recording", b"\t"), (b"recording goes on", b"\x1b")])
    assert "_simulated.gif, recording goes on" in shown


def test_an_interrupt_keeps_the_recording(game: Game, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(held: Sequence[str]) -> Turn:
        if game.recorder.taken and game.recorder.taken.actions:
            raise KeyboardInterrupt
        return Game.step(game, held)

    monkeypatch.setattr(game, "step", step)
    before = len(recordings(game))
    with pytest.raises(KeyboardInterrupt):
        play([(b"Esc ends", b"\r")])
    assert len(recordings(game)) == before + 1 and not game.recorder.running


def recordings(game: Game) -> list[Any]:
    return list(game.recorder.folder.glob("*.gif"))


def test_a_terminal_is_needed_for_one(game: Game, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(ValueError, match=r"task\.screen=terminal needs a terminal"):
        terminal.play_here(game, fps=10, seconds=1)
