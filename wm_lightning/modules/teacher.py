"""The teacher: a many-step world model trained by diffusion forcing under several masks, or fine-tuned so."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from wm_lightning.checkpoints import NetworkFile, load_into, made_causal, require_same_reach
from wm_lightning.clip import Clip, Condition
from wm_lightning.modules.average import Average
from wm_lightning.modules.base import WorldModelModule
from wm_lightning.modules.optimizers import Schedule
from wm_lightning.networks.causal import Transfer
from wm_lightning.networks.masks import FrameMask, chunk_blocks
from wm_lightning.objectives.denoising import FrameLevels, Scalar, denoising_weight, weighted_mse
from wm_lightning.randomness import generator


@dataclass(frozen=True)
class MaskMixture:
    """Chunk lengths (1 framewise, null bidirectional) and the share of batches each gets."""

    chunks: Sequence[int | None]
    shares: Sequence[float]

    def __post_init__(self) -> None:
        for name in ("chunks", "shares"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.chunks) != len(self.shares) or abs(sum(self.shares) - 1) > 1e-6:
            raise ValueError(f"one share per chunk length, adding up to 1, not {self.chunks=} and {self.shares=}")

    def sample(self, source: np.random.Generator) -> FrameMask:
        """The mask of one batch."""
        shares = np.array(self.shares)
        return FrameMask(self.chunks[int(source.choice(len(self.chunks), p=shares / shares.sum()))])


@dataclass(frozen=True)
class ActionDropout:
    """With probability `share`, hides the action of single frames or of whole clips.

    Guidance with the null pattern "all" needs clips, "newest" needs frames; "both" splits the share evenly.
    """

    share: float
    granularity: Literal["frame", "clip", "both"]

    def apply(self, condition: Condition, source: Callable[[str], Tensor]) -> Condition:
        """`source(name)` gives uniform draws `b 1` for "clip" and `b f` for "frame"."""
        frame = self.share * {"frame": 1.0, "clip": 0.0, "both": 0.5}[self.granularity]
        clip = self.share * {"frame": 0.0, "clip": 1.0, "both": 0.5}[self.granularity]
        return condition.drop((source("frame") < frame) | (source("clip") < clip))


class TeacherModule(WorldModelModule):
    """One network under a mixture of masks: the same weights serve as autoregressive teacher and as score."""

    def __init__(
        self,
        *,
        network: Callable[[], nn.Module],
        start: NetworkFile | None,
        start_new: Sequence[str],
        transfer: Transfer | None,
        masks: MaskMixture,
        levels: FrameLevels,
        action_dropout: ActionDropout,
        optimizer: Callable[[nn.Module], list[Optimizer]],
        schedule: Schedule,
        ema_decay: float,
        ema_start: int,
        micro_batches: int,
        batch_size: int,
        frames: int,
        compile: bool,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.network = network()
        if start is not None:
            start = start if transfer is None else made_causal(start, transfer, "module.start")
            require_same_reach(start, self.network, "module.start")
            load_into(self.network, start, "module.start", new=start_new)
        self.average = Average(self.network, decay=ema_decay, start=ema_start)
        if compile:
            self.network.compile()
        self.masks, self.levels, self.action_dropout = masks, levels, action_dropout
        self.make_optimizer, self.schedule = optimizer, schedule
        self.micro_batches, self.frames = micro_batches, frames

    @property
    def deployed(self) -> nn.Module:
        return self.average.network

    def trained_for(self) -> dict[str, Any]:
        law, mixture = self.levels, zip(self.masks.chunks, self.masks.shares, strict=True)
        # Levels that are uniform in part come as close to clean as one likes.
        clean = law.context > 0 or law.clean_history > 0 or law.clean_share > 0 or law.law.uniform_share > 0
        return {
            "chunks": [chunk for chunk, share in mixture if share > 0], "context": law.context,
            "frames": self.frames if getattr(self.network, "places_frames", True) else None, "steps": None,
            "clean_history": law.clean_history, "history_level": law.history_level, "shared": law.shared,
            "commit": [{"mode": "clean", "t": 0.0}] * clean + [{"mode": "noised", "t": law.history_level}],
            "action_dropout": {"share": self.action_dropout.share, "granularity": self.action_dropout.granularity},
        }  # fmt: skip

    def configure_optimizers(self) -> list[Optimizer]:
        optimizers = self.make_optimizer(self.network)
        self.optimizer_counts = (len(optimizers),)
        return optimizers

    def training_step(self, clip: Clip, batch_idx: int) -> None:
        """One update of the network on every mask's share of batches."""
        [optimizers] = self.split_optimizers()
        mask = self.masks.sample(generator(self.seed, "mask", self.iterations))
        rate = self.schedule.apply(optimizers, self.iterations, self.total_iterations)
        step = -(-len(clip) // self.micro_batches)
        parts = [clip[start : start + step] for start in range(0, len(clip), step)]
        losses = [lambda part=part: self.loss(part, mask) * (len(part) / len(clip)) for part in parts]
        loss = self.update(optimizers, self.network, losses)
        self.average.update(self.network)
        self.iteration += 1
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/rate", rate)

    def validation_step(self, clip: Clip, batch_idx: int) -> None:
        """Rollouts, and the loss as training computes it, with the network as it is trained."""
        super().validation_step(clip, batch_idx)
        mask = self.masks.sample(generator(self.seed, "validation mask", batch_idx))
        self.network.train()
        loss = self.loss(clip, mask)
        self.network.eval()
        self.log("val/loss", loss, batch_size=len(clip), sync_dist=True)

    def loss(self, clip: Clip, mask: FrameMask) -> Scalar:
        """Denoising loss with one level per frame (diffusion forcing)."""
        clip = self.begun(clip)
        x0 = clip.x0
        frames = x0.shape[1]
        blocks = chunk_blocks(frames, mask.chunk, first_alone=True)
        t = self.per_sample("levels", clip.index, lambda source: self.levels.sample(self.path, blocks, source))
        noise = self.noise_like(x0, "noise", clip.index)
        condition = self.action_dropout.apply(clip.condition, self._uniform(clip.index, frames))
        x_t = self.path.add_noise(x0, noise, t)
        prediction, _ = self.denoiser(self.network).predict(x_t, t, condition, None, mask)
        return weighted_mse(prediction, self.path.target(x0, noise, t), denoising_weight(self.path, t))

    def _uniform(self, index: Tensor, frames: int) -> Callable[[str], Tensor]:
        shapes = {"frame": frames, "clip": 1}
        return lambda name: self.per_sample(
            f"dropout/{name}", index, lambda source: torch.from_numpy(source.random(shapes[name])).float()
        )
