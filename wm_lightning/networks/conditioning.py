"""Additive embedders: noise level and actions, one vector per frame."""

import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from wm_lightning.clip import ActionState, Condition, Levels

Embedding = Float[Tensor, "b f d"]
ActionKind = Literal["linear", "mlp", "deep", "table"]


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

    `kind`: "linear" is one layer, "mlp" two, "deep" three, the first of width `hidden`, and "table" adds up a row of
    that width for every named choice (a multi-hot), then two layers. `none`: "input_zero" sends a zero action through
    the layers, "learned" adds a vector of its own. `dropped`: "zero" is a zero embedding, "learned" one of its own.
    """

    def __init__(
        self,
        actions: int,
        dim: int,
        *,
        kind: ActionKind,
        none: Literal["input_zero", "learned"],
        dropped: Literal["zero", "learned"],
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_action_layers(actions, dim, kind, hidden or dim))
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


class ActionScales(nn.Module):
    """What an action's embedding multiplies the channels of every named layer by (FiLM, 1709.07871), 1 at first.

    A shift that is added before a norm moves nothing by itself: to draw a thing elsewhere, actions must gate features.
    `widths` has the channels of every layer.
    """

    def __init__(self, dim: int, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.names, self.layers = tuple(widths), nn.ModuleList(nn.Linear(dim, width) for width in widths.values())
        for parameter in self.layers.parameters():
            nn.init.zeros_(parameter)

    def forward(self, told: Embedding) -> dict[str, Float[Tensor, "b f c 1 1"]]:
        """By the layer's name."""
        act = F.silu(told)
        scales = (1 + layer(act)[..., None, None] for layer in self.layers)
        return dict(zip(self.names, scales, strict=True))


def _action_layers(actions: int, dim: int, kind: ActionKind, hidden: int) -> list[nn.Module]:
    if kind == "linear":
        return [nn.Linear(actions, dim)]
    if kind == "mlp":
        return [nn.Linear(actions, dim), nn.SiLU(), nn.Linear(dim, dim)]
    first = [nn.Linear(actions, hidden), nn.SiLU()] if kind == "deep" else [nn.Linear(actions, hidden, bias=False)]
    layers = [*first, nn.Linear(hidden, dim), nn.SiLU(), nn.Linear(dim, dim)]
    for layer in layers:
        if isinstance(layer, nn.Linear):
            # Three layers of torch's own scale leave actions a hundredth of what the noise level says beside them.
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return layers
