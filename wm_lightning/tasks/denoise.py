"""task=denoise: how frames come out of noise, step by step, as a strip and as a looping picture."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from omegaconf import DictConfig
from torch import Tensor

from wm_lightning.clip import Clip
from wm_lightning.compute import precise
from wm_lightning.results.pictures import Film, draw_gif, draw_strips
from wm_lightning.sampling.rollout import SeededNoise, next_chunk, remember_context
from wm_lightning.tasks.build import build_data, device_of, kind_of
from wm_lightning.tasks.evaluate import read_checkpoint
from wm_lightning.tasks.rollout import Use, build_subject
from wm_lightning.tasks.subjects import Subject

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Denoise:
    """The task: draws the first chunk made of `count` test clips after every denoising step.

    `steps` None as trained; `columns` steps in the PNG; `side` of a frame in pixels, `fps` of the GIF.
    """

    count: int
    steps: int | None
    seed: int
    columns: int
    side: int
    fps: int

    def __call__(self, config: DictConfig) -> dict[str, float]:
        """Writes `denoising.png` and `denoising.gif` into the run folder; returns the number of steps."""
        data = build_data(config)
        context, device = int(config.module.context), device_of(config)
        file = read_checkpoint(config, data, kind_of(config))
        # A chunk longer than a clip is a clip's.
        frames = context + min(config.rollout.chunk, max(1, data.frames - context))
        subject = build_subject(config, file, data, Use(context, frames, self.steps), device)
        clip = next(data.clips("test", self.count, frames, self.count))
        with precise(device, str(config.trainer.precision)):
            films = passes(subject, clip, context, self.seed, device)
        mark = "_simulated" if data.simulated else ""
        folder = Path(config.run_dir)
        shown: Mapping[str, Any] = {
            "context": 1, "clips": self.count, "side": self.side,
            "caption": f"{data.name}, {config.name}: the given frame, then after +k of {subject.steps} steps",
        }  # fmt: skip
        draw_strips(folder / f"denoising{mark}.png", films, columns=self.columns, **shown)
        draw_gif(folder / f"denoising{mark}.gif", films, fps=self.fps, most_bytes=2_000_000, **shown)
        log.info("Written: %s", folder / f"denoising{mark}.png")
        return {"steps": float(subject.steps)}


@torch.no_grad()
def passes(subject: Subject, clip: Clip, context: int, seed: int, device: torch.device) -> list[Film]:
    """Films whose frames are steps: the sample, the clean frame the model sees in it, and the truth.

    Of every clip the last frame of its first chunk is shown, behind its last given frame.
    """
    noise = SeededNoise(seed, "evaluation", tuple(clip.index.tolist()), device)
    given, condition = clip.frames(0, context).x0.to(device), clip.condition.to(device)
    condition = subject.model.begun(given, condition)
    past = remember_context(subject.model, given, condition, subject.plan, noise)
    chunk = next_chunk(
        subject.model, subject.sampler, past, condition.frames(context, clip.video.shape[1]), subject.plan, noise,
        shape=tuple(given.shape[2:]), keep=False, record=True,
    )  # fmt: skip
    start = clip.video[:, context - 1 : context].cpu()

    def film(frames: list[Tensor]) -> UInt8[Tensor, "n f c h w"]:
        return torch.cat([start, *(subject.decode(frame[:, -1:]).cpu() for frame in frames)], dim=1)

    truth = clip.video[:, -1:].cpu().expand(-1, len(chunk.record), -1, -1, -1)
    return [
        Film("sample", film([trace.after for trace in chunk.record])),
        Film("clean frame\nit sees", film([trace.x0 for trace in chunk.record])),
        Film("truth", torch.cat([start, truth], dim=1)),
    ]
