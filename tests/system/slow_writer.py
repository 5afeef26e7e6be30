"""Runs run.py with one checkpoint write that stops half-way and waits to be killed.

python slow_writer.py STAGE COUNT MARKER WORDS...   The COUNT-th write of last.ckpt stops with half of its bytes
in the file ("half"), or whole but under its partial name ("renaming"), and makes the file MARKER.
"""

import io
import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Alters torch.save or os.replace, then becomes run.py."""
    stage, count, marker, *words = sys.argv[1:]
    (half if stage == "half" else renaming)(int(count), Path(marker))
    sys.argv = [str(ROOT / "run.py"), *words]
    runpy.run_path(sys.argv[0], run_name="__main__")


def wait(marker: Path) -> None:
    """Says that the moment is there; nobody comes back from here."""
    marker.touch()
    time.sleep(600)


def half(count: int, marker: Path) -> None:
    """torch.save that stops after half of the bytes."""
    save, left = torch.save, [count]

    def slow(content: Any, file: Any, *others: Any, **named: Any) -> None:
        left[0] -= "last.ckpt" in str(getattr(file, "name", ""))
        if left[0]:
            return save(content, file, *others, **named)
        buffer = io.BytesIO()
        save(content, buffer)
        file.write(buffer.getvalue()[: buffer.tell() // 2])
        file.flush()
        return wait(marker)

    torch.save = slow


def renaming(count: int, marker: Path) -> None:
    """os.replace that stops before the name changes."""
    replace, left = os.replace, [count]

    def slow(source: Any, target: Any, *others: Any, **named: Any) -> None:
        left[0] -= Path(target).name == "last.ckpt"
        if not left[0]:
            wait(marker)
        replace(source, target, *others, **named)

    os.replace = slow


if __name__ == "__main__":
    main()
