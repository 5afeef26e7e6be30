"""How a run ends that was told to stop, by SIGUSR1 (its time is nearly up) or SIGTERM (its place is needed).

Slurm sends the first before a time limit, and the second where a job makes room for another. The run ends with an exit
code of its own, by which its launcher knows that the same command goes on with it.
"""

import os
import signal
import threading
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGUSR1, signal.SIGTERM) if hasattr(signal, "SIGUSR1") else (signal.SIGTERM,)
STOPPED = 75  # EX_TEMPFAIL of sysexits.h: try again
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
DIARY_VARIABLE = "WM_POINT_DIARY"  # names the diary of the point that this process runs


def heed_signals() -> None:
    """From here on both signals end the process of a launcher's point with the exit code STOPPED; not others'.

    Lightning, which would save and queue the job again by itself, leaves a handler of SIGUSR1 that is there alone: so
    one alone queues it again, the batch script.
    """
    if DIARY_VARIABLE in os.environ:
        for number in SIGNALS:
            signal.signal(number, _end)


def _end(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(STOPPED)


class Notice:
    """Whether a signal to stop has come while it listens, for those who end at a moment of their own."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, object] = {}

    def listen(self) -> None:
        """Notes the signals from here on. Python sets handlers in the main thread only; elsewhere nothing is noted."""
        if threading.current_thread() is threading.main_thread() and not self._before:
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}

    def close(self) -> None:
        """What handled the signals before does so again."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  what signal() returned, it takes
        self._before = {}

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.number = number


def tell_stopped() -> None:
    """Writes into the diary of the point, if this process runs one, that it was stopped and has saved."""
    # Here: a run that nobody stops needs no part of the launchers.
    from wm_lightning.launchers.manifest import note  # noqa: PLC0415

    if path := os.environ.get(DIARY_VARIABLE):
        note(Path(path).parent, "stopped")
