"""What a training takes by its config alone: bytes by role, FLOPs, steps."""

from dataclasses import dataclass, replace

import torch
from omegaconf import DictConfig
from torch import nn

from wm_lightning.tasks.meter import size_of
from wm_lightning.tasks.planned import Planned
from wm_lightning.tasks.rehearsal import Batch, Rehearsal, rehearse

GIB, MIB = 2**30, 2**20
SHARDED = "wm_lightning.modules.sharding.Sharded"


@dataclass(frozen=True)
class Needs:
    """What one training takes: bytes by role, bytes at the fullest moment of a step, FLOPs of a step, and its steps.

    With `shares` above 1 a process holds one of so many shares of weights, gradients and optimizers' states.
    """

    name: str
    roles: dict[str, int]
    most: int
    flops: float
    iterations: int
    shares: int = 1

    @property
    def unavoidable(self) -> int:
        """Bytes that no smaller batch saves."""
        return sum(size for role, size in self.roles.items() if role != "activations")

    def __str__(self) -> str:
        shown = "; ".join(f"{role} {sized(size)}" for role, size in self.roles.items() if size)
        shared = f"; of what is sharded, one of {self.shares} shares" if self.shares > 1 else ""
        return f"{sized(self.most)} at the fullest moment of a step ({shown}; not all of it at once{shared})"


def sized(size: int) -> str:
    """Bytes in words."""
    return f"{size / GIB:.2f} GiB" if size >= GIB else f"{size / MIB:.0f} MiB"


def needs_of(planned: Planned) -> Needs:
    """What a planned training takes. Its module is used up."""
    config = planned.config
    shape = (config.network.channels, config.network.height, config.network.width)
    told = config.data.get("encoders") or config.data.get("prompter") or {}
    prompt = (int(told.get("length", 0)), int(told.get("width", 0)))
    batch = Batch(config.module.batch_size, config.data.frames, shape, config.network.actions, *prompt)
    found = rehearse(planned.module, batch, precision=str(config.trainer.precision))
    # On a GPU the file stays in main memory.
    beside = (
        {} if planned.file is None or config.trainer.accelerator == "gpu" else {"file": planned.file.weights.values()}
    )
    held = {f"{name} it begins from": size_of(values) for name, values in beside.items()}
    shares = shares_of(config)
    if shares > 1:
        found = shared_out(found, shares, gradients=not _micro_batches(config))
        held["blocks that are whole while they run"] = _whole(planned.module)
    copies = _copies(config)
    roles = {role: size * copies for role, size in {**_roles(found), **held}.items()}
    most = copies * (found.most + sum(held.values()))
    return Needs(str(config.name), roles, most, found.flops, config.module.iterations, shares)


def shares_of(config: DictConfig) -> int:
    """Among how many processes every network is shared out (trainer=fsdp); 1 where each holds all of them."""
    strategy, devices = config.trainer.get("strategy"), config.trainer.get("devices", 1)
    if not isinstance(strategy, DictConfig) or strategy.get("_target_") != SHARDED:
        return 1
    if devices in ("auto", -1, "-1"):
        devices = torch.cuda.device_count() if config.trainer.accelerator == "gpu" else 1
    if isinstance(devices, str) and not devices.isdigit():
        devices = devices.split(",")
    here = int(devices) if isinstance(devices, int | str) else len(devices)
    return max(1, here) * int(config.trainer.get("num_nodes", 1))


def shared_out(found: Rehearsal, shares: int, *, gradients: bool) -> Rehearsal:
    """What one of so many processes takes that hold a share each of all but what comes and goes.

    Without `gradients` these are whole on each. Of those at the fullest moment as many are counted as shared as were
    there for certain, so that what is found is rather more than less.
    """
    share = lambda sizes: {name: -(-size // shares) for name, size in sizes.items()}  # noqa: E731
    held = sum(found.weights.values()) + sum(found.optimizer.values())
    shared = held + (max(0, found.most - held - found.passing) if gradients else 0)
    return replace(
        found,
        weights=share(found.weights),
        optimizer=share(found.optimizer),
        gradients=share(found.gradients) if gradients else found.gradients,
        most=found.most - shared + -(-shared // shares),
    )


def _micro_batches(config: DictConfig) -> bool:
    """Whether gradients of several backward passes are added up, which every process does with whole ones."""
    return config.module.get("micro_batches", 1) > 1 or "micro_batch" in config.module


def _whole(module: nn.Module) -> int:
    """Bytes of what is whole at once of the largest network: its ends, a block and the next, and one's gradients."""
    # Here: what a run does not use must not be part of what its results were made by.
    from wm_lightning.modules.sharding import blocks_of, networks  # noqa: PLC0415

    most = 0
    for network in networks(module):
        blocks = sorted((size_of(block.parameters()) for block in blocks_of(network)), reverse=True)
        ends = size_of(network.parameters()) - sum(blocks)
        most = max(most, 2 * (ends + sum(blocks[:1])) + sum(blocks[1:2]))
    return most


def _roles(found: Rehearsal) -> dict[str, int]:
    parts = {"weights": found.weights, "gradients": found.gradients, "optimizer": found.optimizer}
    rows = {f"{name}'s {what}": size for what, sizes in parts.items() for name, size in sizes.items()}
    return {**rows, "activations": found.passing}


def _copies(config: DictConfig) -> int:
    """How many processes share the memory that is looked at: those of a CPU; a GPU has one."""
    devices = config.trainer.devices
    return devices if config.trainer.accelerator != "gpu" and isinstance(devices, int) else 1
