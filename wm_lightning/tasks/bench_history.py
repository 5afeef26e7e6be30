"""What a new frame costs as the history grows, with what networks remember and with all of the past run again."""

import logging
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from wm_lightning.clip import Clip, Condition, Latents, Levels
from wm_lightning.compute import now, precise
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.networks.denoiser import Denoiser
from wm_lightning.networks.masks import FrameMask
from wm_lightning.networks.state import State
from wm_lightning.tasks.bench_entries import Comparison
from wm_lightning.tasks.build import plain_node

log = logging.getLogger(__name__)

SHORT, LONG, REPEATED = 4, 31, 16
FLATTEST, LEAST = 1.15, 5.0
# Forward passes of one timing.
PASSES = 8
Pass = Callable[[], tuple[Latents | None, State]]
Inputs = tuple[Latents, Levels, Condition]


def history(config: DictConfig, data: ClipDataModule, device: torch.device, repeats: int) -> list[Comparison]:
    """New frames per second (one forward pass each, batch 1) behind 31 frames and behind 4, and behind 16 with those
    remembered and run again; all ways in turn, in every one of `repeats` rounds. The medians count. Nothing of networks
    that remember nothing."""
    network = instantiate(plain_node(config, "network"), _convert_="all")().to(device).eval().requires_grad_(False)
    if not getattr(network, "remembers", True):
        log.info("This network remembers nothing, so what a new frame costs behind a history is not measured")
        return []
    model = Denoiser(network, instantiate(plain_node(config, "noising"), _convert_="all"))
    inputs = inputs_of(model, next(iter(data.clips("test", 1, config.data.frames, 1))), LONG + 1, device)
    with precise(device, str(config.trainer.precision)), torch.no_grad():
        ways = {f"{n} remembered": remembered(model, inputs, n) for n in (SHORT, REPEATED, LONG)}
        ways["run again"] = run_again(model, inputs, REPEATED)
        for way in ways.values():
            way()
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeats):
            for name, way in ways.items():
                times[name].append(_seconds(way, device))
    rate = {name: 1 / median(taken) for name, taken in times.items()}
    flat = (f"behind {LONG} frames", f"behind {SHORT}", rate[f"{LONG} remembered"], rate[f"{SHORT} remembered"])
    again = ("remembered", "run again", rate[f"{REPEATED} remembered"], rate["run again"])
    return [
        Comparison("new frame, longer history", "frames/s", *flat, least=round(1 / FLATTEST, 3)),
        Comparison(f"new frame behind {REPEATED} frames", "frames/s", *again, least=LEAST),
    ]


def remembered(model: Denoiser, inputs: Inputs, frames: int) -> Pass:
    """One pass over the frame after the first `frames`, which are in memory."""
    video, level, condition = inputs
    mask, new = FrameMask(chunk=1), slice(frames, frames + 1)
    seen = (video[:, :frames], level[:, :frames], condition.frames(0, frames))
    _, past = model.network(*seen, None, mask=mask, memory_only=True)
    own = condition.frames(frames, frames + 1)
    return lambda: model.network(video[:, new], level[:, new], own, past, mask=mask)


def run_again(model: Denoiser, inputs: Inputs, frames: int) -> Pass:
    """One pass over the first `frames` and the one after them."""
    video, level, condition = inputs
    whole = (video[:, : frames + 1], level[:, : frames + 1], condition.frames(0, frames + 1))
    return lambda: model.network(*whole, None, mask=FrameMask(chunk=1))


def inputs_of(model: Denoiser, clip: Clip, frames: int, device: torch.device) -> Inputs:
    """A clip's frames over and over, for episodes may be short and contents cost nothing; all half noise."""
    places = torch.arange(frames) % clip.video.shape[1]
    video, condition = clip.x0[:, places].to(device), clip.condition
    condition = replace(condition, actions=condition.actions[:, places], state=condition.state[:, places]).to(device)
    return video, torch.full(video.shape[:2], 0.5, device=device), model.begun(video[:, :1], condition)


def _seconds(way: Pass, device: torch.device) -> float:
    start = now(device)
    for _ in range(PASSES):
        way()
    return (now(device) - start) / PASSES
