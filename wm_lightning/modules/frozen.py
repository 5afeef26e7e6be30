"""A network that is used and never trained."""

from collections.abc import Mapping
from typing import Any

from torch import nn


class Frozen(nn.Module):
    """Holds a network in eval mode without gradient, and out of checkpoints.

    Its keys are left out of the state dict and put back on load, so that loading stays strict; where
    the weights came from is recorded by whoever made it.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        self.register_load_state_dict_pre_hook(_put_back)

    def train(self, mode: bool = True) -> "Frozen":
        """Stays in eval mode."""
        return super().train(False)

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """Nothing: a checkpoint refers to a frozen network by hash."""
        return {} if destination is None else destination

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's own forward."""
        return self.network(*args, **kwargs)


def _put_back(module: Frozen, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    own: Mapping[str, Any] = module.network.state_dict()
    state_dict.update({f"{prefix}network.{name}": value for name, value in own.items()})
