"""What every reader gives: a stretch of one episode, with the action that produced each frame."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float16, Float32, Int64, Shaped, UInt8

from wm_lightning.clip import ActionSpec, ActionState, Texts


@dataclass(frozen=True)
class Produced:
    """For every frame the action that produced it, and its `ActionState`."""

    actions: Float32[np.ndarray, "f a"]
    state: Int64[np.ndarray, "f"]


@dataclass(frozen=True)
class Episode:
    """Frames of one episode: RGB uint8, producing actions, hidden simulator state (each `f ...`).

    `texts` are those of its task, `latents` there where they are cached.
    """

    video: UInt8[np.ndarray, "f c h w"]
    actions: Float32[np.ndarray, "f a"]
    state: Int64[np.ndarray, "f"]
    truth: Mapping[str, Shaped[np.ndarray, "f ..."]] = field(default_factory=dict)
    texts: Texts | None = None
    latents: Float16[np.ndarray, "f channels rows columns"] | None = None


@runtime_checkable
class Reader(Protocol):
    """One split of one data set on disk. Cheap to copy into a worker process; holds no open file."""

    spec: ActionSpec
    action_shift: int

    def __len__(self) -> int:
        """Number of episodes."""
        ...

    def length(self, episode: int) -> int:
        """Number of frames of an episode."""
        ...

    def read(self, episode: int, start: int, stop: int) -> Episode:
        """Frames start..stop-1. Raises ValueError, naming the file, where they cannot be read."""
        ...


def produced_actions(stored: Float32[np.ndarray, "n a"], start: int, stop: int, shift: int) -> Produced:
    """The actions that produced frames start..stop-1 of an episode whose actions are stored at the observation.

    `produced[f] = stored[f - shift]`; the first `shift` frames of the episode were produced by nothing and
    get zeros and NONE. This is the only place that shifts. Raises ValueError where an action is missing.
    """
    if shift < 0:
        raise ValueError(f"data.action_shift={shift} is negative; 0 or more is expected")
    if not 0 <= start < stop or stop - shift > len(stored):
        raise ValueError(f"frames {start}..{stop - 1} need actions up to {stop - shift - 1}, {len(stored)} are stored")
    first = min(max(start, shift), stop)  # the first frame of the stretch that an action produced
    actions = np.zeros((stop - start, stored.shape[1]), np.float32)
    actions[first - start :] = stored[first - shift : stop - shift]
    state = np.full(stop - start, ActionState.GIVEN, np.int64)
    state[: first - start] = ActionState.NONE
    return Produced(actions, state)
