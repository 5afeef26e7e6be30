"""A network with its path: x0 from x_t, whatever the network predicts."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from wm_lightning.clip import Condition, Latents, Levels
from wm_lightning.networks.begins import Begins
from wm_lightning.networks.masks import FrameMask
from wm_lightning.networks.rerun import Rerun
from wm_lightning.networks.state import State
from wm_lightning.noising import GaussianPath


@runtime_checkable
class Denoises(Protocol):
    """What a rollout needs of a model: clean frames from noisy ones, and memory."""

    @property
    def path(self) -> GaussianPath:
        """What noise it was trained with, and what its network predicts."""
        ...

    def begun(self, context: Latents, condition: Condition) -> Condition:
        """The condition with what the network is told of the first given frame; itself for most networks."""
        ...

    def x0(
        self, x_t: Latents, t: Levels, condition: Condition, past: State | None, mask: FrameMask
    ) -> tuple[Latents, State]:
        """Clean frames and the state that includes them."""
        ...

    def remember(self, x_t: Latents, t: Levels, condition: Condition, past: State | None, mask: FrameMask) -> State:
        """The state that includes these frames, without their x0."""
        ...


@dataclass(frozen=True)
class Denoiser:
    """A network and the path that says what it predicts."""

    network: nn.Module
    path: GaussianPath

    def begun(self, context: Latents, condition: Condition) -> Condition:
        network = self.network
        return network.begun(context, condition) if isinstance(network, Begins) else condition

    def predict(
        self, x_t: Latents, t: Levels, condition: Condition, past: State | None, mask: FrameMask
    ) -> tuple[Float[Tensor, "b f c h w"], State]:
        """The network's own prediction at fractional times t."""
        return self._running(x_t, self.path.label(t), condition, past, mask=mask)

    def x0(
        self, x_t: Latents, t: Levels, condition: Condition, past: State | None, mask: FrameMask
    ) -> tuple[Latents, State]:
        prediction, state = self.predict(x_t, t, condition, past, mask)
        return self.path.x0(x_t, prediction, t), state

    def remember(self, x_t: Latents, t: Levels, condition: Condition, past: State | None, mask: FrameMask) -> State:
        return self._running(x_t, self.path.label(t), condition, past, mask=mask, memory_only=True)[1]

    @property
    def _running(self) -> nn.Module:
        # A network that cannot remember is run again over what it has seen.
        return self.network if getattr(self.network, "remembers", True) else Rerun(self.network)
