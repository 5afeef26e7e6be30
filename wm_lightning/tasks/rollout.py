"""task=rollout: videos from a checkpoint, as mp4, GIF and PNG, with the actions that drove them.

They continue test clips, or pictures of a folder.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from wm_lightning.checkpoints import NetworkFile
from wm_lightning.clip import Clip, Pixels
from wm_lightning.compute import precise
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.data.formats.atomic import atomic_file
from wm_lightning.data.start_images import begun, held_action, image_clips, read_images
from wm_lightning.networks.denoiser import Denoiser
from wm_lightning.results.pictures import Film, draw_gif, draw_strips, write_mp4
from wm_lightning.sampling.samplers import Sampler
from wm_lightning.tasks.build import build_data, device_of, kind_of, network_of, plain_node
from wm_lightning.tasks.evaluate import read_checkpoint, require
from wm_lightning.tasks.subjects import Subject

log = logging.getLogger(__name__)

USUAL_FRAMES = 25


@dataclass(frozen=True)
class Rolled:
    """The clips, what was made of them, and the seconds that took."""

    clip: Clip
    video: Pixels
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """The task: rolls out `count` test clips of `frames` frames, the module's context of them given.

    `frames` may be more than the training's, up to the length of the data's episodes; None takes 25, or
    the longest episode where that is shorter. `steps` per chunk,
    None as trained. `side` of a frame in GIF and PNG, `video_side` of the mp4, in pixels.

    With `images`, a folder, every picture in it becomes the given frames instead, and is driven by the actions of test
    clips or by `action`, values by column that are held; `count` of them are drawn.
    """

    count: int
    frames: int | None
    batch_size: int
    steps: int | None
    seed: int
    fps: int
    side: int
    video_side: int
    columns: int
    images: str | None
    action: Mapping[str, float] | None

    def __call__(self, config: DictConfig) -> dict[str, float]:
        """Writes `rollouts/` in the run folder from the checkpoint at `ckpt_path`; returns frames per second.

        With `protocol=NAME` the protocol does what it says instead.
        """
        if config.protocol is not None:
            return instantiate(config.protocol, _convert_="all")(config)
        data = build_data(config)
        kind, context = kind_of(config), config.module.context
        frames = self.length(data, context)
        clips, starts, names = self.clips(data, frames, context)
        device = device_of(config)
        file = read_checkpoint(config, data, kind)
        subject = build_subject(config, file, data, Use(context, frames, self.steps), device)
        rolled = self.roll_out(subject, clips, context, device, str(config.trainer.precision))
        folder, mark = Path(config.run_dir) / "rollouts", "_simulated" if data.simulated else ""
        caption = f"{data.name}, {starts}, {kind} of {config.name} at {subject.steps} steps, {file.sha256[:12]}"
        self.draw(rolled, subject, context, folder, mark, caption)
        save_actions(folder / f"actions{mark}.npz", rolled.clip, data, names)
        made = len(rolled.clip) * (frames - context)
        log.info(
            "%d frames in %.1f s: %.1f frames/s at batch %d",
            made, rolled.seconds, made / rolled.seconds, min(self.batch_size, len(rolled.clip)),
        )  # fmt: skip
        log.info("Written: %s", folder)
        return {"fps": made / rolled.seconds, "frames": float(made)}

    def length(self, data: ClipDataModule, context: int) -> int:
        """Frames of a clip. Raises ValueError where nothing would be left to make."""
        reader = data.reader("test")
        usual = min(USUAL_FRAMES, max(reader.length(episode) for episode in range(len(reader))))
        frames = usual if self.frames is None else self.frames
        if frames <= context:
            raise ValueError(f"task.frames={frames} leaves nothing to make after {context} given; ask for more")
        return frames

    def clips(self, data: ClipDataModule, frames: int, context: int) -> tuple[Sequence[Clip], str, Sequence[str]]:
        """What is continued, in batches, where it is from in words, and the names of pictures.

        Raises ValueError where it cannot be read.
        """
        if self.images is None:
            if self.action is not None:
                raise ValueError("task.action drives pictures; name their folder with task.images=FOLDER")
            return list(data.clips("test", self.count, frames, self.batch_size)), "test clips", ()
        images = read_images(Path(self.images), data.picture_size)
        number, actions, rest = len(images.names), "a held action", data.rest
        if self.action is not None:
            condition = held_action(data.spec, self.action, number, frames, rest=rest)
        else:
            driving = Clip.cat(list(data.clips("test", number, frames, self.batch_size))).condition
            condition, actions = driving[torch.arange(number) % len(driving)], "actions of test clips"
        condition = begun(condition, data.spec, context, rest=rest)
        log.info("Starts from %s", ", ".join(images.names))
        where = f"pictures of {Path(self.images).name} under {actions}"
        return image_clips(data, images, condition, context, self.batch_size), where, images.names

    def roll_out(
        self, subject: Subject, clips: Sequence[Clip], context: int, device: torch.device, precision: str
    ) -> Rolled:
        """Generates all clips; the seconds are those of generating alone, after one short rollout to warm up."""
        videos, seconds, frames = [], 0.0, clips[0].video.shape[1]
        with precise(device, precision):
            subject.generate(clips[0].frames(0, min(context + subject.plan.chunk, frames)), context, 0, device)
            for clip in clips:
                start = time.perf_counter()
                # Pixels are on the CPU when this returns, so a GPU has finished.
                videos.append(subject.generate(clip, context, self.seed, device))
                seconds += time.perf_counter() - start
        return Rolled(Clip.cat(clips), torch.cat(videos), seconds)

    def draw(self, rolled: Rolled, subject: Subject, context: int, folder: Path, mark: str, caption: str) -> None:
        """A GIF and a PNG beside the truth, and one mp4 per clip of what was made."""
        films = [Film(f"{subject.name}\n{subject.steps} steps", rolled.video)]
        if self.images is None:
            films.insert(0, Film("truth", rolled.clip.video))
        shown: dict[str, Any] = {"context": context, "side": self.side, "caption": caption}
        shown |= {"clips": min(self.count, len(rolled.clip))}
        draw_strips(folder / f"clips{mark}.png", films, columns=self.columns, **shown)
        draw_gif(folder / f"clips{mark}.gif", films, fps=self.fps, most_bytes=4_000_000, **shown)
        for number, video in enumerate(rolled.video):
            write_mp4(folder / f"clip_{number:03d}{mark}.mp4", video, fps=self.fps, side=self.video_side)


@dataclass(frozen=True)
class Use:
    """What a checkpoint is asked for: given frames, frames in all, denoising steps (None: as trained)."""

    context: int
    frames: int
    steps: int | None = None


def build_subject(
    config: DictConfig, file: NetworkFile, data: ClipDataModule, use: Use, device: torch.device
) -> Subject:
    """The checkpoint's network with the sampler and plan of the config. Raises ValueError for an untrained use."""
    require(file.card, config, use.context, use.frames)
    path = instantiate(plain_node(config, "noising"), _convert_="all")
    sampler: Sampler = instantiate(plain_node(config, "module")["sampler"], _convert_="all")
    if use.steps is not None:
        sampler = sampler.with_steps(use.steps)
    plan = instantiate(plain_node(config, "rollout"), _convert_="all")
    model = Denoiser(network_of(config, file, device), path)
    count = len(sampler.levels(path, plan.chunk)) - 1
    kind = file.card.kind
    return Subject(kind, kind, model, sampler, plan, count, cached=True, decode=data.decode)


def save_actions(path: Path, clip: Clip, data: ClipDataModule, images: Sequence[str]) -> None:
    """`actions` (n f a): actions[:, f] produced frame f; `state` (n f) as in ActionState; `names` of the columns;
    `images` the names of the pictures that clips start from, if any."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial, partial.open("wb") as file:
        np.savez_compressed(
            file, actions=clip.condition.actions.numpy(), state=clip.condition.state.numpy(),
            names=np.array(data.spec.names), index=clip.index.numpy(),
            images=np.array(images, dtype=str),
        )  # fmt: skip
