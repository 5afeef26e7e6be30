"""Augmentation of training clips: one change of colours and one small shift for all frames of a clip."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from wm_lightning.clip import Pixels
from wm_lightning.randomness import generator

# RGB to luma and two axes of colour (YIQ), in which a change of hue is a rotation.
_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


@dataclass(frozen=True)
class Augmentation:
    """Largest relative change of brightness, contrast and saturation, of hue (in turns), and shift in pixels.

    What the shift uncovers is the frame's own edge, reflected. Vid2World's settings are 0.1, 0.1, 0.1, 0.05 and 2.
    Every draw hangs on (seed, sample) alone.
    """

    brightness: float
    contrast: float
    saturation: float
    hue: float
    shift: int

    def __post_init__(self) -> None:
        shares = {name: getattr(self, name) for name in ("brightness", "contrast", "saturation")}
        if not all(0 <= share < 1 for share in shares.values()) or not 0 <= self.hue <= 0.5 or self.shift < 0:
            raise ValueError(
                f"data.augment: {shares} must lie in [0, 1), hue={self.hue} in [0, 0.5], and "
                f"shift={self.shift} be 0 or more"
            )

    def __call__(self, video: Pixels, seed: int, samples: Sequence[int]) -> Pixels:
        """The clips changed, on their device. Raises ValueError where a shift is as large as the frame."""
        height, width = video.shape[-2:]
        if self.shift >= min(height, width):
            raise ValueError(f"data.augment.shift={self.shift} is as large as the frames of {height} x {width}")
        drawn = [self._drawn(seed, sample) for sample in samples]
        changed = torch.stack([colours(clip, *factors) for clip, (factors, _) in zip(video, drawn, strict=True)])
        padded = F.pad(changed.flatten(1, 2), [self.shift] * 4, mode="reflect").unflatten(1, changed.shape[1:3])
        moved = [
            clip[..., down : down + height, right : right + width]
            for clip, (_, (down, right)) in zip(padded, drawn, strict=True)
        ]
        return torch.stack(moved).round().clamp(0, 255).to(torch.uint8)

    def _drawn(self, seed: int, sample: int) -> tuple[tuple[float, float, float, float], tuple[int, int]]:
        source = generator(seed, "augment", sample)
        shares = (self.brightness, self.contrast, self.saturation)
        brightness, contrast, saturation = (1 + share * (2 * source.random() - 1) for share in shares)
        hue = self.hue * (2 * source.random() - 1)
        down, right = (int(place) for place in source.integers(2 * self.shift + 1, size=2))
        return (brightness, contrast, saturation, hue), (down, right)


def colours(
    clip: Pixels | Tensor, brightness: float, contrast: float, saturation: float, hue: float
) -> Float[Tensor, "f 3 h w"]:
    """Frames with other colours, unrounded: brightness scales all, contrast about the clip's mean luma, saturation
    about each pixel's luma; hue turns by `hue` turns."""
    basis = _YIQ.to(clip.device)
    x = clip.float() * brightness
    luma = (x * basis[0, :, None, None]).sum(1, keepdim=True)
    x = luma.mean() + contrast * (x - luma.mean())
    luma = (x * basis[0, :, None, None]).sum(1, keepdim=True)
    x = luma + saturation * (x - luma)
    if hue == 0:
        return x
    angle = torch.tensor(2 * torch.pi * hue)
    turn = torch.eye(3)
    turn[1:, 1:] = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
    matrix = torch.linalg.inv(basis) @ turn.to(clip.device) @ basis
    return torch.einsum("ij,fjhw->fihw", matrix, x)
