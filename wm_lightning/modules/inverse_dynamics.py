"""Training of an inverse-dynamics network on real clips."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from wm_lightning.clip import ActionState, Clip
from wm_lightning.metrics.action_fidelity import Recovery
from wm_lightning.networks.inverse_dynamics import InverseDynamics


class InverseDynamicsModule(LightningModule):
    """Squared error of standardised actions; validation gives R2, the ceiling of any generated video."""

    def __init__(
        self, *, network: InverseDynamics, optimizer: Callable[[Any], Optimizer], names: Sequence[str], horizon: int
    ) -> None:
        """`names` are those of action columns; `horizon` frames follow the first of every validation clip."""
        super().__init__()
        self.network, self.make_optimizer = network, optimizer
        self.readings, self.matrix = network.readings(names)
        self.recovery = Recovery(horizon=horizon, columns=len(self.readings))
        self.clips = 0

    def training_step(self, clip: Clip, batch_idx: int) -> Tensor:
        """Mean squared error over the frames that an action produced."""
        given = clip.condition.state == ActionState.GIVEN
        given[:, 0] = False  # its cause lies before the clip
        error = self.network(clip.video) - self.network.standardised(clip.condition.actions)
        loss = error[given].square().mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, clip: Clip, batch_idx: int) -> None:
        """Adds the clips to the ceiling."""
        update_recovery(self.recovery, self.network, clip, clip.video, 1, self.matrix)
        self.clips += len(clip)

    def on_validation_epoch_end(self) -> None:
        """Logs R2 over all validation clips, and keeps it by what is read."""
        self.log("val/recovery", self.recovery.mean(), prog_bar=True)
        self.ceiling = dict(zip(self.readings, self.recovery.by_column().tolist(), strict=True))
        self.recovery.reset()

    def on_validation_epoch_start(self) -> None:
        """Counts the clips anew."""
        self.clips = 0

    def configure_optimizers(self) -> Optimizer:
        return self.make_optimizer(self.network.parameters())


@torch.no_grad()
def update_recovery(
    recovery: Recovery, network: InverseDynamics, clip: Clip, video: Tensor, context: int,
    matrix: Float[Tensor, "a q"],
) -> None:  # fmt: skip
    """Adds what the network reads off `video` (`b f c h w`, uint8) to the recovery of the clip's actions.

    `matrix` makes of standardised columns what is read, see `InverseDynamics.readings`.
    """
    condition, matrix = clip.condition, matrix.to(video.device)
    given = (condition.state == ActionState.GIVEN)[:, context : video.shape[1]]
    wanted = network.standardised(condition.actions[:, : video.shape[1]])
    recovery.update((network(video) @ matrix)[:, context:], (wanted @ matrix)[:, context:], given)
