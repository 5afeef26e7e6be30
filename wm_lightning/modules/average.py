"""The exponential moving average of one network."""

import copy

import torch
from torch import Tensor, nn


class Average(nn.Module):
    """A copy whose parameters follow the network's: a ← decay · a + (1 − decay) · p at every update.

    Until `start` updates have been made it is the network itself. Counted in the network's own
    updates, never in the Trainer's steps.
    """

    updates: Tensor

    def __init__(self, network: nn.Module, *, decay: float, start: int) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.decay, self.start = decay, start
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    # Without no_grad a foreach-lerp on parameters that require grad silently grows a graph.
    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """One step towards `network`."""
        self.updates += 1
        weight = 1.0 if int(self.updates) <= self.start else 1 - self.decay
        torch._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), weight)  # pyright: ignore
