"""Play without a browser: frames as coloured half blocks, keys one at a time."""

import os
import re
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from jaxtyping import UInt8

from wm_lightning.play.game import Game

ARROWS = {"A": "ArrowUp", "B": "ArrowDown", "C": "ArrowRight", "D": "ArrowLeft"}
# Keys that are no character: `ESC [` (ECMA-48's control sequence, and the Linux console's F1 to F5) or `ESC O`.
SEQUENCE = re.compile(r"\x1b(?:\[\[[A-E]|\[[0-?]*[ -/]*[@-~]?|O[A-Za-z]?)")
QUIT, RESET, RECORD = "\x1b", "\t", "\r"
HELP = "Esc ends, Tab begins anew, Enter records"


def half_blocks(picture: UInt8[np.ndarray, "h w 3"]) -> list[str]:
    """Lines of text that show a picture, two rows of pixels a line."""
    if len(picture) % 2:
        picture = np.concatenate([picture, picture[-1:]])
    lines = []
    for upper, lower in zip(picture[::2].tolist(), picture[1::2].tolist(), strict=True):
        cells = [
            f"\x1b[38;2;{a[0]};{a[1]};{a[2]};48;2;{b[0]};{b[1]};{b[2]}m▀" for a, b in zip(upper, lower, strict=True)
        ]
        lines.append("".join(cells) + "\x1b[0m")
    return lines


def keys_of(typed: str) -> list[str]:
    """The names of typed keys, as browsers give them. Of keys that are sent as sequences only arrows count; a lone Esc
    stays as it is."""
    # Whether Enter is the one or the other hangs on the terminal and on Python's version.
    typed, names, place = typed.replace("\n", RECORD), [], 0
    while place < len(typed):
        if sequence := SEQUENCE.match(typed, place):
            place, plain = sequence.end(), len(sequence[0]) == 3
            names += [ARROWS[sequence[0][2]]] if plain and sequence[0][2] in ARROWS else []
        else:
            names.append(typed[place])
            place += 1
    return names


def play_here(game: Game, *, fps: int, seconds: float | int | None) -> int:
    """Plays until Esc or for so many seconds; returns how many frames were made. Raises ValueError without a terminal.

    A terminal does not tell when a key is let go: one acts for one decision.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ValueError("task.screen=terminal needs a terminal for input and output; use task.screen=browser")
    try:
        with _raw():
            return _played(game, fps, time.monotonic() + (seconds or float("inf")))
    finally:
        # After Ctrl-C too; and with the screen put back, so that the log's word on where it was left can be read.
        game.record(False)


def _played(game: Game, fps: int, end: float) -> int:
    """Decision after decision until then, or Esc."""
    names, made, said = {key.name for key in game.controls.keys}, 0, HELP
    game.reset(0)
    _show(game, said)
    while time.monotonic() < end:
        due = time.monotonic() + game.chunk / fps
        typed = _typed()
        if QUIT in typed:
            break
        said = _answered(game, typed, said)
        held = [name for name in typed if name in names][-1:]
        if held or not game.controls.waits:
            made, said = made + game.chunk, _step(game, held, said, fps)
        elif typed:
            _show(game, said)
        time.sleep(max(due - time.monotonic(), 0))
    return made


def _answered(game: Game, typed: list[str], said: str) -> str:
    """Does what Tab and Enter ask for; returns what to say from now on."""
    if RESET in typed and (left := game.reset().saved):
        said = _recorded(left, game.recorder.running)
    if RECORD in typed:
        left = game.record(not game.recorder.running)
        said = _recorded(left, False) if left else "recording" if game.recorder.running else HELP
    return said


def _recorded(where: str, recording: bool) -> str:
    return f"recorded: {where}{', recording goes on' if recording else ''}"


def _step(game: Game, held: list[str], said: str, fps: int) -> str:
    """Shows a decision's frames; returns what to say from now on."""
    turn = game.step(held)
    said = _recorded(turn.saved[-1], turn.recording) if turn.saved else said
    for number in range(game.chunk):
        if number:
            time.sleep(max(1 / fps - turn.seconds / game.chunk, 0))
        _draw(game, [video[number] for video in turn.frames], f"{said} · {1000 * turn.seconds:.0f} ms a decision")
    return said


def _show(game: Game, said: str) -> None:
    """What is there, where nothing moves on."""
    _draw(game, [frames[-1] for frames in game.shown], said)


def _draw(game: Game, pictures: list[UInt8[np.ndarray, "h w 3"]], said: str) -> None:
    gap = np.zeros((len(pictures[0]), 2, 3), np.uint8)
    side_by_side = np.concatenate([part for picture in pictures for part in (picture, gap)], axis=1)
    keys = "  ".join(f"{key.name.removeprefix('Arrow')}: {key.label}" for key in game.controls.keys)
    lines = [" | ".join(panel.name for panel in game.panels), *half_blocks(side_by_side), keys, said]
    sys.stdout.write("\x1b[H" + "".join(f"{line}\x1b[K\r\n" for line in lines) + "\x1b[J")
    sys.stdout.flush()


def _typed() -> list[str]:
    """Everything typed since it was last asked."""
    typed = b""
    while select.select([sys.stdin], [], [], 0)[0] and (more := os.read(sys.stdin.fileno(), 1024)):
        typed += more
    return keys_of(typed.decode(errors="ignore"))


@contextmanager
def _raw() -> Iterator[None]:
    """Keys one by one and unseen, on a screen of their own; everything is put back."""
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        sys.stdout.write("\x1b[?1049h\x1b[?25l\x1b[2J")
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        sys.stdout.write("\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()
