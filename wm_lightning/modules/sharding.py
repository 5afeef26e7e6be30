"""Networks sharded over ranks (FSDP2): each holds a part of the weights, gradients and optimizers' states."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from wm_lightning.modules.average import Average
from wm_lightning.modules.frozen import Frozen
from wm_lightning.networks.lora import Role

# What is called of a network or its blocks beside their forward, and reads weights.
METHODS = ("begun", "remember")


class Sharded(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, which shards the networks of a module by itself.

    A block's weights are whole while it runs and on no rank afterwards. Checkpoints are those of one process, whole
    tensors under the same names: a run goes on under any trainer, and what reads its files need not know.
    """

    def __init__(self) -> None:
        super().__init__(save_distributed_checkpoint=False)

    # Lightning's own restore, with what it restores sharded below.
    lightning_restore_optimizer = True  # pyright: ignore[reportAssignmentType]

    def setup_environment(self) -> None:
        """All ranks share the data, and each network among them."""
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        """Shards the networks, which every rank built alike, and then makes the optimizers."""
        assert self.accelerator is not None and isinstance(self.model, LightningModule)
        self.accelerator.setup(trainer)
        self.model = self.precision_plugin.convert_module(self.model)
        # Part by part onto the device, where never all of it need find room, and the rest after them.
        for network in networks(self.model):
            shard(network, self.device_mesh["data_parallel"])
        self.model_to_device()
        self.barrier()
        if trainer.state.fn == "fit":
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Gradients are added up on every rank, whole, and shared out by the first backward pass outside."""
        assert self.model is not None
        parts = [part for part in self.model.modules() if isinstance(part, FSDPModule)]
        for part in parts:
            part.set_requires_gradient_sync(False, recurse=False)
        try:
            yield
        finally:
            for part in parts:
                part.set_requires_gradient_sync(True, recurse=False)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Whole values on rank zero, nothing on the others. All ranks must call it."""
        assert self.model is not None
        return self._gathered(self.model.state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Whole values on rank zero, nothing on the others. All ranks must call it."""
        bare = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        return self._gathered(bare.state_dict())

    def _gathered(self, content: dict[str, Any]) -> dict[str, Any]:
        # One at a time, and let go at once where they are not written.
        first = self.global_rank == 0
        found = tree_map(lambda value: kept(value, first) if isinstance(value, Tensor) else value, content)
        return found if first else {}

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """The whole content, read by every rank."""
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Takes this rank's part of every value."""
        assert self.model is not None
        own = self.model.state_dict()
        given = {name: like(value, own.get(name)) for name, value in checkpoint["state_dict"].items()}
        self.model.load_state_dict(given, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Takes this rank's part of every state that has its parameter's shape."""
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            places = [place for group in saved["param_groups"] for place in group["params"]]
            of = dict(zip(places, parameters, strict=True))
            state = {
                place: {name: like(value, of[place]) for name, value in values.items()}
                for place, values in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": state})


def networks(module: nn.Module) -> Iterator[nn.Module]:
    """The networks that a module holds, learning, averaged and frozen; one that several roles share comes once."""
    for child in module.children():
        network: Any = child.network if isinstance(child, Average | Frozen) else child
        if not isinstance(network, Role) and any(True for _ in network.parameters()):
            yield network


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The parts of a network that are whole one after the other: what stands in its lists."""
    lists = [child for child in network.children() if isinstance(child, nn.ModuleList)]
    return [block for blocks in lists for block in blocks if any(True for _ in block.parameters())]


def shard(network: nn.Module, mesh: DeviceMesh) -> None:
    """Shards the blocks of a network one by one, and the rest of it together."""
    for parameter in network.parameters():
        if parameter.numel() == 0:
            parameter.requires_grad_(False)  # of no actions, say: nothing to learn, and no gradient to share out
    for part in (*blocks_of(network), network):
        fully_shard(part, mesh=mesh, reshard_after_forward=True)
        for name in METHODS:
            if hasattr(part, name):
                register_fsdp_forward_method(part, name)


def kept(value: Tensor, keep: bool) -> Tensor | None:
    """The whole value on the CPU, or None. All ranks must call it."""
    if value.numel() == 0:  # nothing can be gathered
        whole = torch.zeros(value.shape, dtype=value.dtype)
    else:
        whole = value.full_tensor() if isinstance(value, DTensor) else value
    return whole.cpu() if keep else None


def like(value: Any, own: Tensor | None) -> Any:
    """This rank's part of a whole value that stands for `own`; itself where that is not sharded, or no such value."""
    if not isinstance(own, DTensor) or not isinstance(value, Tensor) or value.shape != own.shape:
        return value
    if value.numel() == 0:
        return torch.zeros_like(own)
    # Every rank has the whole value, so none need send it.
    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements, src_data_rank=None)
