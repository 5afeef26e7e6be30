"""How stored frames become frames of the wanted size, and back, so that metrics can run in the native shape."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8

POLICIES = ("squash", "crop", "letterbox")


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Resize:
    """`squash` changes the aspect; `crop` keeps the centre of the wanted aspect; `letterbox` pads with black."""

    policy: str
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(f"data.resize={self.policy} is not one of {', '.join(POLICIES)}")

    def taken(self, height: int, width: int) -> Box:
        """The part of a stored frame that is kept."""
        if self.policy != "crop":
            return Box(0, 0, height, width)
        kept_height = min(height, round(width * self.height / self.width))
        kept_width = min(width, round(height * self.width / self.height))
        return Box((height - kept_height) // 2, (width - kept_width) // 2, kept_height, kept_width)

    def filled(self, height: int, width: int) -> Box:
        """The part of the wanted frame that holds picture."""
        if self.policy != "letterbox":
            return Box(0, 0, self.height, self.width)
        scale = min(self.height / height, self.width / width)
        inner = (min(self.height, round(scale * height)), min(self.width, round(scale * width)))
        return Box((self.height - inner[0]) // 2, (self.width - inner[1]) // 2, *inner)

    def __call__(self, video: UInt8[np.ndarray, "f h w 3"]) -> UInt8[np.ndarray, "f 3 height width"]:
        """Frames in the wanted size."""
        height, width = video.shape[1:3]
        source, target = self.taken(height, width), self.filled(height, width)
        cut = video[:, source.top : source.top + source.height, source.left : source.left + source.width]
        small = scaled(cut, target.height, target.width)
        if (target.height, target.width) == (self.height, self.width):
            return small
        frames = np.zeros((len(video), 3, self.height, self.width), np.uint8)
        frames[:, :, target.top : target.top + target.height, target.left : target.left + target.width] = small
        return frames

    def undo(
        self, frames: UInt8[np.ndarray, "f 3 height width"], height: int, width: int
    ) -> UInt8[np.ndarray, "f 3 h w"]:
        """The picture in frames of this size, in its native size; what a crop cut away stays away."""
        source, target = self.taken(height, width), self.filled(height, width)
        inner = frames[:, :, target.top : target.top + target.height, target.left : target.left + target.width]
        return scaled(np.moveaxis(inner, 1, -1), source.height, source.width)


def scaled(video: UInt8[np.ndarray, "f h w 3"], height: int, width: int) -> UInt8[np.ndarray, "f 3 rows columns"]:
    """Frames of another size: exact area means for whole factors, else antialiased bilinear."""
    frames = torch.from_numpy(np.ascontiguousarray(video)).permute(0, 3, 1, 2).float()
    whole = frames.shape[2] % height == 0 and frames.shape[3] % width == 0
    options: dict[str, Any] = {"mode": "area"} if whole else {"mode": "bilinear", "antialias": True}
    small = F.interpolate(frames, size=(height, width), **options)
    return small.round().clamp(0, 255).to(torch.uint8).numpy()
