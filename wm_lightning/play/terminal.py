"""Play without a browser: frames as coloured half blocks, keys one at a time."""

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import numpy as np
from jaxtyping import UInt8

from wm_lightning.play.game import Game

ARROWS = {"A": "ArrowUp", "B": "ArrowDown", "C": "ArrowRight", "D": "ArrowLeft"}
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
    """The names of typed keys, as browsers give them; an arrow is three characters, a lone Esc stays as it is."""
    names, place = [], 0
    while place < len(typed):
        if typed[place] == "\x1b" and typed[place + 1 : place + 2] == "[" and typed[place + 2 : place + 3] in ARROWS:
            names.append(ARROWS[typed[place + 2]])
            place += 3
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
    names, made, end = {key.name for key in game.controls.keys}, 0, time.monotonic() + (seconds or float("inf"))
    with _raw():
        said = HELP
        _draw(game, [frames[0] for frames in game.reset(0)], said)
        while time.monotonic() < end:
            due = time.monotonic() + game.chunk / fps
            typed = _typed()
            if QUIT in typed:
                break
            if RESET in typed:
                game.reset()
            if RECORD in typed:
                left = game.record(not game.recorder.running)
                said = f"recorded: {left}" if left else "recording" if game.recorder.running else HELP
            held = [name for name in typed if name in names][-1:]
            if held or not game.controls.waits:
                made += _step(game, held, said, fps)
            time.sleep(max(due - time.monotonic(), 0))
    game.record(False)
    return made


def _step(game: Game, held: list[str], said: str, fps: int) -> int:
    turn = game.step(held)
    for number in range(game.chunk):
        if number:
            time.sleep(max(1 / fps - turn.seconds / game.chunk, 0))
        _draw(game, [video[number] for video in turn.frames], f"{said} · {1000 * turn.seconds:.0f} ms a decision")
    return game.chunk


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
    for _ in count():
        if not select.select([sys.stdin], [], [], 0)[0]:
            return keys_of(typed.decode(errors="ignore"))
        typed += os.read(sys.stdin.fileno(), 1024)
    return []


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
