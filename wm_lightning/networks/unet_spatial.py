"""The layers of a video UNet within a frame: residual blocks, attention over places, and changes of size."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from wm_lightning.networks.attention import attend
from wm_lightning.networks.unet_temporal import (
    Changed,
    ConvStep,
    Features,
    NormScope,
    Padding,
    Run,
    TemporalTransformer,
    gated_mlp,
    per_frame,
)

Places = Float[Tensor, "bf n d"]
Given = Float[Tensor, "bf m e"]


class ResBlock(nn.Module):
    """Two convolutions over each frame with the embedding added between them, then four along time.

    What the second sees is multiplied by the run's scales for `key`, where there are any.
    """

    key = ""

    def __init__(
        self, channels: int, out: int, embedding: int, *, groups: int, causal: bool, pad: Padding, scope: NormScope
    ) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, channels), nn.Conv2d(channels, out, 3, padding=1)
        self.embed = nn.Linear(embedding, out)
        self.norm2, self.conv2 = nn.GroupNorm(groups, out), nn.Conv2d(out, out, 3, padding=1)
        self.skip = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)
        self.temporal = nn.ModuleList(
            ConvStep(out, groups=groups, causal=causal, pad=pad, scope=scope) for _ in range(4)
        )
        for parameter in (*self.conv2.parameters(), self.temporal[-1].conv.weight, self.temporal[-1].conv.bias):  # type: ignore[union-attr]
            nn.init.zeros_(parameter)  # type: ignore[arg-type]

    def forward(self, x: Features, run: Run) -> Changed:
        y = per_frame(self.conv1, F.silu(per_frame(self.norm1, x)))
        y = per_frame(self.norm2, y + self.embed(F.silu(run.embedding))[..., None, None])
        if self.key in run.scales:
            y = y * run.scales[self.key]
        y = per_frame(self.skip, x) + per_frame(self.conv2, F.silu(y))
        z = y
        for step in self.temporal:
            z = step(z, run)
        return y + z


class PlaceAttention(nn.Module):
    """Attention of the places of a frame to each other, or to given tokens.

    Those of an image have weights of their own; answers to text and image are added (IP-Adapter, 2308.06721, eq. 5).
    """

    def __init__(self, dim: int, heads: int, *, tokens: int | None) -> None:
        super().__init__()
        self.heads = heads
        width = dim if tokens is None else tokens
        self.q, self.k, self.v = (nn.Linear(size, dim, bias=False) for size in (dim, width, width))
        self.out = nn.Linear(dim, dim)
        if tokens is not None:
            self.image_k, self.image_v = (nn.Linear(width, dim, bias=False) for _ in range(2))

    def forward(self, x: Places) -> Places:
        """Self-attention."""
        return self.out(self._to(self.q(x), self.k(x), self.v(x)))

    def to_tokens(self, x: Places, text: Given | None, image: Float[Tensor, "bf k e"] | None) -> Places:
        """Attention to a text's tokens and to an image's; one that is not there adds nothing."""
        q, answer = self.q(x), torch.zeros_like(x)
        if text is not None:
            answer = answer + self._to(q, self.k(text), self.v(text))
        if image is not None:
            answer = answer + self._to(q, self.image_k(image), self.image_v(image))
        return self.out(answer)

    def _to(self, q: Places, k: Float[Tensor, "bf m d"], v: Float[Tensor, "bf m d"]) -> Places:
        q, k, v = (rearrange(y, "b n (h e) -> b h n e", h=self.heads) for y in (q, k, v))
        return rearrange(attend(q, k, v, None), "b h n e -> b n (h e)")


class SpatialTransformer(nn.Module):
    """Self-attention over the places of a frame, attention to text and image tokens, and an MLP.

    `tokens` is the width of these tokens; None leaves that attention out.
    """

    def __init__(self, channels: int, heads: int, *, groups: int, tokens: int | None) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.enter, self.leave = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.norm1, self.norm3 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attention1 = PlaceAttention(channels, heads, tokens=None)
        self.norm2 = self.attention2 = None
        if tokens is not None:
            self.norm2, self.attention2 = nn.LayerNorm(channels), PlaceAttention(channels, heads, tokens=tokens)
        self.mlp = gated_mlp(channels)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Features, run: Run) -> Features:
        frames = x.shape[1]
        y = self.enter(rearrange(per_frame(self.norm, x), "b f c h w -> (b f) (h w) c"))
        y = y + self.attention1(self.norm1(y))
        if self.attention2 is not None and self.norm2 is not None:
            text = None if run.text is None else run.text.repeat_interleave(frames, dim=0)
            image = None if run.image is None else run.image.flatten(0, 1)
            y = y + self.attention2.to_tokens(self.norm2(y), text, image)
        y = y + self.mlp(self.norm3(y))
        return x + rearrange(self.leave(y), "(b f) (h w) c -> b f c h w", f=frames, h=x.shape[3])


class Upsample(nn.Conv2d):
    """Twice as high and wide, then a convolution."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b out rows columns"]:  # type: ignore[override]
        return super().forward(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Stage(nn.Module):
    """A residual block with or without attention, and a change of size; any of them may be left out."""

    def __init__(
        self,
        res: ResBlock | None = None,
        spatial: SpatialTransformer | None = None,
        temporal: TemporalTransformer | None = None,
        resize: nn.Conv2d | None = None,
    ) -> None:
        super().__init__()
        self.res, self.spatial, self.temporal, self.resize = res, spatial, temporal, resize

    def forward(self, x: Features, run: Run) -> Changed:
        for layer in (self.res, self.spatial, self.temporal):
            x = x if layer is None else layer(x, run)
        return x if self.resize is None else per_frame(self.resize, x)
