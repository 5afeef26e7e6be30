"""What a training takes by its config alone: bytes by role, FLOPs, steps."""

from dataclasses import dataclass

from omegaconf import DictConfig

from wm_lightning.tasks.meter import size_of
from wm_lightning.tasks.planned import Planned
from wm_lightning.tasks.rehearsal import Batch, Rehearsal, rehearse

GIB, MIB = 2**30, 2**20


@dataclass(frozen=True)
class Needs:
    """What one training takes: bytes by role, bytes at the fullest moment of a step, FLOPs of a step, and its steps."""

    name: str
    roles: dict[str, int]
    most: int
    flops: float
    iterations: int

    @property
    def unavoidable(self) -> int:
        """Bytes that no smaller batch saves."""
        return sum(size for role, size in self.roles.items() if role != "activations")

    def __str__(self) -> str:
        shown = "; ".join(f"{role} {sized(size)}" for role, size in self.roles.items() if size)
        return f"{sized(self.most)} at the fullest moment of a step ({shown}; not all of it at once)"


def sized(size: int) -> str:
    """Bytes in words."""
    return f"{size / GIB:.2f} GiB" if size >= GIB else f"{size / MIB:.0f} MiB"


def needs_of(planned: Planned) -> Needs:
    """What a planned training takes. Its module is used up."""
    config = planned.config
    shape = (config.network.channels, config.network.height, config.network.width)
    words = config.data.prompter.length if "prompter" in config.data else 0
    batch = Batch(config.module.batch_size, config.data.frames, shape, config.network.actions, words)
    found = rehearse(planned.module, batch, precision=str(config.trainer.precision))
    # On a GPU the file stays in main memory.
    beside = (
        {} if planned.file is None or config.trainer.accelerator == "gpu" else {"file": planned.file.weights.values()}
    )
    held = {f"{name} it begins from": size_of(values) for name, values in beside.items()}
    copies = _copies(config)
    roles = {role: size * copies for role, size in {**_roles(found), **held}.items()}
    most = copies * (found.most + sum(held.values()))
    return Needs(str(config.name), roles, most, found.flops, config.module.iterations)


def _roles(found: Rehearsal) -> dict[str, int]:
    parts = {"weights": found.weights, "gradients": found.gradients, "optimizer": found.optimizer}
    rows = {f"{name}'s {what}": size for what, sizes in parts.items() for name, size in sizes.items()}
    return {**rows, "activations": found.passing}


def _copies(config: DictConfig) -> int:
    """How many processes share the memory that is looked at: those of a CPU; a GPU has one."""
    devices = config.trainer.devices
    return devices if config.trainer.accelerator != "gpu" and isinstance(devices, int) else 1
