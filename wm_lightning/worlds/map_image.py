"""A map as one large picture seen through a crop: WorldGen's world, with the true move of every crop known.

Most of a new crop is an exact copy of the one before, so errors are told apart: of the overlap, which the start
determines, and of the new strip, which it does not.
"""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from wm_lightning.clip import Clip, Pixels
from wm_lightning.data.formats.map_image import MAP, SPEC, UNSEEN
from wm_lightning.metrics.distance import Scale, mmd2
from wm_lightning.metrics.features import ClipFeatures
from wm_lightning.metrics.phase_correlation import phase_shift
from wm_lightning.worlds.map_painting import Density, paint_map
from wm_lightning.worlds.world import Measures

VERSION = 1  # part of the cache's key: raise it when the same settings give other maps
TOLERANCE = 1  # pixels by which a recovered move may be off


class MapImage:
    """Paints two maps of `height` x `width` pixels, one of `seed` and one of `unseen_seed`, and judges pixels.

    `towns`, `rivers` and `signs` are counts in a square of 256 x 256 pixels.
    """

    name = "mapimage"
    spec = SPEC

    def __init__(
        self,
        *,
        seed: int,
        unseen_seed: int,
        height: int,
        width: int,
        towns: float | int,
        rivers: float | int,
        signs: float | int,
    ) -> None:
        if seed == unseen_seed:
            raise ValueError(f"data.world.{unseen_seed=} is that of the map itself, so it would be seen; change it")
        if min(height, width) < 64:
            raise ValueError(f"data.world.{height=} and {width=} must be at least 64 pixels")
        self.seed, self.unseen_seed, self.height, self.width = seed, unseen_seed, height, width
        self.density = Density(towns, rivers, signs)

    @property
    def settings(self) -> dict[str, Any]:
        """All that the data depend on, as plain JSON values."""
        keys = ("seed", "unseen_seed", "height", "width")
        return {**{key: getattr(self, key) for key in keys}, **vars(self.density), "version": VERSION}

    @property
    def size(self) -> int:
        """An upper estimate of the data on disk, in bytes."""
        return 2 * self.height * self.width * 3 + 2**20

    def write(self, folder: Path, advance: Callable[[int], None]) -> None:
        """Paints both maps; `advance(1)` is called after each."""
        for name, seed in ((MAP, self.seed), (UNSEEN, self.unseen_seed)):
            Image.fromarray(paint_map(seed, self.height, self.width, self.density)).save(folder / name)
            advance(1)

    def measure(self, video: Pixels, clip: Clip, context: int) -> Measures:
        """Judges the generated frames; the context frames give NaN.

        action_error: 0 or 1, whether the move that phase correlation finds between a frame and the one before is
        another than the true one (by more than a pixel); NaN where it does not even find it in the true frames.
        object_error: mean absolute colour difference (0..1) of the pixels that the context frames showed; NaN where
        none is in view. presence: not defined here, NaN. extra: `strip_error` [b f], the same difference of pixels that
        no earlier frame showed; `frame` and `start` [b d], features of the last and the first frame by themselves.
        """
        if video.shape != clip.video.shape or not 0 < context < video.shape[1]:
            raise ValueError(
                f"video {tuple(video.shape)} must have the shape of the clip {tuple(clip.video.shape)}, "
                f"and {context=} must leave frames to judge"
            )
        seen = _seen_before(clip.truth["position"], *video.shape[-2:])
        known = seen[:, :, :context].any(2)
        earlier = torch.ones(video.shape[1], video.shape[1], device=video.device).tril(-1).bool()
        new = ~(seen & earlier[None, :, :, None, None]).any(2)
        error = (video.float() - clip.video.float()).abs().mean(2) / 255
        features = {"frame": frame_features(video[:, -1]), "start": frame_features(clip.video[:, 0])}
        return Measures(
            _judged(_move_error(video, clip), context),
            _judged(_mean_where(error, known), context),
            torch.full(video.shape[:2], torch.nan),
            {"strip_error": _judged(_mean_where(error, new), context), **features},
        )

    def compare(self, generated: Measures, true: Measures) -> dict[str, float]:
        """Errors of overlap and new strip, how many moves the pixels tell, and the distance of single frames.

        `frame_distance` sees no start and no action, as the published KID: a model that ignores both may score well. It
        is the kernel distance (`kd_rand`) between the last frames of half of the generated clips and those of the
        other half of the true ones, both ways; `frame_floor` the same between halves of the true clips.
        """
        scale = Scale.fit(true.extra["start"])
        made, real = (scale(measures.extra["frame"]) for measures in (generated, true))
        halves = ((0, 1), (1, 0))
        enough = len(real) >= 4
        distances = [mmd2(made[a::2], real[b::2]) if enough else torch.nan for a, b in halves]
        return {
            "strip_error": float(generated.extra["strip_error"].nanmean()),
            "overlap_error": float(generated.object_error.nanmean()),
            "moves_told": _share_told(true.action_error),
            "frame_distance": sum(distances) / len(distances),
            "frame_floor": mmd2(real[0::2], real[1::2]) if enough else torch.nan,
        }

    def baselines(self) -> Mapping[str, Callable[[Clip, int], Pixels]]:
        """What can be had without any model: the start image moved as it should be."""
        return {"copy and shift": copy_shift}


