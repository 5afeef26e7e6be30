"""Who takes part in an executor's training: copies of a network, or adapters of one."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from wm_lightning.checkpoints import NetworkFile, load_into
from wm_lightning.modules.frozen import Frozen
from wm_lightning.networks.lora import Adapters, LoRA, Role


@dataclass(frozen=True)
class Roles:
    """The executor, what its moving average is kept in, the demonstrator, and a critic where there is one; and
    the base as it was, as the `reference` that a demonstrator is held to.

    With `lora` one network is all of them: executor, average and critic are adapters of it, and the demonstrator is the
    network without any, or another where rewards move it. Then `base` holds that network, which stays as it is.
    """

    executor: nn.Module
    average: nn.Module
    demonstrator: nn.Module
    base: Frozen | None
    critic: nn.Module | None
    reference: nn.Module | None

    @classmethod
    def of(
        cls, network: Callable[[], nn.Module], start: NetworkFile, lora: LoRA | None, *, rewarded: bool, critic: bool,
        held: bool, new: Sequence[str] = (),
    ) -> "Roles":  # fmt: skip
        """All of them as `start` is. Rewards may move the demonstrator where it is `rewarded`, and nothing else may.

        One that is `held` has a reference. Parts that `new` names may be missing in the file (see `grown`); they begin
        alike in all roles. Adapters change layers that have learned: ValueError is raised for both at once.
        """
        first = network()
        if lora is not None:
            if new:
                raise ValueError(
                    f"module.start_new={list(new)} with module.lora: new parts are learned whole, and adapters change "
                    f"layers that have learned; set module.lora=null"
                )
            load_into(first, start, "module.start")
            return cls._adapted(first, lora, rewarded, critic, held)
        base = network()
        load_into(first, grown(start, first, new), "module.start")
        base.load_state_dict(first.state_dict())
        average = copy.deepcopy(first).requires_grad_(False)
        learner = copy.deepcopy(first) if critic else None
        reference = Frozen(copy.deepcopy(first)) if held else None
        return cls(first, average, base if rewarded else Frozen(base), None, learner, reference)

    @classmethod
    def _adapted(cls, network: nn.Module, lora: LoRA, rewarded: bool, critic: bool, held: bool) -> "Roles":
        # Before there are adapters, for it takes all gradients away.
        base, learning = Frozen(network), ["executor"] + ["demonstrator"] * rewarded + ["critic"] * critic
        adapters = Adapters(network, lora, [*learning, "average"], learning)
        demonstrator = Role(adapters, "demonstrator" if rewarded else None)
        learner = Role(adapters, "critic") if critic else None
        reference = Role(adapters, None) if held else None
        return cls(Role(adapters, "executor"), Role(adapters, "average"), demonstrator, base, learner, reference)


def grown(file: NetworkFile, network: nn.Module, new: Sequence[str]) -> NetworkFile:
    """The file with the network's own weights for what it lacks of parts of these names, wherever in it they stand.

    All else must be in the file. Its hash stays that of what was read.
    """
    own = {name: value for name, value in network.state_dict().items() if set(new) & set(name.split("."))}
    return replace(file, weights={**own, **file.weights})


class RoleAverage(nn.Module):
    """The moving average of a role, kept in `network`: a ← decay · a + (1 − decay) · p at every `every`-th update.

    Until `start` updates have been made it is the role itself. With `power` the decay of the n-th step of the average
    is (1 + n) / (10 + n), and `decay` at most.
    """

    updates: Tensor

    def __init__(self, network: nn.Module, *, decay: float, start: int, every: int, power: bool) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"module.ema_every={every} counts updates; give 1 or more")
        self.network = network
        self.decay, self.start, self.every, self.power = decay, start, every, power
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
        weight = 1.0 if made <= self.start else 1 - decay
        torch._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), weight)  # pyright: ignore
