"""What a network sees of the frame before: a grid of features, or one vector, with a learned null in its place."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from wm_lightning.clip import Latents

Features = Float[Tensor, "b f n d"]


class StartEncoder(nn.Module):
    """Frames `b f c h w` in [-1, 1] to features `b f n d`: one per patch, or with `pooled` one for the whole frame.

    `kind="cnn"` is trained with the network. "timm" is a frozen model of that library (`model`), randomly initialised
    unless `weights` names a local .safetensors file, with a trained projection; nothing is downloaded.
    """

    def __init__(
        self,
        *,
        kind: Literal["cnn", "timm"],
        channels: int,
        grid: Sequence[int],
        patch: int,
        dim: int,
        pooled: bool,
        model: str | None,
        weights: str | None,
    ) -> None:
        super().__init__()
        self.grid, self.pooled = (grid[0], grid[1]), pooled
        self.features: nn.Module = _Cnn(channels, dim, patch) if kind == "cnn" else _Frozen(model, weights, channels)
        self.project = nn.Conv2d(self.features.channels, dim, 1)  # type: ignore[arg-type]
        self.null = nn.Parameter(torch.randn(dim) * 0.02)

    def forward(self, frames: Latents, hidden: Bool[Tensor, "b f"]) -> Features:
        """Features of the frames; the learned null where `hidden` holds."""
        found = self.features(frames.flatten(0, 1))
        found = self.project(F.adaptive_avg_pool2d(found, 1 if self.pooled else self.grid))
        found = rearrange(found, "(b f) d y x -> b f (y x) d", b=len(frames))
        return torch.where(hidden[..., None, None], self.null.to(found.dtype), found)


class _Cnn(nn.Module):
    """Two convolutions at full size see edges, one with the stride of a patch keeps all of its pixels."""

    def __init__(self, channels: int, dim: int, patch: int) -> None:
        super().__init__()
        self.channels, narrow = dim, max(dim // 4, 8)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, narrow, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(narrow, narrow, 3, padding=1),
            nn.SiLU(),
        )
        self.patches = nn.Conv2d(narrow + channels, dim, patch, stride=patch)

    def forward(self, pixels: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d y x"]:
        return self.patches(torch.cat([pixels, self.layers(pixels)], dim=1))


class _Frozen(nn.Module):
    """Features of a timm model, which neither learns nor changes its statistics."""

    def __init__(self, model: str | None, weights: str | None, channels: int) -> None:
        super().__init__()
        if model is None:
            raise ValueError("network.start=timm needs network.start_model, the name of a timm model, as resnet18")
        if weights is not None and (Path(weights).suffix != ".safetensors" or not Path(weights).is_file()):
            raise ValueError(f"network.start_weights={weights} is no local .safetensors file; name one, or null")
        import timm  # noqa: PLC0415  takes two seconds that other encoders need not wait

        given: dict[str, Any] = {} if weights is None else {"pretrained_cfg_overlay": {"file": weights}}
        self.model = timm.create_model(
            model, pretrained=weights is not None, features_only=True, out_indices=(1, 2), in_chans=channels, **given
        )
        self.channels = int(sum(self.model.feature_info.channels()))  # type: ignore[operator]
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "_Frozen":
        """Stays in evaluation mode."""
        return super().train(False)

    def forward(self, pixels: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d y x"]:
        fine, coarse = self.model(pixels)
        return torch.cat([fine, F.interpolate(coarse, size=fine.shape[-2:])], dim=1)
