"""How fast training steps are beside nothing but their own matrix products: the share of the roof that they reach."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from wm_lightning.compute import now
from wm_lightning.tasks.bench_entries import Comparison
from wm_lightning.tasks.bench_training import Training
from wm_lightning.tasks.machine import product_rate

aten = torch.ops.aten
PRODUCTS = {aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.convolution, aten.convolution_backward}
ALONE = 5  # runs of every product, one behind the other


@dataclass(frozen=True)
class Like:
    """A tensor without its values."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def made(self, device: torch.device) -> Tensor:
        """One laid out as it was, of small values."""
        return torch.empty_strided(self.size, self.stride, dtype=self.dtype, device=device).fill_(0.01)


class Products(TorchDispatchMode):
    """Counts the matrix products and convolutions that are run, by their arguments; attention's own are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[tuple[Any, str]] = Counter()
        self.arguments: dict[tuple[Any, str], Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in PRODUCTS:
            like = tree_map_only(Tensor, lambda x: Like(tuple(x.shape), x.stride(), x.dtype), (args, kwargs or {}))
            key = func, repr(like)
            self.seen[key] += 1
            self.arguments[key] = like
        return func(*args, **(kwargs or {}))

    @torch.no_grad()
    def alone(self, device: torch.device) -> tuple[float, float]:
        """FLOPs of all of them, and the seconds they take one after the other with nothing between."""
        flops = seconds = 0.0
        for (func, _), count in self.seen.items():
            args, kwargs = tree_map_only(Like, lambda like: like.made(device), self.arguments[func, _])
            with FlopCounterMode(display=False) as counter:
                func(*args, **kwargs)
            flops += count * counter.get_total_flops()
            start = now(device)
            for _ in range(ALONE):
                func(*args, **kwargs)
            seconds += count * (now(device) - start) / ALONE
        return flops, seconds


def of_products(training: Training, least: float) -> Iterator[Comparison]:
    """How many FLOPs of products a second every module's steps by hand make, against the same products timed alone, and
    against the fastest square product of this machine. All in turn, `repeats` times; medians. `least` is aimed at."""
    loader = iter(training.data.train_dataloader())
    clips = [next(loader) for _ in range(training.warmup + training.steps)]
    # What a step is depends on its number, so those that are counted are those that are timed.
    every = replace(training, warmup=0)
    dtype = torch.bfloat16 if "bf16" in str(training.config.trainer.precision) else torch.float32
    for name, make in training.makers().items():
        with Products() as products:
            every.by_hand(make(), clips)
        rates: dict[str, list[float]] = {"step": [], "products": [], "square": []}
        for _ in range(training.repeats):
            flops, seconds = products.alone(training.device)
            rates["products"].append(flops / seconds)
            rates["step"].append(flops / every.by_hand(make(), clips))
            rates["square"].append(product_rate(training.device, dtype))
        step, alone, square = (median(values) / 1e9 for values in rates.values())
        yield Comparison(f"{name} step, of its products", "GFLOP/s", "step", "products alone", step, alone, least=least)
        yield Comparison(f"{name} step, of the machine", "GFLOP/s", "step", "square products", step, square)
