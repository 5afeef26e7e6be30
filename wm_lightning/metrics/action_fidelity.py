"""Do actions drive the video? Shuffled-action gap, constant-action sweep, null-action stillness, recovery.

Each is a torchmetrics metric by horizon: index 0 is the first generated frame. Every clip counts once.
"""

import math

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torchmetrics import Metric

Video = UInt8[Tensor, "b f c h w"]
Motion = Float[Tensor, "b f 2"]
# A probe that should move less than this, in the measure's unit (picture widths, tiles), should not move anything.
NOTHING = 1e-6


class FidelityMetric(Metric):
    """Base: sums over clips, added up over ranks."""

    full_state_update = False

    def sums(self, **shapes: tuple[int, ...]) -> None:
        """Adds float64 states that start at 0."""
        for name, shape in shapes.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")


class ActionGap(FidelityMetric):
    """Error under another clip's actions minus error under the true ones, same context and noise (0: ignored).

    `compute` gives the gap by horizon; `mean_and_error` the mean over the horizon and its standard error over clips.
    """

    higher_is_better = True
    gap: Tensor
    count: Tensor
    clip_sum: Tensor
    clip_square: Tensor
    clips: Tensor

    def __init__(self, *, horizon: int, **options: bool) -> None:
        super().__init__(**options)
        self.sums(gap=(horizon,), count=(horizon,), clip_sum=(), clip_square=(), clips=())

    def update(self, true: Float[Tensor, "b f"], shuffled: Float[Tensor, "b f"]) -> None:
        """Adds errors of generated frames; NaN marks frames where an error is undefined."""
        gap = (shuffled - true).double()
        self.gap += gap.nansum(0)
        self.count += gap.isfinite().sum(0)
        of_clip = gap.nanmean(1)
        self.clip_sum += of_clip.nansum()
        self.clip_square += of_clip.square().nansum()
        self.clips += of_clip.isfinite().sum()

    def compute(self) -> Float[Tensor, "..."]:
        """The gap by horizon; NaN where it is undefined."""
        return (self.gap / self.count).float()

    def mean_and_error(self) -> tuple[float, float]:
        """Mean over clips and its standard error (NaN for fewer than two clips)."""
        n = float(self.clips)
        if n < 2:
            return (float(self.clip_sum / n) if n else math.nan), math.nan
        mean = float(self.clip_sum) / n
        variance = max(0.0, float(self.clip_square) / n - mean**2) * n / (n - 1)
        return mean, math.sqrt(variance / n)


