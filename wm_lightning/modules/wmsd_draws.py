"""What chance decides in an iteration of WMSD. It hangs on run, iteration, task and copy, and on no number of ranks."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from wm_lightning.clip import Latents
from wm_lightning.modules.wmsd_surrogates import Surrogate
from wm_lightning.randomness import generator, normal
from wm_lightning.sampling.rollout import SeededNoise
from wm_lightning.sampling.samplers import Sampler


@dataclass(frozen=True)
class Draws:
    """Noise of an iteration's rollouts, `copies` of each of the `tasks`, whose numbers in the data these are."""

    seed: int
    iteration: int
    tasks: Sequence[int]
    copies: int
    device: torch.device

    def noise(self, purpose: str) -> SeededNoise:
        """That of rollouts, or of videos at every level."""
        samples = tuple(task * self.copies + copy for task in self.tasks for copy in range(self.copies))
        return SeededNoise(self.seed, f"{purpose}/{self.iteration}", samples, self.device)

    def matching(self, frames: Sequence[int], rows: slice, draw: int) -> Latents:
        """That which losses put on the finished videos of some rollouts, `frames` in shape, once for every draw."""
        copies, place = self.copies, (self.seed, "wmsd matching", self.iteration)
        chosen = range(len(self.tasks) * copies)[rows]
        return torch.stack([normal(frames, *place, self.tasks[row // copies], row % copies, draw) for row in chosen])

    def scored(self, steps: int, draws: int) -> Int[Tensor, "draws"]:
        """The numbers of the sampler's steps at whose levels videos are scored."""
        return torch.from_numpy(generator(self.seed, "wmsd score", self.iteration).integers(steps, size=draws))


@dataclass(frozen=True)
class Picked:
    """The numbers of the sampler's steps that the policy learns at, and of those whose states the anchor does."""

    policy: Int[Tensor, "draws"]
    anchor: Int[Tensor, "drawn"]

    @classmethod
    def of(
        cls, surrogate: Surrogate | None, sampler: Sampler, steps: int, drawn: int, seed: int, *place: int
    ) -> "Picked":
        """Of a rollout's `steps`, `drawn` for the anchor and the surrogate's own number for it; None has 1 of any."""
        able, draws = (range(steps), 1) if surrogate is None else (surrogate.eligible(sampler), surrogate.draws)
        return cls(
            policy=torch.tensor(able)[stratified(len(able), draws, seed, "wmsd policy", *place)],
            anchor=stratified(steps, drawn, seed, "wmsd anchor", *place),
        )


def stratified(steps: int, draws: int, seed: int, purpose: str, *place: int) -> Int[Tensor, "draws"]:
    """One step from each of `draws` equal stretches of all steps, in order.

    Raises ValueError for more draws than steps.
    """
    if not 1 <= draws <= steps:
        raise ValueError(f"{draws} levels of a rollout of {steps} steps; ask for 1 to {steps}")
    source = generator(seed, purpose, *place)
    edges = [steps * number / draws for number in range(draws + 1)]
    drawn = [int(source.uniform(low, high)) for low, high in zip(edges, edges[1:], strict=False)]
    return torch.tensor([min(step, steps - 1) for step in drawn])
