"""Which action led from one frame to the next, read off the two pictures."""

import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

Video = UInt8[Tensor, "b f c h w"]
BIN = re.compile(r"(?P<what>.+)_(?P<value>-?\d+)")  # the name of a column that says of one value whether it was it
FEWEST_BINS = 3
ROUNDING = 1e-2  # of shares and variances, of which the latter are taken over one frame fewer


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

    def readings(self, names: Sequence[str]) -> tuple[list[str], Float[Tensor, "a q"]]:
        """What can be read: every column, and the quantities that columns are bins of; with the sums that make them.

        Columns `mouse_x_-30`, `mouse_x_0`, `mouse_x_30` are a one-hot of the quantity `mouse_x`. Which of two
        neighbours it was often cannot be told from pictures, while the amount can. Squared error makes the network give
        a bin's probability, so its sum of values times probabilities is the mean to expect. Every column of the matrix
        turns standardised actions into a standardised quantity (0 where it never varies).
        """
        bins: dict[str, list[tuple[int, float]]] = {}
        for place, name in enumerate(names):
            if found := BIN.fullmatch(name):
                bins.setdefault(found["what"], []).append((place, float(found["value"])))
        bins = {what: members for what, members in bins.items() if self._one_hot([place for place, _ in members])}
        matrix = torch.zeros(len(names), len(names) + len(bins), device=self.mean.device)
        matrix[:, : len(names)] = torch.eye(len(names))
        for place, members in enumerate(bins.values(), start=len(names)):
            rows, values = torch.tensor([row for row, _ in members]), torch.tensor([value for _, value in members])
            share = self.mean.cpu()[rows]
            spread = (share @ values.square() - (share @ values).square()).clamp_min(0).sqrt()
            weight = self.scale.cpu()[rows] * values / spread.clamp_min(1e-12)
            matrix[rows, place] = weight.to(matrix)
        return [*names, *bins], matrix

    def _one_hot(self, places: Sequence[int]) -> bool:
        """Whether columns were a one-hot in training: shares that make 1, of values 0 and 1 alone.

        Else their names mean something else: `joint_1`, `joint_2`, `joint_3` are no bins of a joint.
        """
        share, scale = self.mean[list(places)].cpu(), self.scale[list(places)].cpu()
        spread = (scale.square() - share * (1 - share)).abs()  # of 0 and 1 the variance follows from the mean
        return len(places) >= FEWEST_BINS and abs(float(share.sum()) - 1) < ROUNDING and bool((spread < ROUNDING).all())
