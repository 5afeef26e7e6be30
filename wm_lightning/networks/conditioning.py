"""Additive embedders: noise level and actions, one vector per frame."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wm_lightning.clip import ActionState, Condition, Levels

Embedding = Float[Tensor, "b f d"]


class LevelEmbedder(nn.Module):
    """Sinusoids of the noise label through a two-layer MLP."""

    def __init__(self, dim: int, *, frequencies: int) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(nn.Linear(frequencies, dim), nn.SiLU(), nn.Linear(dim, dim))
        for layer in (self.mlp[0], self.mlp[2]):
            nn.init.normal_(layer.weight, std=0.02)  # type: ignore[arg-type]

    def forward(self, label: Levels) -> Embedding:
        half = self.frequencies // 2
        scale = torch.exp(-math.log(10_000) * torch.arange(half, device=label.device, dtype=torch.float32) / half)
        angles = label.float()[..., None] * scale
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1).to(next(self.parameters()).dtype))


class ActionEmbedder(nn.Module):
    """Actions per frame; what *none* and *dropped* feed is a setting.

    `none`: "input_zero" sends a zero action through the layers, "learned" adds a vector of its own.
    `dropped`: "zero" is a zero embedding, "learned" a vector of its own.
    """

    def __init__(
        self,
        actions: int,
        dim: int,
        *,
        kind: Literal["linear", "mlp"],
        none: Literal["input_zero", "learned"],
        dropped: Literal["zero", "learned"],
    ) -> None:
        super().__init__()
        layers = [nn.Linear(actions, dim)]
        if kind == "mlp":
            layers += [nn.SiLU(), nn.Linear(dim, dim)]  # type: ignore[list-item]
        self.layers = nn.Sequential(*layers)
        self.none = nn.Parameter(torch.randn(dim) * 0.02) if none == "learned" else None
        self.dropped = nn.Parameter(torch.randn(dim) * 0.02) if dropped == "learned" else None

    def forward(self, condition: Condition) -> Embedding:
        state = condition.state[..., None]
        given = torch.where(state == int(ActionState.GIVEN), condition.actions, 0.0)
        embedding = self.layers(given)
        if self.none is not None:
            embedding = torch.where(state == int(ActionState.NONE), self.none.to(embedding.dtype), embedding)
        dropped = torch.zeros_like(embedding[:1, :1]) if self.dropped is None else self.dropped.to(embedding.dtype)
        return torch.where(state == int(ActionState.DROPPED), dropped, embedding)
