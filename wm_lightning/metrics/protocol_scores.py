"""Scores of a protocol: frame measures on exactly the frames it scores, and distances of sets of frames and clips."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import UInt8
from torch import Tensor

from wm_lightning.metrics.distance import Distance, Scale, kernel_distance
from wm_lightning.metrics.episode_bootstrap import mean_interval
from wm_lightning.metrics.extractors import Extractor
from wm_lightning.metrics.perceptual import HorizonDreamSim, HorizonLPIPS, HorizonMSE
from wm_lightning.metrics.set_distance import SetDistance, set_distance
from wm_lightning.metrics.valid_ssim import HorizonValidSSIM
from wm_lightning.metrics.video import WINDOW, HorizonMean, HorizonPSNR
from wm_lightning.metrics.weights import CANONICAL, Weights

Video = UInt8[Tensor, "b f c h w"]
# A kernel distance that fewer clips than this carry is said to be unstable, and one whose scale comes from fewer clips
# than this share of its features: then most directions look as if nothing ever varied along them.
CARRIED, OF_FEATURES = 3.0, 0.5
Kind = Literal["fd", "kid", "kid_worldgen"]


@dataclass(frozen=True)
class Asked:
    """Frames (absolute indices) of image measures, frames of clips (start, stop), and the names of metrics.

    `by_frame` gives the image distances for every scored frame apart, as NWM reports them.
    """

    image_frames: Sequence[int]
    video_frames: tuple[int, int] | None
    metrics: Sequence[str]
    by_frame: bool


@dataclass
class ProtocolScores:
    """Streams generated clips beside their truth, both uint8 and of the size that is scored."""

    asked: Asked
    weights: Weights
    size: tuple[int, int]
    missing: dict[str, str] = field(default_factory=dict)
    frames: dict[str, HorizonMean] = field(init=False)
    fallbacks: tuple[Extractor, ...] = field(init=False)
    extractors: dict[tuple[str, Kind], Extractor] = field(init=False)
    features: dict[tuple[str, str], list[Tensor]] = field(default_factory=dict)
    values: dict[str, list[Tensor]] = field(default_factory=dict)
    episodes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.frames = dict(self._frame_metrics())
        self.fallbacks = tuple(self.weights.fallbacks())
        self.extractors = {}
        for name in self.asked.metrics:
            if name in CANONICAL:
                extractor = self.weights.canonical(name)
                if extractor is None:
                    self.missing[name] = self.weights.why_not(name)
                else:
                    self.extractors[name, CANONICAL[name][1]] = extractor  # type: ignore[index]
        self.extractors |= {(f"fd_{extractor.name}", "fd"): extractor for extractor in self.fallbacks}

    def _frame_metrics(self) -> Mapping[str, HorizonMean]:
        settings = {"context": 0, "horizon": len(self.asked.image_frames)}
        made: dict[str, HorizonMean] = {}
        for name in self.asked.metrics:
            if name in ("lpips_alex", "lpips_vgg", "dreamsim"):
                pinned = self.weights.of(name)
                if pinned is None:
                    self.missing[name] = self.weights.why_not(name)
                elif name == "dreamsim":
                    made[name] = HorizonDreamSim(weights=pinned, **settings)
                else:
                    made[name] = HorizonLPIPS(net="alex" if name == "lpips_alex" else "vgg", weights=pinned, **settings)
        plain = {"mse": HorizonMSE, "psnr": HorizonPSNR, "ssim": HorizonValidSSIM}
        made |= {name: kind(**settings) for name, kind in plain.items() if name in self.asked.metrics}
        if "ssim" in made and min(self.size) < WINDOW:
            self.missing["ssim"] = f"frames of {self.size} are smaller than its window of {WINDOW}"
            del made["ssim"]
        return made

    def add(
        self, video: Video, truth: Video, episodes: Sequence[str], known: Mapping[str, Tensor] | None = None
    ) -> None:
        """Adds a batch of whole clips, the given frames included, and the name of every clip's episode.

        `known` are the truth's `features_by_extractor`. Raises ValueError where the three differ in size.
        """
        if video.shape != truth.shape or len(episodes) != len(video):
            raise ValueError(f"{tuple(video.shape)}, {tuple(truth.shape)} and {len(episodes)} episodes do not match")
        rows = list(self.asked.image_frames)
        pair = [clips[:, rows].flatten(0, 1).float() for clips in (video, truth)]
        for name, metric in self.frames.items():
            values = metric.measure(*pair).reshape(len(video), len(rows))
            self.values.setdefault(name, []).append(values.double())
        made, true = self.features_by_extractor(video), known or self.features_by_extractor(truth)
        for side, found in (("generated", made), ("truth", true)):
            for name, features in found.items():
                self.features.setdefault((name, side), []).append(features)
        self.episodes += episodes

    def features_by_extractor(self, clips: Video) -> dict[str, Tensor]:
        """Features `clips rows d` of the frames that every extractor is asked about."""
        named = {extractor.name: extractor for extractor in self.extractors.values()}
        return {name: self._look(extractor, clips) for name, extractor in named.items()}

    def _look(self, extractor: Extractor, clips: Video) -> Tensor:
        if extractor.of == "frame":
            part = clips[:, list(self.asked.image_frames)]
        else:
            start, stop = self.asked.video_frames or (0, clips.shape[1])
            part = clips[:, start:stop]
        return extractor(part).unflatten(0, (len(clips), -1))

    def measured(self, *, draws: int, seed: int) -> dict[str, Any]:
        """Frame measures by scored frame, and their means, each with its interval, as plain numbers."""
        return {name: self._measured(name, draws, seed) for name in self.frames}

    def _measured(self, name: str, draws: int, seed: int) -> dict[str, Any]:
        values = torch.cat(self.values[name])
        values = torch.cat([values, values.mean(1, keepdim=True)], dim=1)
        found = mean_interval(values, self.episodes, draws=draws, seed=seed)
        *frames, mean = (_plain(value) for value in values.mean(0).tolist())
        return {
            "frames": frames, "frames_low": list(found.low[:-1]), "frames_high": list(found.high[:-1]),
            "mean": mean, "low": found.low[-1], "high": found.high[-1], "n": len(values), "episodes": found.episodes,
            "extractor": getattr(self.frames[name], "extractor_hash", None),
        }  # fmt: skip

    def distances(self, *, draws: int, seed: int) -> list[dict[str, Any]]:
        """Every distance with floor, interval, N and what its features were."""
        found: list[SetDistance] = []
        for (name, kind), extractor in self.extractors.items():
            generated, truth = (torch.cat(self.features[extractor.name, side]) for side in ("generated", "truth"))
            if self.asked.by_frame and extractor.of == "frame":
                found += [
                    self._distance(f"{name}@{frame}", kind, extractor, generated[:, [i]], truth[:, [i]], draws, seed)
                    for i, frame in enumerate(self.asked.image_frames)
                ]
            else:
                found.append(self._distance(name, kind, extractor, generated, truth, draws, seed))
        return [asdict(entry) for entry in found]

    def features_of(self, real: Video) -> dict[str, Tensor]:
        """Features of other real clips, for `kernel_distances`; those of frames enter as their mean over the clip."""
        return {extractor.name: self._look(extractor, real).mean(1) for extractor in self.fallbacks}

    def kernel_distances(
        self, real: Mapping[str, Tensor], episodes: Sequence[str], *, minimum: int, draws: int, seed: int
    ) -> list[dict[str, Any]]:
        """The suite's own kd_NAME: generated and true clips against other real clips (see `metrics.distance`).

        `real` are `features_of` training clips and `episodes` where these come from: as many as were generated are the
        reference, the others set the scale. `low` and `high` bound the excess over the floor.
        """
        found = []
        for extractor in self.fallbacks:
            kept = (torch.cat(self.features[extractor.name, side]) for side in ("generated", "truth"))
            generated, truth = (features.mean(1) for features in kept)
            features = real[extractor.name]
            reference, others = features[: len(truth)], features[len(truth) :]
            if len(reference) < len(truth) or len(others) < 2:
                note = f"{len(features)} training clips are too few for a reference and a scale"
                entry = Distance(None, None, None, None, len(truth), extractor.sha256, note)
            else:
                entry = kernel_distance(
                    generated, truth, reference, scale=Scale.fit(others), extractor=extractor.sha256, minimum=minimum,
                    draws=draws, seed=seed, episodes=(self.episodes, episodes[: len(truth)]),
                )  # fmt: skip
            plain = asdict(entry) | {"note": entry.reason or _unstable(entry, others), "excess": entry.excess}
            plain.pop("reason")
            found.append(plain | {"name": f"kd_{extractor.name}", "resize": extractor.resize, "dtype": extractor.dtype})
        return found

    def _distance(
        self, name: str, kind: Kind, extractor: Extractor, generated: Tensor, truth: Tensor, draws: int, seed: int
    ) -> SetDistance:
        return set_distance(
            kind, name, generated, truth, extractor=extractor.sha256, resize=extractor.resize, dtype=extractor.dtype,
            draws=draws, seed=seed, episodes=self.episodes,
        )  # fmt: skip


def _unstable(found: Distance, scaled_by: Tensor) -> str | None:
    count, features = scaled_by.shape
    if count < OF_FEATURES * features:
        return f"its scale is that of {count} clips, too few for {features} features: the number means little"
    if found.effective is None or found.effective >= CARRIED:
        return None
    return f"{found.effective:.1f} of {found.n} clips carry it: with other clips it would be another; give it more"


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
