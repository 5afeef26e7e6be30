"""The layers of a video UNet along time: norms, convolutions and attention that may remember what came before."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from wm_lightning.networks.attention import attend, attend_once
from wm_lightning.networks.conditioning import Embedding
from wm_lightning.networks.geometry import temporal_mask

Features = Float[Tensor, "b f c h w"]
Changed = Float[Tensor, "b f out rows columns"]  # other channels, another size
Tokens = Float[Tensor, "b f n d"]
NormScope = Literal["frame", "clip", "cumulative"]
Padding = Literal["zeros", "replicate"]


@dataclass
class Run:
    """One forward pass: what all layers share, what is remembered of earlier frames, and what this pass adds to it.

    `memory` holds keys and values of past frames, `last` what convolutions and cumulative norms keep, both by the
    layer's key. `fresh` marks slots of the batch that have seen nothing; `seen` and `fresh` None: everything, none.
    `text` is given to every frame, `image` to each its own. `scales` are what actions multiply channels by.
    """

    embedding: Embedding
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    last: Mapping[str, Tensor] = field(default_factory=dict)
    seen: Bool[Tensor, "..."] | None = None
    fresh: Bool[Tensor, "b"] | None = None
    text: Float[Tensor, "b m e"] | None = None
    image: Float[Tensor, "b f n e"] | None = None
    scales: Mapping[str, Tensor] = field(default_factory=dict)
    kept_memory: dict[str, Tensor] = field(default_factory=dict)
    kept_last: dict[str, Tensor] = field(default_factory=dict)

    def before(self, key: str, otherwise: Tensor) -> Tensor:
        """What is kept under `key`; `otherwise` in slots that have seen nothing."""
        if key not in self.last:
            return otherwise
        past = self.last[key].to(otherwise.dtype)
        return past if self.fresh is None else torch.where(self.fresh.view(-1, *[1] * (past.ndim - 1)), otherwise, past)


def per_frame(layer: Callable[[Tensor], Tensor], x: Features) -> Changed:
    """A layer for images, on every frame by itself."""
    made = layer(x.flatten(0, 1))
    return made.view(*x.shape[:2], *made.shape[1:])


class TemporalNorm(nn.GroupNorm):
    """Group normalisation of which the statistics are those of a frame, of the clip, or of all frames so far.

    "clip" is what pretrained video models have; it lets every frame see every other, so it is not causal.
    """

    key: str = ""  # its name in the network, under which it remembers

    def __init__(self, groups: int, channels: int, *, eps: float, scope: NormScope) -> None:
        super().__init__(groups, channels, eps=eps)
        self.scope: NormScope = scope

    def forward(self, x: Features, run: Run) -> Features:  # type: ignore[override]
        if self.scope == "frame":
            return per_frame(super().forward, x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        grouped = rearrange(wide, "b f (g c) h w -> b f g (c h w)", g=self.num_groups)
        moments = torch.stack([grouped.mean(-1), grouped.square().mean(-1), torch.ones_like(grouped[..., 0])], dim=-1)
        if self.scope == "clip":
            moments = moments.sum(1, keepdim=True)
        else:
            start = torch.zeros_like(moments[:, :1])
            moments = run.before(self.key, start) + moments.cumsum(1)
            run.kept_last[self.key] = moments[:, -1:].detach()
        first, second, count = moments.unbind(-1)
        mean = first / count
        scale = (second / count - mean.square()).clamp_min(0).add(self.eps).rsqrt()
        normed = ((grouped - mean[..., None]) * scale[..., None]).reshape(x.shape)
        return (normed * self.weight[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class TemporalConv(nn.Module):
    """A convolution along time at every place: centred, or causal with all taps in the past and the present.

    `pad` is what stands before the first frame (and, centred, behind the last): zeros, or the frame itself.
    """

    key: str = ""  # its name in the network, under which it remembers

    def __init__(self, channels: int, out: int, *, taps: int, causal: bool, pad: Padding) -> None:
        super().__init__()
        if taps % 2 == 0:
            raise ValueError(f"{taps=} must be odd, for a centre")
        self.causal, self.pad = causal, pad
        self.weight = nn.Parameter(torch.empty(out, channels, taps))
        self.bias = nn.Parameter(torch.zeros(out))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, x: Features, run: Run) -> Float[Tensor, "b f out h w"]:
        frames, taps = x.shape[1], self.weight.shape[2]
        if self.causal:
            before = run.before(self.key, self._beside(x[:, :1], taps - 1))
            padded = torch.cat([before, x], dim=1)
            run.kept_last[self.key] = padded[:, frames:].detach()
        else:
            padded = torch.cat([self._beside(x[:, :1], taps // 2), x, self._beside(x[:, -1:], taps // 2)], dim=1)
        # One matrix product over all taps of all channels, in the order in which the weights lie.
        stacked = torch.stack([padded[:, tap : tap + frames] for tap in range(taps)], dim=3)
        made = F.conv2d(stacked.flatten(2, 3).flatten(0, 1), self.weight.flatten(1)[:, :, None, None], self.bias)
        return made.view(*x.shape[:2], *made.shape[1:])

    def _beside(self, edge: Float[Tensor, "b 1 c h w"], frames: int) -> Float[Tensor, "b beside c h w"]:
        wide = edge.expand(-1, frames, -1, -1, -1)
        return torch.zeros_like(wide) if self.pad == "zeros" else wide


class ConvStep(nn.Module):
    """Norm, SiLU and convolution along time."""

    def __init__(self, channels: int, *, groups: int, causal: bool, pad: Padding, scope: NormScope) -> None:
        super().__init__()
        self.norm = TemporalNorm(groups, channels, eps=1e-5, scope=scope)
        self.conv = TemporalConv(channels, channels, taps=3, causal=causal, pad=pad)

    def forward(self, x: Features, run: Run) -> Features:
        return self.conv(F.silu(self.norm(x, run)), run)


class GatedGELU(nn.Module):
    """The first half of the channels, times the GELU of the second (GEGLU, 2002.05202)."""

    def forward(self, x: Float[Tensor, "... twice"]) -> Float[Tensor, "... d"]:
        value, gate = x.chunk(2, dim=-1)
        return value * F.gelu(gate)


def gated_mlp(dim: int) -> nn.Sequential:
    """Four times as wide in the middle."""
    return nn.Sequential(nn.Linear(dim, 8 * dim), GatedGELU(), nn.Linear(4 * dim, dim))


class TemporalAttention(nn.Module):
    """Every place attends to itself in the frames it may see; there are no positions in time."""

    key: str = ""  # its name in the network, under which it remembers

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tokens, run: Run) -> Tokens:
        q, keys, values = self.q(x), self._with_past("k", self.k(x), run), self._with_past("v", self.v(x), run)
        if x.shape[1] == 1 and run.seen is None:
            return self.out(attend_once(q, keys, values, self.heads))
        whole = (q, torch.cat(keys, dim=1), torch.cat(values, dim=1))
        q, k, v = (rearrange(y, "b f n (h e) -> (b n) h f e", h=self.heads) for y in whole)
        seen = temporal_mask(run.seen, x.shape[2])
        return self.out(rearrange(attend(q, k, v, seen), "(b n) h f e -> b f n (h e)", n=x.shape[2]))

    def _with_past(self, name: str, new: Tokens, run: Run) -> list[Float[Tensor, "b _ n d"]]:
        """What is remembered, if anything is, and the new."""
        past = run.memory.get(f"{self.key}.{name}")
        run.kept_memory[f"{self.key}.{name}"] = new.detach()
        return [new] if past is None else [past.to(new.dtype), new]


class TemporalTransformer(nn.Module):
    """Two attentions along time and an MLP at every place, added to the input."""

    def __init__(self, channels: int, dim: int, heads: int, *, groups: int, scope: NormScope) -> None:
        super().__init__()
        self.norm = TemporalNorm(groups, channels, eps=1e-6, scope=scope)
        self.enter, self.leave = nn.Linear(channels, dim), nn.Linear(dim, channels)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))
        self.attention1, self.attention2 = TemporalAttention(dim, heads), TemporalAttention(dim, heads)
        self.mlp = gated_mlp(dim)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Features, run: Run) -> Features:
        y = self.enter(rearrange(self.norm(x, run), "b f c h w -> b f (h w) c"))
        y = y + self.attention1(self.norm1(y), run)
        y = y + self.attention2(self.norm2(y), run)
        y = y + self.mlp(self.norm3(y))
        return x + rearrange(self.leave(y), "b f (h w) c -> b f c h w", h=x.shape[3])
