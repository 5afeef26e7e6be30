"""Training of a policy on demonstrations."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from wm_lightning.envs.demonstrations import Demonstrations
from wm_lightning.networks.cloned_policy import ClonedPolicy

Batch = Sequence[Tensor]  # frames, goals and actions of demonstrations


class CloningModule(LightningModule):
    """Squared error of standardised actions (behaviour cloning).

    After each of `lengths` iterations it keeps the weights, so that one training gives policies of several lengths.
    """

    def __init__(self, *, network: ClonedPolicy, optimizer: Callable[[Any], Optimizer], lengths: Sequence[int]) -> None:
        super().__init__()
        self.network, self.make_optimizer, self.lengths = network, optimizer, set(lengths)
        self.kept: dict[int, dict[str, Tensor]] = {}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean squared error over all actions of the chunks."""
        loss = cloning_loss(self.network, *batch)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Keeps the weights where a length is reached."""
        if batch_idx + 1 in self.lengths:
            weights = self.network.state_dict()
            self.kept[batch_idx + 1] = {name: value.detach().cpu().clone() for name, value in weights.items()}

    def configure_optimizers(self) -> Optimizer:
        return self.make_optimizer(self.network.parameters())


def cloning_loss(network: ClonedPolicy, frame: Tensor, goal: Tensor, actions: Tensor) -> Tensor:
    """Mean squared error of standardised actions, over columns that vary."""
    error = (network(frame, goal) - network.standardised(actions)).square()
    return error[..., network.scale > 0].mean()


@torch.no_grad()
def loss_on(network: ClonedPolicy, shown: Demonstrations, batch_size: int) -> float | None:
    """The mean over all demonstrations; None where there are none."""
    total = 0.0
    for rows in torch.arange(len(shown.goal)).split(batch_size):
        total += len(rows) * float(cloning_loss(network, shown.frame[rows], shown.goal[rows], shown.actions[rows]))
    return total / len(shown.goal) if len(shown.goal) else None
