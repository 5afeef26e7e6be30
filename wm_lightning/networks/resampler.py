"""Image features to a fixed number of tokens: the Perceiver resampler (2204.14198) of IP-Adapter (2308.06721)."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from wm_lightning.networks.attention import attend

Features = Float[Tensor, "b n features"]
Queries = Float[Tensor, "b m d"]


class Resampler(nn.Module):
    """Learned queries that read `features` numbers a token, and answer with `tokens` numbers a query.

    There are `groups` groups of `queries` queries: DynamiCrafter gives the group of a frame to that frame alone.
    """

    def __init__(
        self, *, features: int, tokens: int, groups: int, queries: int, dim: int, depth: int, heads: int,
        head_width: int, mlp_ratio: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.group = queries
        self.queries = nn.Parameter(torch.randn(1, groups * queries, dim) / dim**0.5)
        self.enter, self.leave = nn.Linear(features, dim), nn.Linear(dim, tokens)
        self.norm = nn.LayerNorm(tokens)
        self.layers = nn.ModuleList(_Layer(dim, heads, head_width, mlp_ratio) for _ in range(depth))

    def forward(self, features: Features) -> Float[Tensor, "b m tokens"]:
        """Tokens of the image, group after group."""
        entered = self.enter(features)
        x = self.queries.expand(len(features), -1, -1)
        for layer in self.layers:
            x = layer(x, entered)
        return self.norm(self.leave(x))


class _Layer(nn.Module):
    """Queries attend to features and to each other, then pass an MLP."""

    def __init__(self, dim: int, heads: int, head_width: int, mlp_ratio: float) -> None:
        super().__init__()
        self.attention = _Attention(dim, heads, head_width)
        wide = int(dim * mlp_ratio)
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, wide, bias=False), nn.GELU(), nn.Linear(wide, dim, bias=False)
        )

    def forward(self, x: Queries, features: Features) -> Queries:
        x = x + self.attention(x, features)
        return x + self.mlp(x)


class _Attention(nn.Module):
    """Keys and values come from the features followed by the queries; the scale is the usual 1 / sqrt(head width)."""

    def __init__(self, dim: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads, inner = heads, heads * head_width
        self.norm_features, self.norm_queries = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.q, self.kv = nn.Linear(dim, inner, bias=False), nn.Linear(dim, 2 * inner, bias=False)
        self.out = nn.Linear(inner, dim, bias=False)

    def forward(self, x: Queries, features: Features) -> Queries:
        x = self.norm_queries(x)
        k, v = self.kv(torch.cat([self.norm_features(features), x], dim=1)).chunk(2, dim=-1)
        q, k, v = (rearrange(y, "b n (h e) -> b h n e", h=self.heads) for y in (self.q(x), k, v))
        return self.out(rearrange(attend(q, k, v, None), "b h n e -> b n (h e)"))
