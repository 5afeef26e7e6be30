"""The exponential moving average of one network."""

import copy

import torch
from torch import Tensor, nn


class Average(nn.Module):
    """A copy whose parameters follow the network's: a ← decay · a + (1 − decay) · p at every `every`-th update.

    Until `start` updates have been made it is the network itself. The decay of the n-th step of the average is `decay`,
    or at most that: (1 + n) / (10 + n) with `power`, n times `rise` where that is above 0. Counted in the network's own
    updates, never in the Trainer's steps. `kept_in` is the module that holds it, of the network's parameters; a copy
    of the network if None.
    """

    updates: Tensor

    def __init__(
        self, network: nn.Module, *, decay: float, start: int, every: int = 1, power: bool = False, rise: float = 0.0,
        kept_in: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if every < 1:
            raise ValueError(f"module.ema_every={every} counts updates; give 1 or more")
        self.network = copy.deepcopy(network).requires_grad_(False) if kept_in is None else kept_in
        self.decay, self.start, self.every, self.power, self.rise = decay, start, every, power, rise
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    # Without no_grad a foreach-lerp on parameters that require grad silently grows a graph.
    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Counts an update of `network`, and takes a step towards it where one is due."""
        self.updates += 1
        made, step = int(self.updates), int(self.updates) // self.every
        if made > self.start and made % self.every:
            return
        decay = min(self.decay, (1 + step) / (10 + step)) if self.power else self.decay
        decay = min(decay, self.rise * step) if self.rise else decay
        weight = 1.0 if made <= self.start else 1 - decay
        torch._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), weight)  # pyright: ignore
