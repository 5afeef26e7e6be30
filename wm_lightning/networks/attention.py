"""Self-attention over the tokens of a video: joint space–time, spatial, or temporal, with remembered keys."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from wm_lightning.networks.geometry import Geometry
from wm_lightning.networks.rope import rotate

Tokens = Float[Tensor, "b f n d"]
Heads = Float[Tensor, "b f n h e"]
Remembered = tuple[Float[Tensor, "b past n h e"], Float[Tensor, "b past n h e"]]
Parts = Sequence[Float[Tensor, "b _ n d"]]
WHOLE_SCORES = 512 * 512  # a head's, that are best formed at once on a CPU
Extended = tuple[Float[Tensor, "b total n h e"], Float[Tensor, "b total n h e"]]


class Projections(nn.Module):
    """Queries, keys and values of one attention, optionally RMS-normalised over the head (QK-norm)."""

    def __init__(self, dim: int, heads: int, *, qk_norm: bool) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"{dim=} is not a multiple of {heads=}")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim)
        self.query_norm = nn.RMSNorm(dim // heads, eps=1e-6) if qk_norm else nn.Identity()
        self.key_norm = nn.RMSNorm(dim // heads, eps=1e-6) if qk_norm else nn.Identity()

    def split(self, x: Tokens) -> tuple[Heads, Heads, Heads]:
        """Normalised queries and keys, in float32 at least where there is a norm, and values."""
        q, k, v = rearrange(self.qkv(x), "b f n (three h e) -> three b f n h e", three=3, h=self.heads)
        return self.query_norm(_wide(q)), self.key_norm(_wide(k)), v

    def keys_values(self, x: Tokens) -> tuple[Heads, Heads]:
        """Keys and values alone, for a commit that needs no output."""
        weight = self.qkv.weight[self.qkv.weight.shape[1] :]
        k, v = rearrange(F.linear(x, weight), "b f n (two h e) -> two b f n h e", two=2, h=self.heads)
        return self.key_norm(_wide(k)), v


class JointAttention(nn.Module):
    """Every token attends to all tokens of the frames it may see; keys are stored before temporal rotation."""

    def __init__(self, dim: int, heads: int, *, qk_norm: bool) -> None:
        super().__init__()
        self.projections = Projections(dim, heads, qk_norm=qk_norm)

    def remember(self, x: Tokens, geometry: Geometry, past: Remembered | None) -> Extended:
        """Keys (rotated in space only) and values of past and new frames."""
        k, v = self.projections.keys_values(x)
        return _append(past, rotate(k, geometry.place), v)

    def forward(self, x: Tokens, geometry: Geometry, past: Remembered | None) -> tuple[Tokens, Extended]:
        q, k, v = self.projections.split(x)
        keys, values = _append(past, rotate(k, geometry.place), v)
        q, rotated = rotate(q, geometry.queries), rotate(keys, geometry.time_keys)
        q, rotated, v = (rearrange(y, "b f n h e -> b h (f n) e") for y in (q, rotated, values))
        attended = attend(q, rotated, v, geometry.seen)
        attended = rearrange(attended, "b h (f n) e -> b f n (h e)", f=x.shape[1])
        return self.projections.out(attended), (keys, values)


class SpatialAttention(nn.Module):
    """Tokens of one frame attend to each other; remembers nothing."""

    def __init__(self, dim: int, heads: int, *, qk_norm: bool) -> None:
        super().__init__()
        self.projections = Projections(dim, heads, qk_norm=qk_norm)

    def forward(self, x: Tokens, geometry: Geometry, past: None = None) -> tuple[Tokens, None]:
        q, k, v = self.projections.split(x)
        q, k = rotate(q, geometry.place), rotate(k, geometry.place)
        q, k, v = (rearrange(y, "b f n h e -> (b f) h n e") for y in (q, k, v))
        attended = attend(q, k, v, None)
        return self.projections.out(rearrange(attended, "(b f) h n e -> b f n (h e)", b=x.shape[0])), None


class TemporalAttention(nn.Module):
    """Each place attends to itself in the frames it may see; keys are stored before rotation."""

    def __init__(self, dim: int, heads: int, *, qk_norm: bool) -> None:
        super().__init__()
        self.projections = Projections(dim, heads, qk_norm=qk_norm)

    def remember(self, x: Tokens, geometry: Geometry, past: Remembered | None) -> Extended:
        """Keys and values of past and new frames."""
        return _append(past, *self.projections.keys_values(x))

    def forward(self, x: Tokens, geometry: Geometry, past: Remembered | None) -> tuple[Tokens, Extended]:
        q, k, v = self.projections.split(x)
        keys, values = _append(past, k, v)
        q, rotated = rotate(q, geometry.queries), rotate(keys, geometry.time_keys)
        q, rotated, v = (rearrange(y, "b f n h e -> (b n) h f e") for y in (q, rotated, values))
        attended = attend(q, rotated, v, geometry.seen)
        attended = rearrange(attended, "(b n) h f e -> b f n (h e)", b=x.shape[0])
        return self.projections.out(attended), (keys, values)


def attend(
    q: Float[Tensor, "b h q e"], k: Float[Tensor, "b h k e"], v: Float[Tensor, "b h k e"], mask: Tensor | None
) -> Float[Tensor, "b h q e"]:
    """Scaled dot-product attention, in the dtype of v; q and k may be in a wider one.

    The mask is boolean, True where attention is allowed, somewhere for each query.
    """
    if _better_whole(q, k, v):
        return _whole(q, k, v, mask)
    return F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, attn_mask=mask)


def _better_whole(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether all scores at once are faster than torch's blocks of them.

    On a CPU blocks are multiplied one by one, which costs two to ten times as much where they are in bfloat16 or
    products are oneDNN's (`compute.prepare_cpu`); a single query, and what does not stay in the cache, gain nothing.
    """
    if q.device.type != "cpu" or q.shape[-2] == 1 or q.shape[-2] * k.shape[-2] > WHOLE_SCORES:
        return False
    return v.dtype == torch.bfloat16 or torch.get_float32_matmul_precision() != "highest"