def copy_shift(clip: Clip, context: int) -> Pixels:
    """The last given frame moved by the true moves; what comes into view repeats the border."""
    position, given = clip.truth["position"].cpu(), clip.video[:, :context].cpu()
    height, width = clip.video.shape[-2:]
    rows, columns = (position[:, context:] - position[:, context - 1 : context]).unbind(-1)
    y = (torch.arange(height) + rows[..., None]).clamp(0, height - 1)
    x = (torch.arange(width) + columns[..., None]).clamp(0, width - 1)
    index = torch.arange(len(y))[:, None, None, None]
    moved = given[:, -1][index, :, y[..., :, None], x[..., None, :]]
    return torch.cat([given, moved.permute(0, 1, 4, 2, 3)], 1)


def frame_features(frame: Tensor) -> Float[Tensor, "b d"]:
    """Features of single frames `b c h w`, each seen as a clip that stands still."""
    return _extractor()(torch.stack([frame, frame], 1))


@cache
def _extractor() -> ClipFeatures:
    return ClipFeatures.load()


def _judged(values: Float[Tensor, "b f"], context: int) -> Float[Tensor, "b f"]:
    values = values.clone()
    values[:, :context] = torch.nan
    return values


def _seen_before(position: Int[Tensor, "b f 2"], height: int, width: int) -> Bool[Tensor, "b f g h w"]:
    """Whether the place that frame f shows at pixel (y, x) lies in the view of frame g."""
    offset = position[:, :, None] - position[:, None]
    y, x = (torch.arange(side, device=position.device) for side in (height, width))
    rows, columns = y + offset[..., 0, None], x + offset[..., 1, None]
    return ((rows >= 0) & (rows < height))[..., :, None] & ((columns >= 0) & (columns < width))[..., None, :]


def _mean_where(error: Float[Tensor, "b f h w"], chosen: Bool[Tensor, "b f h w"]) -> Float[Tensor, "b f"]:
    return (error * chosen).sum((2, 3)) / chosen.sum((2, 3))  # 0 / 0 is NaN, as wanted


def _share_told(error: Float[Tensor, "b f"]) -> float:
    """Share of the judged frames whose move can be told from the true pixels; context frames are never judged."""
    told = ~error.isnan()
    return float(told[:, told.any(0)].float().mean())


def _move_error(video: Pixels, clip: Clip) -> Float[Tensor, "b f"]:
    """0 where the move is found, 1 where another is, NaN where the true pixels do not tell it."""
    true = clip.truth["position"].diff(dim=1).flatten(0, 1)
    off = []
    for pixels in (video, clip.video):
        found = phase_shift(pixels[:, :-1].flatten(0, 1), pixels[:, 1:].flatten(0, 1))
        off.append((found - true).abs().amax(-1) > TOLERANCE)
    error = torch.where(off[1], torch.nan, off[0].float()).unflatten(0, (len(video), -1))
    return torch.nn.functional.pad(error, (1, 0), value=torch.nan)
