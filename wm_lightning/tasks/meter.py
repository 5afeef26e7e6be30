"""Counts what tensors take while code runs, on tensors that have shapes and no memory as well as on real ones."""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

ATEN = torch.ops.aten
CPU = torch.device("cpu")
# torch knows the FLOPs of attention by its kernels on a GPU; the CPU's have other arguments behind the same first ones.
FLOPS: dict[Any, Any] = {
    **flop_registry,
    ATEN._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: flop_registry[
        ATEN._scaled_dot_product_flash_attention
    ](q, k, v),
    ATEN._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, q, k, v, *_, **__: flop_registry[
        ATEN._scaled_dot_product_flash_attention_backward
    ](grad, q, k, v),
}


class Meter(TorchDispatchMode):
    """Bytes of the tensors alive, the most that there were at once, and FLOPs, of all that runs inside it.

    `most` counts everything; `most_passing` leaves out what was `held` before, and finished gradients.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.most = self.held = self.gradients = self.most_passing = 0
        self.flops = 0.0
        self._known: set[int] = set()
        self._gradients: set[int] = set()

    def hold(self, tensors: Iterable[Tensor]) -> None:
        """Counts tensors that are there from now on, whatever runs."""
        before = self.alive
        for tensor in tensors:
            self._add(tensor)
        self.held += self.alive - before
        self.most_passing = 0

    def finished(self, parameter: Tensor) -> None:
        """Counts the parameter's gradient as one, until it is freed; a hook for `watch`."""
        assert parameter.grad is not None
        storage = _storage(parameter.grad)
        if id(storage) not in self._gradients:
            self._gradients.add(id(storage))
            self.gradients += storage.nbytes()
            weakref.finalize(storage, self._dropped, id(storage), storage.nbytes())

    @contextmanager
    def watch(self, module: nn.Module) -> Iterator[None]:
        """Runs the meter, the gradients of a module's parameters told apart."""
        hooks = [p.register_post_accumulate_grad_hook(self.finished) for p in module.parameters() if p.requires_grad]
        with self:
            yield
        for hook in hooks:
            hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # The one value that a training step asks for is whether its gradient is finite.
        if func is ATEN._local_scalar_dense.default and isinstance(args[0], Shape):
            return True
        made = func(*args, **(kwargs or {}))
        if (count := FLOPS.get(func._overloadpacket)) is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=made)
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        return made

    def _add(self, tensor: Tensor) -> None:
        storage = _storage(tensor)
        key, size = id(storage), storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.alive += size
        self.most = max(self.most, self.alive)
        self.most_passing = max(self.most_passing, self.alive - self.held - self.gradients)
        weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size

    def _dropped(self, key: int, size: int) -> None:
        self._gradients.discard(key)
        self.gradients -= size


class Shape(Tensor):
    """A tensor that claims to be on the CPU and has no memory: autocast and the choice of kernels see a CPU.

    torch's own FakeTensor does the same at many times the cost. Real tensors may join, as noise and masks do.
    """

    bare: Tensor  # the same on the meta device

    @staticmethod
    def __new__(cls, bare: Tensor) -> "Shape":
        made: Shape = Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls, bare.shape, strides=bare.stride(), storage_offset=bare.storage_offset(), dtype=bare.dtype, device=CPU
        )
        made.bare = bare
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(leaf.bare): leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Shape)}
        bare_args, bare_kwargs = tree_map(_bare, (args, kwargs or {}))
        made = func(*bare_args, **bare_kwargs)

        def dressed(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            # What an operation changed in place is what it was given.
            return given[id(leaf)] if id(leaf) in given else Shape(leaf)

        return tree_map(dressed, made)


def _bare(leaf: Any) -> Any:
    if isinstance(leaf, Shape):
        return leaf.bare
    if isinstance(leaf, Tensor):
        return leaf.to("meta")
    return torch.device("meta") if isinstance(leaf, torch.device) else leaf


def without_memory(module: nn.Module) -> None:
    """Gives a module that was built on the meta device such tensors; counters, which are read, begin at 0."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and parameter.is_meta:
                made = Shape(parameter.detach())
                part._parameters[name] = nn.Parameter(made, requires_grad=parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None and buffer.is_meta:
                part._buffers[name] = torch.zeros_like(buffer, device=CPU) if buffer.ndim == 0 else Shape(buffer)


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    return (tensor.bare if isinstance(tensor, Shape) else tensor).untyped_storage()


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
