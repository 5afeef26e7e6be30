"""What a folder was begun with, so that it is never continued with anything else."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wm_lightning.data.formats.atomic import atomic_file

SETTINGS = "settings.json"
# How patiently and where the same model is asked changes no answer.
FREE = (
    ("asking", "tries"), ("asking", "stop_after"), ("asking", "batch"), ("asking", "endpoint", "url"),
    ("asking", "endpoint", "key_variable"), ("asking", "endpoint", "concurrency"), ("asking", "endpoint", "timeout"),
    ("asking", "endpoint", "retries"), ("asking", "endpoint", "backoff"),
)  # fmt: skip


def binding(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, flat by their dotted names, that what comes out hangs on."""
    return {".".join(path): value for path, value in _flat(values, ()) if path not in FREE}


def begun(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Whether the folder holds work with these settings; False where it is not there, or empty.

    Raises ValueError where it holds something else, naming the first settings that differ.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    path = folder / SETTINGS
    if not path.is_file():
        raise ValueError(f"task.into={folder} is there already and holds no {SETTINGS} of such work; name a new folder")
    try:
        before = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); name a new folder with task.into=") from error
    now = json.loads(json.dumps(settings))
    other = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if other:
        shown = "; ".join(f"{name} was {before.get(name)!r} and is {now.get(name)!r}" for name in other[:3])
        raise ValueError(f"task.into={folder} was begun with other settings: {shown}; give those, or name a new folder")
    return True


def begin(folder: Path, settings: Mapping[str, Any]) -> None:
    """Makes the folder, with its settings. Raises ValueError where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(folder / SETTINGS) as partial:
            partial.write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    except OSError as error:
        raise ValueError(f"task.into={folder} cannot be made ({error}); name another place") from error


def _flat(values: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, (*path, str(name)))
        else:
            yield (*path, str(name)), value
