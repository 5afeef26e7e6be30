"""Noise levels given outright, for models that were distilled to a few of them and know no others."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from wm_lightning.noising import GaussianPath
from wm_lightning.sampling.samplers import StepList


@dataclass(frozen=True)
class GivenLevels(StepList):
    """The flow-equivalent levels of a sampler's steps, falling from 1; the end, 0, is not among them.

    Raises ValueError unless there are `steps` of them, each below the one before.
    """

    kind: Literal["uniform", "matched", "indices"] = "matched"
    steps: int = 0
    levels: Sequence[float] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(self.levels))
        super().__post_init__()
        falling = all(before > after for before, after in zip(self.levels, (*self.levels[1:], 0.0), strict=True))
        if len(self.levels) != self.steps or not falling or max(self.levels) > 1:
            raise ValueError(f"sampler.steps.steps={self.steps} levels, falling from 1, are expected: {self.levels}")

    def with_steps(self, steps: int) -> "GivenLevels":
        """So many of the levels, evenly chosen, the noisiest kept. Raises ValueError for more than there are."""
        if steps > self.steps:
            raise ValueError(f"{steps} steps cannot be made of {self.steps} given levels; use kind=matched")
        kept = tuple(self.levels[place * self.steps // steps] for place in range(steps))
        return replace(self, steps=steps, levels=kept)

    def times(self, path: GaussianPath) -> Float[Tensor, "k"]:
        return torch.cat([path.time(torch.tensor(self.levels, dtype=torch.float64)).float(), torch.zeros(1)])
