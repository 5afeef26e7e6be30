"""Muon, whose orthogonalisation runs in the precision the device is fast in, on all matrices of a shape at once."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

Matrices = Float[Tensor, "n rows columns"]
# The quintic whose slope at 0 is largest; singular values end between about 0.7 and 1.2 (Jordan et al. 2024).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5


class Muon(torch.optim.Optimizer):
    """torch's Muon with the same state and update, for kernels of convolutions too, a row for each channel they make.

    Products are made in float32 on a CPU: in bfloat16, which torch's has whatever the device, they are fifteen times
    slower where the CPU has none, a third of a small teacher's step. Raises ValueError for a parameter with one axis.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
    ) -> None:
        if lr < 0 or weight_decay < 0 or not 0 <= momentum < 1:
            raise ValueError(f"{lr=} and {weight_decay=} must not be negative, {momentum=} from 0 to below 1")
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        if thin := [tuple(p.shape) for group in self.param_groups for p in group["params"] if p.ndim < 2]:
            raise ValueError(f"Muon orthogonalises matrices and kernels, not parameters of shape {thin[0]}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update of every matrix that has a gradient (Nesterov momentum); returns what the closure returns."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes[parameter.shape].append(parameter)
            for shape, parameters in shapes.items():
                directions = torch.stack([self._direction(parameter, group["momentum"]) for parameter in parameters])
                matrices = directions.flatten(2)
                rate = group["lr"] * max(1.0, matrices.shape[1] / matrices.shape[2]) ** 0.5
                for parameter, direction in zip(parameters, orthogonalised(matrices), strict=True):
                    step = (rate * direction).view(shape)
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(step)
        return loss

    def _direction(self, parameter: Tensor, momentum: float) -> Tensor:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter.grad)
        state["momentum_buffer"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(state["momentum_buffer"], momentum)


def orthogonalised(matrices: Matrices) -> Matrices:
    """The nearest matrices with equal singular values, roughly: five Newton–Schulz steps each."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.to(torch.bfloat16 if matrices.is_cuda else matrices.dtype)
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    linear, cubic, quintic = COEFFICIENTS
    for _ in range(STEPS):
        gram = x @ x.mT
        x = linear * x + (cubic * gram + quintic * (gram @ gram)) @ x
    return (x.mT if tall else x).to(matrices.dtype)
