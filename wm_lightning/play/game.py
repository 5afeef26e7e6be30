"""A game: panels that begin together and go on by the same actions, and what is recorded of them."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8

from wm_lightning.clip import Clip
from wm_lightning.play.controls import Controls
from wm_lightning.play.panels import ModelPanel, Panel
from wm_lightning.play.recording import Recorder

MOST_STEPS = 64  # frames of a decision; panels whose chunks have no smaller common multiple cannot stand side by side


@dataclass(frozen=True)
class Beginning:
    """What a start shows, by panel (`f` = 1), and where the recording was left that it ended."""

    frames: Sequence[UInt8[np.ndarray, "f h w 3"]]
    saved: str | None


@dataclass(frozen=True)
class Turn:
    """What one decision led to: new frames by panel, the seconds that took, and whether a new start came before it.

    `saved` is where recordings were left that ended with that start or by themselves, `recording` whether one goes on.
    """

    frames: Sequence[UInt8[np.ndarray, "f h w 3"]]
    seconds: float
    restarted: bool
    saved: Sequence[str]
    recording: bool


class Game:
    """All state of play. Its methods are called one at a time, by whoever has the seat.

    A decision holds one action for `chunk` frames, the smallest number that is a whole number of every panel's chunks.
    """

    def __init__(
        self, panels: Sequence[Panel], controls: Controls, starts: Clip, recorder: Recorder, *, seed: int
    ) -> None:
        self.panels, self.controls, self.starts, self.recorder = tuple(panels), controls, starts, recorder
        self.chunk = math.lcm(*(panel.chunk for panel in panels))
        if self.chunk > MOST_STEPS:
            chunks = {panel.name: panel.chunk for panel in panels}
            raise ValueError(
                f"the panels make {chunks} frames per decision, {self.chunk} together; {MOST_STEPS} at most can be "
                f"waited for: choose checkpoints with shorter chunks, or play them one at a time"
            )
        self.seed, self.begun, self.start, self.made, self.made_in_all = seed, 0, 0, 0, 0
        self.shown: Sequence[UInt8[np.ndarray, "f h w 3"]] = [self.start_frame(0)[None]] * len(self.panels)

    @property
    def longest(self) -> int | None:
        """Frames that may be made from a start, where a panel's network was trained on whole clips alone."""
        worlds = [panel.world for panel in self.panels if isinstance(panel, ModelPanel)]
        limits = [world.longest - world.context for world in worlds if world.longest is not None]
        return min(limits, default=None)

    def reset(self, start: int | None = None) -> Beginning:
        """Begins at a start by its number, None the same again; the same frame for every panel.

        A running recording is ended and saved, and another one begins. Raises ValueError for a number that is none.
        """
        start = self.start if start is None else start
        if not 0 <= start < len(self.starts):
            raise ValueError(f"there is no start {start}; a number from 0 to {len(self.starts) - 1} is expected")
        again, saved = self.recorder.running, self.recorder.stop()
        self.start, self.made = start, 0
        clip = self.starts[start : start + 1]
        for panel in self.panels:
            panel.reset(clip, self.seed + self.begun)
        self.begun += 1
        self.shown = [self.start_frame(start)[None]] * len(self.panels)
        if again:
            self.recorder.start(self.shown)
        return Beginning(self.shown, saved)

    def start_frame(self, start: int) -> UInt8[np.ndarray, "h w 3"]:
        """The newest given frame of a start."""
        return self.starts.video[start, -1].permute(1, 2, 0).contiguous().numpy()

    def step(self, held: Sequence[str]) -> Turn:
        """One decision under the keys that are held. Raises ValueError for a key that is none."""
        action = self.controls.action(held)
        restarted = self.longest is not None and self.made + self.chunk > self.longest
        saved = [self.reset().saved] if restarted else []
        begun = time.perf_counter()
        actions: Float32[np.ndarray, "f a"] = np.repeat(action[None], self.chunk, axis=0)
        frames = [panel.step(actions) for panel in self.panels]
        seconds = time.perf_counter() - begun
        self.made, self.made_in_all = self.made + self.chunk, self.made_in_all + self.chunk
        self.shown = [video[-1:] for video in frames]
        saved.append(self.recorder.add(actions, frames))
        return Turn(frames, seconds, restarted, [where for where in saved if where], self.recorder.running)

    def record(self, on: bool) -> str | None:
        """Begins a recording with the frame that is shown, or ends one and returns where it was left."""
        if not on:
            return self.recorder.stop()
        if not self.recorder.running:
            self.recorder.start(self.shown)
        return None
