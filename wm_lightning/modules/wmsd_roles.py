"""Who takes part in an executor's training: copies of a network, or adapters of one."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from torch import nn

from wm_lightning.checkpoints import NetworkFile, load_into
from wm_lightning.modules.frozen import Frozen
from wm_lightning.modules.wmsd_algorithm import Algorithm
from wm_lightning.networks.lora import Adapters, LoRA, Role


@dataclass(frozen=True)
class Roles:
    """The executor, what its moving average is kept in, the demonstrator, and a critic where there is one; the base as
    it was, as the `reference` that a demonstrator is held to; and what the `old` policy is kept in.

    With `lora` one network is all of them: executor, average, old policy and critic are adapters of it, and the
    demonstrator is the network without any, or another where rewards move it. Then `base` holds that network, which
    stays as it is. `start` is the SHA-256 of what all of them began as.
    """

    start: str
    executor: nn.Module
    average: nn.Module
    demonstrator: nn.Module
    base: Frozen | None
    critic: nn.Module | None
    reference: nn.Module | None
    old: nn.Module | None

    @classmethod
    def of(
        cls, network: Callable[[], nn.Module], start: NetworkFile | None, lora: LoRA | None, algorithm: Algorithm,
        new: Sequence[str] = (), *, old: bool = False,
    ) -> "Roles":  # fmt: skip
        """Those that the algorithm has, and an `old` policy, all as `start` is. Rewards alone may move a demonstrator.

        Parts that `new` names may be missing in the file (see `grown`); they begin alike in all roles. Raises
        ValueError without a file, and for new parts of adapters, which change layers that have learned.
        """
        if start is None:
            raise ValueError("module.start=null: executor and demonstrator begin as one base; name its file")
        first = network()
        if lora is not None:
            if new:
                raise ValueError(
                    f"module.start_new={list(new)} with module.lora: new parts are learned whole, and adapters change "
                    f"layers that have learned; set module.lora=null"
                )
            load_into(first, start, "module.start")
            return cls._adapted(first, start.sha256, lora, algorithm, old)
        base = network()
        load_into(first, grown(start, first, new), "module.start")
        base.load_state_dict(first.state_dict())
        return cls(
            start.sha256, first, copy.deepcopy(first).requires_grad_(False),
            base if algorithm.moves_demonstrator else Frozen(base), None,
            copy.deepcopy(first) if algorithm.critic else None,
            Frozen(copy.deepcopy(first)) if algorithm.hold else None,
            copy.deepcopy(first).requires_grad_(False) if old else None,
        )  # fmt: skip

    @classmethod
    def _adapted(cls, network: nn.Module, start: str, lora: LoRA, algorithm: Algorithm, old: bool) -> "Roles":
        moved, critic = algorithm.moves_demonstrator, algorithm.critic > 0
        # Before there are adapters, for it takes all gradients away.
        base, learning = Frozen(network), ["executor"] + ["demonstrator"] * moved + ["critic"] * critic
        adapters = Adapters(network, lora, [*learning, "average"] + ["old"] * old, learning)
        demonstrator = Role(adapters, "demonstrator" if moved else None)
        learner = Role(adapters, "critic") if critic else None
        reference = Role(adapters, None) if algorithm.hold else None
        return cls(
            start, Role(adapters, "executor"), Role(adapters, "average"), demonstrator, base, learner, reference,
            Role(adapters, "old") if old else None,
        )  # fmt: skip


@contextmanager
def resting(role: nn.Module) -> Iterator[nn.Module]:
    """The role while it learns nothing and is asked as it would be when deployed: in eval mode."""
    role.eval()
    yield role
    role.train()


def grown(file: NetworkFile, network: nn.Module, new: Sequence[str]) -> NetworkFile:
    """The file with the network's own weights for what it lacks of parts of these names, wherever in it they stand.

    All else must be in the file. Its hash stays that of what was read.
    """
    own = {name: value for name, value in network.state_dict().items() if set(new) & set(name.split("."))}
    return replace(file, weights={**own, **file.weights})
