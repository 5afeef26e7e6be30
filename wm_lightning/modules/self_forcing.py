"""What self-forcing decides before a network runs: lengths, exits, scored frames and their noise levels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wm_lightning.networks.masks import FrameMask
from wm_lightning.noising import GaussianPath, NoiseLaw


@dataclass(frozen=True)
class Score:
    """How both scores look at a generated window: mask, noise law (one level per clip), clean context, guidance."""

    mask: FrameMask
    law: NoiseLaw
    smallest: float
    largest: float
    context: int
    guidance: float

    def level(self, path: GaussianPath, source: np.random.Generator) -> Float[Tensor, "1"]:
        """The time of one sample."""
        return self.law.sample(path, (1,), source).clamp(self.smallest, self.largest)


@dataclass(frozen=True)
class SelfRollout:
    """Training rollouts: possible lengths, how many last frames are scored, how many carry gradient.

    `exits`: "shared" draws one exit step for all chunks, "per_chunk" one each, "last" runs every step.
    `grad_frames` null lets every generated frame learn.
    """

    lengths: Sequence[int]
    scored: int
    grad_frames: int | None
    exits: Literal["shared", "per_chunk", "last"]

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", tuple(self.lengths))

    def check(self, context: int, clean: int, chunk: int, frames: int) -> None:
        """Raises ValueError where chunks do not come out even, or where a rollout does not hold what is scored."""
        if self.grad_frames == 0:
            raise ValueError("module.rollout.grad_frames=0 lets nothing learn; give 1 or more, or null")
        for length in self.lengths:
            if (length - context) % chunk:
                raise ValueError(
                    f"a training rollout of {length} frames leaves {length - context} after {context} of context, "
                    f"which chunks of {chunk} do not divide; choose module.rollout.lengths to fit"
                )
            if length > frames:
                raise ValueError(f"a rollout of {length} frames needs as many actions, clips have {frames}")
            if self.scored > length - max(context, clean):
                raise ValueError(f"{self.scored} scored frames and their context do not fit into {length} frames")

    def draw_exits(self, source: np.random.Generator, chunks: int, steps: int) -> list[int]:
        """One exit step per chunk. A pure function of the iteration, so every rank draws the same."""
        if self.exits == "last":
            return [steps - 1] * chunks
        drawn = source.integers(steps, size=chunks)
        return [int(drawn[0])] * chunks if self.exits == "shared" else [int(step) for step in drawn]

    def counted(self, frames: int, context: int) -> Bool[Tensor, "f"]:
        """Frames of a scored window that count: all but its clean `context`, and only those that may learn."""
        counted = torch.ones(frames, dtype=torch.bool)
        counted[:context] = False
        if self.grad_frames is not None:
            counted[: max(0, frames - self.grad_frames)] = False
        return counted

    def spans(self, context: int, window: int | None, lesson: int) -> dict[str, int]:
        """How many frames the score, the rollout's window and a lesson of `lesson` frames see at once, by their key."""
        longest = max(self.lengths)
        seen = {"module.rollout.scored": self.scored + context, "rollout.window": min(window or longest, longest)}
        return {**seen, "data.frames": lesson}
