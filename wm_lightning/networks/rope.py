"""Rotary position tables and their application, in float32 at least."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

RopeTable = tuple[Float[Tensor, "_positions _pairs"], Float[Tensor, "_positions _pairs"]]


def rope_table(positions: Int[Tensor, "p"], pairs: int, *, base: float, dtype: torch.dtype) -> RopeTable:  # noqa: F821
    """(cos, sin) for `pairs` pairs of channels at the given positions (RoFormer 2104.09864)."""
    frequencies = base ** (-torch.arange(pairs, dtype=dtype) / pairs)
    angles = positions.to(dtype)[:, None] * frequencies
    return angles.cos(), angles.sin()


def join(*tables: RopeTable) -> RopeTable:
    """Tables of several axes side by side over the same positions."""
    return torch.cat([t[0] for t in tables], -1), torch.cat([t[1] for t in tables], -1)


def rotate(
    x: Float[Tensor, "... e"], cos: Float[Tensor, "... half"], sin: Float[Tensor, "... half"]
) -> Float[Tensor, "... e"]:
    """Rotates channel pairs (i, i + half); computed in the tables' dtype, returned in the dtype of x."""
    first, second = x.to(cos.dtype).chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)
