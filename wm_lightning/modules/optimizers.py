"""Optimizers of one network, and the learning-rate schedule they share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer

from wm_lightning.modules.muon import Muon

# Parameters that are no matrix between hidden layers: embeddings and the two ends of the network.
OUTSIDE_BLOCKS = ("embed", "places", "level", "action", "head", "stem", "bypass", "rate", "resampler", "prompt")


def optimizers(
    network: nn.Module,
    *,
    lr: float,
    betas: Sequence[float],
    weight_decay: float,
    eps: float,
    muon_lr: float | None,
    momentum: float,
) -> list[Optimizer]:
    """AdamW on every parameter; with `muon_lr`, Muon on matrices and kernels of the blocks and AdamW on the rest.

    Raises ValueError for settings that no optimizer takes, as a negative rate.
    """
    matrices, others = [], []
    for name, parameter in network.named_parameters():
        inside = parameter.ndim >= 2 and name.split(".")[0] not in OUTSIDE_BLOCKS
        (matrices if inside and muon_lr is not None else others).append(parameter)
    beta1, beta2 = betas
    found: list[Optimizer] = []
    try:
        if muon_lr is not None:
            found.append(Muon(matrices, lr=muon_lr, momentum=momentum, weight_decay=weight_decay))
        found.append(torch.optim.AdamW(others, lr=lr, betas=(beta1, beta2), weight_decay=weight_decay, eps=eps))
    except ValueError as error:
        raise ValueError(f"the optimizer of this module cannot be made: {error}; change its settings") from error
    return found


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, a plateau, then a cosine to `final` of the rate from the share `decay_from` of all updates."""

    warmup: int
    decay_from: float
    final: float

    def scale(self, update: int, total: int) -> float:
        """Factor of the base rate at 0-based `update` of `total`."""
        if update < self.warmup:
            return (update + 1) / (self.warmup + 1)
        start = self.decay_from * total
        if update <= start or total <= start:
            return 1.0
        progress = min(1.0, (update - start) / (total - start))
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress))

    def apply(self, optimizers: Sequence[Optimizer], update: int, total: int) -> float:
        """Sets the rate of every group and returns the factor; the base rates are kept in the groups."""
        factor = self.scale(update, total)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
        return factor
