"""Pictures of what the deployed network makes while it is trained."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.seed import isolate_rng
from PIL import Image
from torch import Tensor, nn

from wm_lightning.clip import Clip
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.modules.base import WorldModelModule
from wm_lightning.results.pictures import Film, draw_strips, write_mp4
from wm_lightning.sampling.rollout import SeededNoise, rollout

log = logging.getLogger(__name__)


class RolloutVideo(Callback):
    """Rolls out the first `clips` validation clips at the start and after each validation, on rank zero.

    Writes a PNG (truth above what was made) and an mp4 to `<run_dir>/rollouts`, named by the module's own
    iteration and, where the data are, `simulated`. W&B gets the mp4, TensorBoard the PNG. `side` is about
    the side of a frame in pixels, `columns` the number of frames in the PNG. Training is not touched: no
    random number is drawn, no mode and no gradient changed.
    """

    def __init__(self, *, run_dir: str, clips: int, columns: int, side: int, fps: int) -> None:
        for key, value in {"clips": clips, "columns": columns, "side": side, "fps": fps}.items():
            if value < 1:
                raise ValueError(f"callbacks.rollout_video.{key}={value} is too small; give 1 or more")
        self.folder = Path(run_dir) / "rollouts"
        self.clips, self.columns, self.side, self.fps = clips, columns, side, fps
        self._clip: Clip | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The first picture, before the first step."""
        self.show(trainer, pl_module)
        if trainer.is_global_zero:
            log.info("Pictures of validation clips, the first before any step: %s", self.folder)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A picture of every validated state."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.show(trainer, pl_module)

    def show(self, trainer: Trainer, module: LightningModule) -> None:
        """Makes, draws and logs; what the global random states were before, they are after."""
        if takes_part(trainer):
            with isolate_rng():
                self._show(trainer, module)

    def _show(self, trainer: Trainer, module: LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(module, WorldModelModule) and isinstance(data, ClipDataModule)
        with trainer.precision_plugin.forward_context():
            if self._clip is None:
                self._clip = next(data.clips("val", self.clips, data.val_frames, self.clips))
            made = made_by(module, self._clip)
        if not trainer.is_global_zero:
            return
        truth, kind = self._clip.video, module.card.get("kind", "model")
        mark = "_simulated" if data.simulated else ""
        path = self.folder / f"iteration_{module.iterations:06d}{mark}.png"
        films = [Film("truth", truth), Film(kind, made)]
        caption = f"{data.name}, validation clips, iteration {module.iterations}"
        context = module.context
        draw_strips(
            path, films, context=context, clips=self.clips, columns=self.columns, side=self.side, caption=caption
        )
        video = side_by_side([film.video for film in films])
        longest = self.side * max(video.shape[-2:]) // max(truth.shape[-2:])
        write_mp4(path.with_suffix(".mp4"), video, fps=self.fps, side=longest)
        self._log(trainer, path, f"rollout/{data.name}", module.iterations, caption)

    def _log(self, trainer: Trainer, path: Path, key: str, iteration: int, caption: str) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                mp4 = str(path.with_suffix(".mp4"))
                logger.log_video(key, [mp4], format=["mp4"], caption=[caption])
            elif isinstance(logger, TensorBoardLogger):
                picture = np.asarray(Image.open(path).convert("RGB"))
                logger.experiment.add_image(key, picture, iteration, dataformats="HWC")


def takes_part(trainer: Trainer) -> bool:
    """Whether this rank rolls out: rank zero, and every rank where each holds a part of the network alone."""
    return trainer.is_global_zero or isinstance(trainer.strategy, ModelParallelStrategy)


@torch.no_grad()
def made_by(module: WorldModelModule, clip: Clip) -> UInt8[Tensor, "b f c h w"]:
    """What the module's deployed network makes of the clips' contexts and actions, on the CPU.

    The noise is that of its validations, so that pictures of one run differ by the network alone.
    """
    noise = SeededNoise(module.seed, "validation", tuple(clip.index.tolist()), module.device)
    context = clip.frames(0, module.context).x0.to(module.device)
    condition = clip.condition.to(module.device)
    with evaluating(module.deployed):
        made = rollout(module.denoiser(module.deployed), module.sampler, context, condition, module.plan, noise)
    return module.trainer.datamodule.decode(made).cpu()  # type: ignore[attr-defined]


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every part is in the mode it was in."""
    modes = {part: part.training for part in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def side_by_side(videos: list[UInt8[Tensor, "n f c h w"]]) -> UInt8[Tensor, "f c height width"]:
    """One video: a row for each of `videos`, a column for each clip, white lines between."""
    gap = max(1, math.ceil(max(videos[0].shape[-2:]) / 24))
    padded = [nn.functional.pad(video, (0, gap, 0, gap), value=255) for video in videos]
    rows = [torch.cat(list(video), dim=-1) for video in padded]
    return torch.cat(rows, dim=-2)[..., :-gap, :-gap]
