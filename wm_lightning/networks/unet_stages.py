"""The stages of a video UNet: down, middle and up, each a residual block with what follows it."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import nn

from wm_lightning.networks.unet_spatial import ResBlock, SpatialTransformer, Stage, Upsample
from wm_lightning.networks.unet_temporal import NormScope, Padding, TemporalTransformer


class Stages:
    """Makes the stages of a UNet, all with the same kinds of layers."""

    def __init__(
        self,
        head_dim: int,
        embedding: int,
        groups: int,
        causal: bool,
        pad: Padding,
        scope: NormScope,
        tokens: int | None,
    ) -> None:
        self.head_dim, self.groups, self.tokens = head_dim, groups, tokens
        self.scope: NormScope = scope
        self.res: Callable[[int, int], ResBlock] = partial(
            ResBlock, embedding=embedding, groups=groups, causal=causal, pad=pad, scope=scope
        )

    def stages(
        self, dim: int, multipliers: Sequence[int], blocks: int, attention_at: tuple[int, ...]
    ) -> tuple[nn.ModuleList, nn.ModuleList, nn.ModuleList]:
        """Down, middle and up. The outputs of the stem and of every stage down go to the stages up, last first."""
        down, skips, width = [], [dim], dim
        for level, multiplier in enumerate(multipliers):
            for _ in range(blocks):
                down.append(self.stage(width, dim * multiplier, 2**level in attention_at))
                skips.append(width := dim * multiplier)
            if level + 1 < len(multipliers):
                down.append(Stage(resize=nn.Conv2d(width, width, 3, stride=2, padding=1)))
                skips.append(width)
        middle = [self.stage(width, width, True), self.stage(width, width, False)]
        up = []
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for block in range(blocks + 1):
                grows = level > 0 and block == blocks
                up.append(self.stage(width + skips.pop(), dim * multiplier, 2**level in attention_at, grows))
                width = dim * multiplier
        return nn.ModuleList(down), nn.ModuleList(middle), nn.ModuleList(up)

    def stage(self, channels: int, out: int, attends: bool, grows: bool = False) -> Stage:
        """A residual block to `out` channels, attention behind it, and twice the size where it grows."""
        spatial = temporal = None
        if attends:
            heads = out // self.head_dim
            spatial = SpatialTransformer(out, heads, groups=self.groups, tokens=self.tokens)
            temporal = TemporalTransformer(out, out, heads, groups=self.groups, scope=self.scope)
        return Stage(self.res(channels, out), spatial, temporal, Upsample(out, out, 3, padding=1) if grows else None)
