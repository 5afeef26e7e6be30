"""Muon's update is torch's, to the rounding that torch's bfloat16 products have and these do not."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wm_lightning.modules.muon import Muon, orthogonalised

SHAPES = ((12, 8), (8, 12), (12, 8), (6, 6))
SETTINGS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}


def parameters(seed: int = 0) -> list[nn.Parameter]:
    source = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=source)) for shape in SHAPES]


def stepped(kind: Any, steps: int) -> list[nn.Parameter]:
    held = parameters()
    optimizer = kind(held, **SETTINGS)
    source = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for parameter in held:
            parameter.grad = torch.randn(parameter.shape, generator=source)
        held[2].grad = None
        optimizer.step()
    return held


@pytest.mark.parametrize("steps", [1, 4])
def test_the_update_is_that_of_torch(steps: int) -> None:
    before = parameters()
    ours, theirs = stepped(Muon, steps), stepped(torch.optim.Muon, steps)
    for start, one, other in zip(before, ours, theirs, strict=True):
        moved = (one - start).norm()
        assert (one - other).norm() <= 0.03 * moved
    assert torch.equal(ours[2], before[2]) and not torch.equal(ours[0], before[0])


def test_a_state_of_torch_can_be_continued() -> None:
    held = parameters()
    optimizer = torch.optim.Muon(held, **SETTINGS)
    held[0].grad = torch.ones_like(held[0])
    optimizer.step()
    continued = Muon(held, **SETTINGS)
    continued.load_state_dict(optimizer.state_dict())
    assert torch.equal(continued.state[held[0]]["momentum_buffer"], optimizer.state[held[0]]["momentum_buffer"])
    continued.step()


@pytest.mark.parametrize("shape", [(3, 16, 8), (2, 8, 16), (1, 8, 8)])
def test_singular_values_come_near_one(shape: tuple[int, ...]) -> None:
    matrices: Tensor = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    values = torch.linalg.svdvals(orthogonalised(matrices))
    assert values.min() > 0.5 and values.max() < 1.3
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    assert (orthogonalised(matrices) - left @ right).abs().max() < 0.35


def test_a_kernel_is_stepped_as_the_matrix_of_its_rows() -> None:
    source = torch.Generator().manual_seed(3)
    kernel, gradient = (torch.randn(6, 4, 3, 3, generator=source) for _ in range(2))
    held = [nn.Parameter(kernel.clone()), nn.Parameter(kernel.flatten(1).clone())]
    optimizer = Muon(held, **SETTINGS)
    held[0].grad, held[1].grad = gradient, gradient.flatten(1)
    optimizer.step()
    torch.testing.assert_close(held[0].flatten(1), held[1])
    assert not torch.equal(held[0], kernel)


def test_a_vector_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not parameters of shape \(4,\)"):
        Muon([nn.Parameter(torch.zeros(4))], **SETTINGS)
