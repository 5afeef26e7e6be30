"""PSNR and SSIM of generated video, streamed and kept apart by how far a frame lies in the future."""

from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

Video = UInt8[Tensor, "b f c h w"]
Frames = Float[Tensor, "n c h w"]

# Errors below one grey level are not told apart: 20 log10(255), in dB. Without a ceiling one frame that
# is copied exactly would be infinitely good and with it every mean that it enters.
CEILING = 48.1308
# The side of SSIM's Gaussian window (sigma 1.5); smaller frames hold no whole window.
WINDOW = 11


class HorizonMean(Metric):
    """Base of measures of single frames, averaged over clips for every generated frame.

    Horizon 0 is the first frame after the context. Every clip counts once, whatever its batch's size;
    ranks are summed.
    """

    full_state_update = False
    higher_is_better = True
    total: Tensor
    count: Tensor

    def __init__(self, *, context: int, horizon: int, **metric: Any) -> None:
        """`context` frames at the start of every clip are given and left out; `horizon` frames follow.

        `metric` is for torchmetrics.
        """
        super().__init__(**metric)
        if context < 0 or horizon < 1:
            raise ValueError(f"{context=} must be at least 0 and {horizon=} at least 1")
        self.context = context
        self.horizon = horizon
        self.add_state("total", torch.zeros(horizon, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, generated: Video, truth: UInt8[Tensor, "..."]) -> None:
        """Adds clips of `context + horizon` frames. Raises ValueError where shapes differ from that."""
        frames = self.context + self.horizon
        if generated.shape != truth.shape or truth.shape[1] != frames:
            raise ValueError(
                f"generated {tuple(generated.shape)} and truth {tuple(truth.shape)} (b f c h w) must be equal "
                f"and have {self.context} + {self.horizon} = {frames} frames"
            )
        pair = (video[:, self.context :].flatten(0, 1).float() for video in (generated, truth))
        values = self.measure(*pair).reshape(len(truth), self.horizon)
        self.total += values.double().sum(dim=0)
        self.count += len(truth)

    def measure(self, generated: Frames, truth: Frames) -> Float[Tensor, "n"]:
        """One value per frame; pixels are floats 0..255."""
        raise NotImplementedError

    def compute(self) -> Float[Tensor, "..."]:
        """The mean by horizon, `f`; torchmetrics turns a horizon of one frame into a scalar."""
        return (self.total / self.count).float()

    def values(self) -> tuple[float, ...]:
        """The mean by horizon as plain numbers, one per generated frame."""
        return tuple(self.compute().reshape(-1).tolist())

    def mean(self) -> float:
        """The mean over all generated frames."""
        return float(self.compute().mean())


class HorizonPSNR(HorizonMean):
    """PSNR in dB by horizon: the mean over clips of every frame's own PSNR, at most 48.1 dB."""

    def measure(self, generated: Frames, truth: Frames) -> Float[Tensor, "n"]:
        """PSNR per frame, 0..48.1 dB."""
        values = peak_signal_noise_ratio(generated, truth, data_range=255.0, dim=(1, 2, 3), reduction="none")
        return values.clamp_max(CEILING)


class HorizonSSIM(HorizonMean):
    """SSIM (Gaussian window of 11 pixels, sigma 1.5) by horizon."""

    def measure(self, generated: Frames, truth: Frames) -> Float[Tensor, "n"]:
        """SSIM per frame, -1..1. Raises ValueError where the frame is smaller than the window."""
        if min(truth.shape[-2:]) < WINDOW:
            size = tuple(truth.shape[-2:])
            raise ValueError(f"SSIM needs frames of at least {WINDOW} x {WINDOW} pixels, got {size}: leave it out")
        values = structural_similarity_index_measure(generated, truth, data_range=255.0, sigma=1.5, reduction="none")
        return torch.as_tensor(values).reshape(-1)