def _whole(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The same by two products, with scores in float32 at least."""
    with torch.autocast(q.device.type, enabled=False):
        scores = (_wide(q) * q.shape[-1] ** -0.5) @ _wide(k).transpose(-1, -2)
        if mask is not None:
            scores = scores.add_(torch.where(mask, 0.0, -torch.inf).to(scores.dtype))
        return scores.softmax(-1).to(v.dtype) @ v


def attend_once(q: Float[Tensor, "b 1 n d"], k: Parts, v: Parts, heads: int) -> Float[Tensor, "b 1 n d"]:
    """Attention of one frame to frames in several parts, place by place.

    Products as everything lies in memory: of thousands of attentions with one query each, `attend` takes up to three
    times as long, and wants all frames in one piece.
    """
    width, wide = q.shape[-1] // heads, torch.promote_types(q.dtype, torch.float32)
    scores = torch.cat([(q * part).unflatten(-1, (heads, width)).sum(-1, dtype=wide) for part in k], dim=1)
    weights = (scores * width**-0.5).softmax(1).split([part.shape[1] for part in v], dim=1)
    seen = ((w[..., None] * part.unflatten(-1, (heads, width))).sum(1) for w, part in zip(weights, v, strict=True))
    return sum(seen, torch.zeros((), dtype=wide, device=q.device)).to(q.dtype).flatten(-2)[:, None]


def _append(past: Remembered | None, k: Heads, v: Heads) -> Extended:
    """Keys and values of all frames, in the dtype of the values."""
    if past is None:
        return k.to(v.dtype), v
    return torch.cat([past[0].to(v.dtype), k.to(v.dtype)], dim=1), torch.cat([past[1].to(v.dtype), v], dim=1)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
