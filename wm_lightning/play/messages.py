"""What goes over the wire: a player's messages, checked, and frames in bytes."""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

LONGEST = 4096  # characters of a message
MOST_KEYS = 16  # held at once


class BadMessage(ValueError):
    """A message that is none; its text is the answer."""


@dataclass(frozen=True)
class Held:
    """The keys that are held, in the order in which they were pressed; `id` counts the client's changes."""

    keys: tuple[str, ...]
    id: int


@dataclass(frozen=True)
class Restart:
    """Begin at a start by its number, None the same again."""

    start: int | None


@dataclass(frozen=True)
class Record:
    """Begin or end a recording."""

    on: bool


@dataclass(frozen=True)
class Pause:
    """Hold everything, or go on."""

    on: bool


Message = Held | Restart | Record | Pause


def read_message(text: str | None) -> Message:
    """A client's message (None: it was no text). Raises BadMessage for anything that is none."""
    if text is None:
        raise BadMessage("text is expected, these were bytes")
    if len(text) > LONGEST:
        raise BadMessage(f"a message of {len(text)} characters; at most {LONGEST} are read")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadMessage("that is no JSON") from error
    if not isinstance(content, dict):
        raise BadMessage("an object with a `type` is expected")
    kind = content.get("type")
    if kind == "keys":
        return _held(content)
    if kind == "reset":
        start = content.get("start")
        if start is not None and not _is_count(start):
            raise BadMessage("`start` must be the number of a start, or null")
        return Restart(start)
    if kind in ("record", "pause"):
        on = content.get("on")
        if not isinstance(on, bool):
            raise BadMessage("`on` must be true or false")
        return Record(on) if kind == "record" else Pause(on)
    raise BadMessage("`type` must be one of keys, reset, record, pause")


def _held(content: Mapping[str, Any]) -> Held:
    keys, number = content.get("held"), content.get("id", 0)
    if not isinstance(keys, list) or len(keys) > MOST_KEYS or not all(isinstance(key, str) for key in keys):
        raise BadMessage(f"`held` must be a list of at most {MOST_KEYS} names of keys")
    if not _is_count(number):
        raise BadMessage("`id` must be a whole number, 0 or more")
    return Held(tuple(keys), number)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def pack(header: Mapping[str, Any], videos: Sequence[UInt8[np.ndarray, "f h w 3"]]) -> bytes:
    """Length of the header (4 bytes, big endian), the header as JSON, then RGB: by panel, and in it by frame."""
    told = json.dumps({**header, "frames": len(videos[0])}).encode()
    return b"".join([struct.pack(">I", len(told)), told, *(np.ascontiguousarray(video).tobytes() for video in videos)])
