"""Which action led from one frame to the next, read off the two pictures."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

Video = UInt8[Tensor, "b f c h w"]


class InverseDynamics(nn.Module):
    """Maps consecutive frames to the standardised action that produced the later one.

    Three convolutions over the pair and its difference, mean and maximum over the picture, two linear layers. `mean`
    and `scale` standardise actions (columns that never vary have scale 0 and are left out); both are buffers.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, *, actions: int, width: int) -> None:
        super().__init__()
        self.look = nn.Sequential(
            nn.Conv2d(9, width, 7, stride=2, padding=3), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 5, stride=2, padding=2), nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.dim = 8 * width  # features of a clip
        self.read = nn.Sequential(nn.Linear(4 * width, 4 * width), nn.ReLU(), nn.Linear(4 * width, actions))
        self.register_buffer("mean", torch.zeros(actions))
        self.register_buffer("scale", torch.ones(actions))

    def pairs(self, video: Video) -> Float[Tensor, "b pairs d"]:
        """Features of every pair of consecutive frames: mean and maximum over the picture."""
        x = video.float() / 127.5 - 1.0
        x = x.expand(-1, -1, 3, -1, -1) if x.shape[2] == 1 else x
        before, after = x[:, :-1], x[:, 1:]
        seen = self.look(torch.cat([before, after, after - before], dim=2).flatten(0, 1))
        pooled = torch.cat([seen.mean((2, 3)), seen.amax((2, 3))], dim=1)
        return pooled.unflatten(0, before.shape[:2])

    def features(self, video: Video) -> Float[Tensor, "b d"]:
        """Features of clips: mean and standard deviation over their pairs."""
        pairs = self.pairs(video)
        return torch.cat([pairs.mean(1), pairs.std(1, correction=0)], dim=1)

    def forward(self, video: Video) -> Float[Tensor, "b f a"]:
        """Standardised actions of all frames; 0, the mean, for the first, which nothing in sight led to."""
        predicted = self.read(self.pairs(video)) * (self.scale > 0)
        return F.pad(predicted, (0, 0, 1, 0))

    def standardised(self, actions: Float[Tensor, "b f a"]) -> Float[Tensor, "b f a"]:
        """Actions in the unit of predictions; 0 in columns that never vary."""
        return torch.where(self.scale > 0, (actions - self.mean) / self.scale.clamp_min(1e-12), 0.0)
