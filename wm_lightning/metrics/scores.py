"""All measures of a set of generated clips, collected batch by batch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from wm_lightning.metrics.distance import Distance, Scale, kernel_distance
from wm_lightning.metrics.features import ClipFeatures
from wm_lightning.metrics.perceptual import HorizonMSE, HorizonPerceptual
from wm_lightning.metrics.set_distance import frechet
from wm_lightning.metrics.video import WINDOW, HorizonPSNR, HorizonSSIM

Video = UInt8[Tensor, "b f c h w"]
JUDGED = ("action_error", "object_error", "presence")


@runtime_checkable
class Judged(Protocol):
    """What a world's judge returns: per clip and frame, NaN where undefined."""

    @property
    def action_error(self) -> Float[Tensor, "b f"]: ...
    @property
    def object_error(self) -> Float[Tensor, "b f"]: ...
    @property
    def presence(self) -> Float[Tensor, "b f"]: ...
    @property
    def extra(self) -> Mapping[str, Tensor]: ...


@dataclass
class Scores:
    """Streams generated clips beside their truth; `context` leading frames are left out of every measure."""

    context: int
    horizon: int
    features: ClipFeatures
    _psnr: HorizonPSNR = field(init=False)
    _ssim: HorizonSSIM = field(init=False)
    _mse: HorizonMSE = field(init=False)
    _perceptual: HorizonPerceptual = field(init=False)
    generated: list[Tensor] = field(default_factory=list)
    truth: list[Tensor] = field(default_factory=list)
    frames: tuple[list[Tensor], list[Tensor]] = field(default_factory=lambda: ([], []))  # generated and true
    measures: dict[str, list[Tensor]] = field(default_factory=dict)
    clips: int = 0

    def __post_init__(self) -> None:
        # Not over ranks: states stay on the CPU, and a table is made by the first rank alone.
        own: dict[str, Any] = {"context": self.context, "horizon": self.horizon, "sync_on_compute": False}
        self._psnr = HorizonPSNR(**own)
        self._ssim = HorizonSSIM(**own)
        self._mse = HorizonMSE(**own)
        self._perceptual = HorizonPerceptual(features=self.features, **own)

    def add(self, video: Video, truth: Video, judged: Judged | None) -> None:
        """Adds a batch: uint8 video of `context + horizon` frames and the real continuation."""
        video, truth = video.cpu(), truth.cpu()
        self._psnr.update(video, truth)
        self._mse.update(video, truth)
        self._perceptual.update(video, truth)
        if min(video.shape[-2:]) >= WINDOW:
            self._ssim.update(video, truth)
        self.generated.append(self.features(video))
        self.truth.append(self.features(truth))
        for kept, clips in zip(self.frames, (video, truth), strict=True):
            kept.append(self.features.of_frames(clips[:, self.context :]).flatten(0, 1))
        self.clips += len(video)
        if judged is None:
            return
        for name in JUDGED:
            self.measures.setdefault(name, []).append(getattr(judged, name)[:, self.context :].cpu())
        for name, values in judged.extra.items():
            self.measures.setdefault(name, []).append(values.cpu())

    def psnr(self) -> tuple[float, ...]:
        """PSNR in dB by horizon."""
        return self._psnr.values()

    def ssim(self) -> tuple[float, ...] | None:
        """SSIM by horizon; None where frames are smaller than its window."""
        return self._ssim.values() if int(self._ssim.count) else None

    def perceptual(self) -> tuple[float, ...]:
        """LPIPS' formula on random features, by horizon."""
        return self._perceptual.values()

    def frames_distance(self) -> float | None:
        """Fréchet distance of all generated from all true frames on random features; None for fewer than two frames.

        FID's formula: what is true of single frames, whatever their order.
        """
        generated, truth = (torch.cat(kept) for kept in self.frames)
        return None if len(truth) < 2 else frechet(generated, truth)

    def mean(self, name: str) -> float | None:
        """Mean of a measure over all clips and frames where it is defined; None where it never is."""
        value = self.all(name).float().nanmean()
        return None if bool(value.isnan()) else float(value)

    def by_horizon(self, name: str) -> tuple[float, ...]:
        """Mean of a world's measure by horizon; NaN where it is never defined."""
        return tuple(self.all(name).float().nanmean(dim=0).tolist())

    def every_horizon(self) -> dict[str, tuple[float, ...]]:
        """Every measure of frames by horizon: what was measured alone, NaN at frames where it never is defined."""
        ssim = self.ssim()
        found = {"psnr": self.psnr(), "mse": self._mse.values(), "perceptual": self.perceptual()}
        found |= {} if ssim is None else {"ssim": ssim}
        return found | {name: self.by_horizon(name) for name in JUDGED if name in self.measures}

    def all(self, name: str) -> Tensor:
        """Every value of a measure, clips first; empty where nothing judged the clips."""
        return torch.cat(self.measures[name]) if name in self.measures else torch.empty(0, self.horizon)

    def distance(
        self, reference: Float[Tensor, "n d"], scale: Scale, *, minimum: int, draws: int, seed: int
    ) -> Distance:
        """Kernel distance to real reference clips, of which as many as there are generated ones are used."""
        generated, truth = torch.cat(self.generated), torch.cat(self.truth)
        extractor = f"{self.features.name}:{self.features.extractor_hash}"
        return kernel_distance(
            generated, truth, reference[: len(generated)], scale=scale, extractor=extractor, minimum=minimum,
            draws=draws, seed=seed,
        )  # fmt: skip
