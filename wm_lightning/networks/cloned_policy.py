"""A small policy: where things are in a picture, and from that the next actions for the block that is asked for."""

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn


class ClonedPolicy(nn.Module):
    """Maps a frame and the number of a goal to a chunk of actions.

    Three convolutions, a softmax over the picture of each of `2 * width` channels, whose mean place is read (spatial
    softmax: Levine et al., 1504.00702), and two linear layers. Every goal has outputs of its own. `mean` and `scale`
    standardise actions; both are buffers. Columns that never vary have scale 0 and are given as their mean.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, *, actions: int, chunk: int, goals: int, width: int) -> None:
        super().__init__()
        self.shape = (goals, chunk, actions)
        self.look = nn.Sequential(
            nn.Conv2d(3, width, 5, stride=2, padding=2), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
        )  # fmt: skip
        hidden = 8 * width
        self.read = nn.Sequential(
            nn.Linear(4 * width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, goals * chunk * actions),
        )  # fmt: skip
        self.register_buffer("mean", torch.zeros(actions))
        self.register_buffer("scale", torch.ones(actions))

    def forward(self, frame: UInt8[Tensor, "b c h w"], goal: Int[Tensor, "b"]) -> Float[Tensor, "b k a"]:
        """Standardised actions, the next one first; 0 in columns that never vary."""
        seen = self.look(frame.float() / 127.5 - 1.0)
        share = seen.flatten(2).softmax(dim=-1).unflatten(2, seen.shape[2:])
        height, width = seen.shape[-2:]
        x, y = (torch.linspace(-1, 1, length, device=seen.device) for length in (width, height))
        places = torch.cat([(share.sum(2) * x).sum(-1), (share.sum(3) * y).sum(-1)], dim=1)
        chunks = self.read(places).unflatten(1, self.shape)
        return chunks[torch.arange(len(frame), device=frame.device), goal] * (self.scale > 0)

    def standardised(self, actions: Float[Tensor, "b k a"]) -> Float[Tensor, "b k a"]:
        """Actions in the unit of outputs; 0 in columns that never vary."""
        return torch.where(self.scale > 0, (actions - self.mean) / self.scale.clamp_min(1e-12), 0.0)

    def chosen(self, frame: UInt8[Tensor, "b c h w"], goal: Int[Tensor, "b"]) -> Float[Tensor, "b k a"]:
        """Actions in the data's own units."""
        return self(frame, goal) * self.scale + self.mean
