"""How NWM (2412.03572) evaluates on RECON: its lists of clips, and the actions its rollouts are fed.

A list (`time.pkl`, `rollout.pkl`, `navigation_eval.pkl`) holds tuples (trajectory, current time, least goal, largest
goal): goals are offsets from the current time in frames.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from wm_lightning.data.formats.episode import Episode
from wm_lightning.data.formats.recon import HIGH, LOW, SPACING, normalised
from wm_lightning.data.formats.safe_pickle import read_arrays
from wm_lightning.data.formats.store_reader import StoreReader
from wm_lightning.data.formats.video_files import BadFile


@dataclass(frozen=True)
class IndexEntry:
    """One clip: `time` is the frame of the trajectory that is the present."""

    trajectory: str
    time: int
    min_goal: int
    max_goal: int

    def start(self, context: int) -> int:
        """The first of `context` given frames, of which the last is the present."""
        return self.time - context + 1


def read_index(path: Path) -> tuple[IndexEntry, ...]:
    """The entries of a list, from a pickle of plain values or a JSON of the same shape, in their order.

    Raises BadFile where the file is missing or damaged, names anything but plain values, or an entry is malformed.
    """
    if not path.is_file():
        raise BadFile(path, "is not there; data.index names a list of clips such as NWM's test/time.pkl")
    if path.suffix == ".json":
        try:
            content = json.loads(path.read_text())
        except ValueError as error:
            raise BadFile(path, f"is no JSON ({error})") from error
    else:
        content = read_arrays(path)
    if not isinstance(content, Sequence | np.ndarray) or isinstance(content, str | bytes) or not len(content):
        raise BadFile(path, "holds no list of (trajectory, time, least goal, largest goal)")
    return tuple(_entry(path, number, values) for number, values in enumerate(content))


def nwm_steps(actions: Float32[np.ndarray, "f 3"]) -> Float32[np.ndarray, "f 3"]:
    """The actions of one rollout as NWM's evaluation feeds them, from those of every step in its own frame.

    It normalises the waypoints seen from the present and differences them, so that the range's offset survives in the
    first step only, and the frame stays that of the present: driving straight a waypoint spacing a step it feeds
    -0.067, then +0.267, where training had -0.067 at every step.
    """
    metres = (actions[:, :2].astype(np.float64) + 1) / 2 * (HIGH - LOW) * SPACING + LOW * SPACING
    heading = np.concatenate([[0.0], np.cumsum(actions[:-1, 2], dtype=np.float64)])
    cos, sin = np.cos(heading), np.sin(heading)
    steps = np.stack([cos * metres[:, 0] - sin * metres[:, 1], sin * metres[:, 0] + cos * metres[:, 1]], axis=1)
    waypoints = normalised(np.cumsum(steps, axis=0))
    fed = np.concatenate([waypoints[:1], np.diff(waypoints, axis=0)])
    return np.column_stack([fed, actions[:, 2]]).astype(np.float32)


class NWMReader(StoreReader):
    """A reader whose windows are those of `nwm_compat`: from frame `context` on, actions are those of `nwm_steps`."""

    def __init__(self, plain: StoreReader, context: int) -> None:
        if plain.action_shift != 1:
            raise ValueError(
                f"data.nwm_compat=true with data.action_shift={plain.action_shift}: NWM's step leads to the next "
                f"frame, which is a shift of 1"
            )
        super().__init__(
            plain.store, columns=plain.columns, spec=plain.spec, action_shift=plain.action_shift,
            episodes=plain.episodes, direct=plain.direct,
        )  # fmt: skip
        self.context = context

    def read(self, episode: int, start: int, stop: int) -> Episode:
        """Frames start..stop-1, of which the first `context` are given."""
        found = super().read(episode, start, stop)
        if len(found.actions) <= self.context:
            return found
        fed = np.concatenate([found.actions[: self.context], nwm_steps(found.actions[self.context :])])
        return replace(found, actions=fed)


def places(
    path: Path, entries: Sequence[IndexEntry], lengths: Mapping[str, int], context: int, frames: int
) -> list[tuple[str, int]]:
    """Trajectory and first frame of every entry's clip of `frames` frames.

    Raises BadFile, naming the first that does not fit, where a trajectory is missing or too short.
    """
    found = []
    for number, entry in enumerate(entries):
        start, where = entry.start(context), f"entry {number} ({entry.trajectory}, {entry.time})"
        if entry.trajectory not in lengths:
            raise BadFile(path, f"{where} is of no test recording that can be read; check data.root and data.lists")
        length = lengths[entry.trajectory]
        if start < 0 or start + frames > length:
            raise BadFile(
                path,
                f"{where} needs frames {start}..{start + frames - 1} of {length}; lower metrics.horizon or "
                f"module.context",
            )
        found.append((entry.trajectory, start))
    return found


def _entry(path: Path, number: int, values: Any) -> IndexEntry:
    if isinstance(values, Sequence) and len(values) == 4 and isinstance(values[0], str):
        name, *numbers = values
        if all(isinstance(value, Integral) and not isinstance(value, bool) for value in numbers):
            time, low, high = (int(value) for value in numbers)
            if time >= 0 and low <= high:
                return IndexEntry(name, time, low, high)
    raise BadFile(path, f"entry {number} is {values!r}, (trajectory, time, least goal, largest goal) is expected")
