"""Motion seen in a video by pixels alone, and the motion that an action stands for, learned from real clips."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from wm_lightning.metrics import phase_correlation

Video = UInt8[Tensor, "b f c h w"]
Motion = Float[Tensor, "b f 2"]

# What `phase_shift` is called where it is reported: a generic optical measure, which knows no world.
PHASE = "phase correlation"
# Times the median residual, and not within real motion's own size: there a frame's motion is wrongly measured.
OUTLYING = 4.0


def phase_shift(video: Video) -> Motion:
    """Shift (x, y) of the whole picture since the frame before, in picture widths and heights; 0 for the first frame.

    Phase correlation of grey frames. It sees motion of the view or of most of the picture; what moves in a small part
    of a still picture it does not see.
    """
    height, width = video.shape[-2:]
    moved = phase_correlation.phase_shift(video[:, :-1].flatten(0, 1), video[:, 1:].flatten(0, 1))
    rows, columns = moved.unflatten(0, (len(video), -1)).unbind(-1)
    # Where the view moves one way, the picture moves the other.
    shift = -torch.stack([columns / width, rows / height], dim=-1)
    return torch.nn.functional.pad(shift, (0, 0, 1, 0))


@dataclass(frozen=True)
class MotionModel:
    """The motion `(x, y)` that an action stands for: a ridge regression on real clips.

    `r2` is the share of the real motion's variance that actions explain linearly, over the share `kept` of frames
    that the measure did not get far wrong: how much a sweep can tell. `size` is the mean length of real motion.
    """

    weight: Float[Tensor, "a 2"]
    offset: Float[Tensor, "2"]
    r2: float
    size: float
    kept: float

    @classmethod
    def fit(cls, actions: Float[Tensor, "n a"], motion: Float[Tensor, "n 2"], *, ridge: float) -> "MotionModel":
        """Least squares with the penalty `ridge` per sample, thrice: again without frames whose motion lies far off.

        A measure of pixels errs at times, and by much. Raises ValueError where nothing is there to fit.
        """
        if len(actions) < 2:
            raise ValueError(f"{len(actions)} real frames with an action; two at least are needed to learn from")
        x, y = actions.double(), motion.double()
        kept = torch.ones(len(x), dtype=torch.bool)
        for _ in range(3):
            weight, offset = _least_squares(x[kept], y[kept], ridge)
            far = (y - x @ weight - offset).norm(dim=1)
            kept = far <= torch.maximum(OUTLYING * far[kept].median(), y.square().sum(1).mean().sqrt())
        left, total = (y - x @ weight - offset)[kept].square().sum(), (y - y[kept].mean(0))[kept].square().sum()
        r2 = float(1 - left / total) if float(total) > 0 else 0.0
        size = float(motion.norm(dim=-1).mean())
        return cls(weight.float(), offset.float(), r2, size, float(kept.double().mean()))

    def __call__(self, actions: Float[Tensor, "... a"]) -> Float[Tensor, "... 2"]:
        """The motion to expect of every action."""
        return actions @ self.weight + self.offset


def _least_squares(x: Tensor, y: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    gram = x.T @ x / len(x) + ridge * torch.eye(x.shape[1], dtype=x.dtype)
    weight = torch.linalg.solve(gram, x.T @ y / len(x))
    return weight, mean_y - mean_x @ weight
