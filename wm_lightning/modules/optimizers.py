"""Optimizers of one network, and the learning-rate schedule they share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
    fresh: Sequence[str] = (),
    fresh_scale: float = 1.0,
) -> list[Optimizer]:
    """AdamW on every parameter; with `muon_lr`, Muon on matrices and kernels of the blocks and AdamW on the rest.

    Parts of the network named in `fresh` learn at `fresh_scale` times these rates: what a pretrained file had not.
    Raises ValueError for settings that no optimizer takes, as a negative rate.
    """
    matrices, others = _Groups(fresh_scale), _Groups(fresh_scale)
    for name, parameter in network.named_parameters():
        part = name.split(".")[0]
        inside = parameter.ndim >= 2 and part not in OUTSIDE_BLOCKS
        (matrices if inside and muon_lr is not None else others).add(parameter, fresh=part in fresh)
    beta1, beta2 = betas
    found: list[Optimizer] = []
    try:
        if muon_lr is not None:
            groups = matrices.at(muon_lr)
            found.append(Muon(groups, lr=muon_lr, momentum=momentum, weight_decay=weight_decay))
        groups = others.at(lr)
        found.append(torch.optim.AdamW(groups, lr=lr, betas=(beta1, beta2), weight_decay=weight_decay, eps=eps))
    except ValueError as error:
        raise ValueError(f"the optimizer of this module cannot be made: {error}; change its settings") from error
    return found


class _Groups:
    """Parameters of one optimizer: those that were there, and fresh ones."""

    def __init__(self, fresh_scale: float) -> None:
        self.known: list[nn.Parameter] = []
        self.fresh: list[nn.Parameter] = []
        self.fresh_scale = fresh_scale

    def add(self, parameter: nn.Parameter, *, fresh: bool) -> None:
        (self.fresh if fresh else self.known).append(parameter)

    def at(self, rate: float) -> list[dict[str, Any]]:
        """As groups of an optimizer, each with its rate; one without parameters is left out."""
        both = {"params": self.known, "lr": rate}, {"params": self.fresh, "lr": rate * self.fresh_scale}
        return [group for group in both if group["params"]]


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