class ActionSweep(FidelityMetric):
    """Motion under constant actions, against the motion that real clips show under them.

    For every probe (a constant action) and clip, the recovered motion minus that of the same clip under the neutral
    action is compared with the expected difference. gain: the mean motion along the mean expected one, so that errors
    of the measure in single frames cancel; 1 is the right sign and size, 0 none, negative the wrong way. sign: share of
    frames whose motion goes the way expected of them, a frame that does not move counting half, as chance would have
    it, and one of which no motion is expected not at all. Both are NaN where no motion is expected: a probe then says
    nothing of the generator. stillness: mean length of motion under the neutral action, in the measure's unit.
    """

    higher_is_better = True
    along: Tensor
    wanted: Tensor
    right: Tensor
    moved: Tensor
    count: Tensor
    told: Tensor
    still: Tensor
    still_count: Tensor

    def __init__(self, *, probes: int, horizon: int, **options: bool) -> None:
        super().__init__(**options)
        shape = (probes, horizon)
        self.sums(along=shape, wanted=shape, right=shape, count=shape, told=shape, moved=(probes, 2))
        self.sums(still=(horizon,), still_count=(horizon,))

    def update(self, probe: int, motion: Motion, neutral: Motion, expected: Float[Tensor, "... 2"]) -> None:
        """Adds one probe's clips: motion of generated frames under it and under the neutral action.

        `expected` is one motion, or one for every clip and frame.
        """
        difference = (motion - neutral).double()
        expected = expected.double().expand_as(difference)
        usual = expected.mean((0, 1))
        if float(usual.norm()) < NOTHING:
            usual = torch.zeros_like(usual)
        self.along[probe] += (difference @ usual).sum(0)
        self.wanted[probe] += len(motion) * usual.square().sum()
        told, towards = expected.norm(dim=-1) >= NOTHING, (difference * expected).sum(-1)
        self.right[probe] += (told * ((towards > 0) + 0.5 * (towards == 0))).sum(0)
        self.told[probe] += told.sum(0)
        self.moved[probe] += difference.mean(1).sum(0)
        self.count[probe] += len(motion)

    def update_neutral(self, neutral: Motion) -> None:
        """Adds motion of generated frames under the neutral action."""
        self.still += neutral.norm(dim=-1).double().sum(0)
        self.still_count += len(neutral)

    def compute(self) -> Float[Tensor, "f"]:
        """The gain by horizon, all probes together."""
        return (self.along.sum(0) / self.wanted.sum(0)).float()

    def gain(self) -> float:
        """The gain over all probes and frames; NaN where no probe is expected to move anything."""
        return float(self.along.sum() / self.wanted.sum())

    def sign(self) -> float:
        """Share of frames that moved the expected way, over probes that move at least a tenth of what the most moves.

        What a probe does may be out of the measure's sight (a gripper's height, seen from above). NaN where no probe is
        expected to move anything.
        """
        size = (self.wanted / self.count).amax(1)
        seen = (size >= 0.01 * size.amax(0)) & (size > 0) if len(size) else size > 0
        return float(self.right[seen].sum() / self.told[seen].sum())

    def stillness(self) -> Float[Tensor, "f"]:
        """Mean length of motion under the neutral action, by horizon."""
        return (self.still / self.still_count).float()

    def by_probe(self) -> list[dict[str, float | list[float]]]:
        """Per probe: gain and sign (NaN where none is expected), and the mean recovered motion (x, y) per frame."""
        clips = self.count.amax(1, keepdim=True)
        signs = (self.right.sum(1) / self.told.sum(1)).where(self.wanted.sum(1) > 0, torch.nan)
        return [
            {"gain": gain, "sign": sign, "motion": moved}
            for gain, sign, moved in zip(
                (self.along.sum(1) / self.wanted.sum(1)).tolist(), signs.tolist(),
                (self.moved / clips).tolist(), strict=True,
            )
        ]  # fmt: skip


class Recovery(FidelityMetric):
    """R2 by horizon of actions read off a video by an inverse-dynamics network, in standardised columns.

    1 - squared error / squared deviation from the training clips' mean action: 1 is perfect, 0 knows no more than the
    mean. For multi-hot actions it is the Brier skill score.
    """

    higher_is_better = True
    error: Tensor
    total: Tensor

    def __init__(self, *, horizon: int, columns: int, **options: bool) -> None:
        super().__init__(**options)
        self.sums(error=(horizon, columns), total=(horizon, columns))

    def update(
        self, predicted: Float[Tensor, "b f a"], actions: Float[Tensor, "b f a"], given: Bool[Tensor, "b f"]
    ) -> None:
        """Adds standardised predictions and actions of generated frames; `given` marks frames that have an action."""
        self.error += ((predicted - actions).square() * given[..., None]).double().sum(0)
        self.total += (actions.square() * given[..., None]).double().sum(0)

    def compute(self) -> Float[Tensor, "..."]:
        """R2 by horizon, all columns together."""
        return (1 - self.error.sum(1) / self.total.sum(1)).float()

    def by_column(self) -> Float[Tensor, "a"]:
        """R2 of every column over all frames; NaN where a column never varied."""
        return (1 - self.error.sum(0) / self.total.sum(0)).float()

    def mean(self) -> float:
        """R2 over all frames and columns together."""
        return float(1 - self.error.sum() / self.total.sum())


def frame_error(generated: Video, truth: Video) -> Float[Tensor, "b f"]:
    """Mean squared error of every frame, pixels in [0, 1]."""
    return ((generated.float() - truth.float()) / 255).square().mean((2, 3, 4))
