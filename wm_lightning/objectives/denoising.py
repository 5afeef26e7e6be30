"""Denoising losses, and how noise levels are laid over the frames of a training clip."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wm_lightning.clip import Latents, Levels
from wm_lightning.noising import GaussianPath, NoiseLaw

Scalar = Float[Tensor, ""]
Given = Bool[Tensor, "b f"]  # frames that were given clean, which stay out of a loss


def precise(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The values in float32, or in float64 where they come in that."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def frame_error(prediction: Latents, target: Latents) -> Levels:
    """Mean squared error of every frame, in float32 at least. The target gets no gradient."""
    return (precise(prediction) - precise(target.detach())).square().mean(dim=(2, 3, 4))


def frame_mean(values: Levels, given: Given) -> Float[Tensor, "b"]:
    """Mean over the frames of every sample that are not given; 0 where all are."""
    kept = torch.where(given, torch.zeros_like(values), values)
    return kept.sum(1) / (~given).sum(1).clamp_min(1)


def sample_error(prediction: Latents, target: Latents, given: Given) -> Float[Tensor, "b"]:
    """Mean squared error of every sample over its frames that are not given. The target gets no gradient."""
    return frame_mean(frame_error(prediction, target), given)


def weighted_mse(prediction: Latents, target: Latents, weight: Levels) -> Scalar:
    """Mean over all elements of weight · (prediction − target)², one weight per frame.

    A frame of weight 0 contributes nothing but is counted, so that the mean over two halves of a
    batch is the mean over the batch whatever each half leaves out.
    """
    error = (prediction.float() - target.float()).square().mean(dim=(2, 3, 4))
    return (weight.float() * error).mean()


@dataclass(frozen=True)
class FrameLevels:
    """How the levels of one clip are laid out (diffusion forcing 2407.01392, with shares of simpler cases).

    The first `context` frames are clean. A causal clip has, with probability `clean_history`, a
    history up to a random block that is clean or noised up to `history_level`, and an independent
    level per block after it; otherwise every block has its own level, and with probability `clean_share` none: what is
    asked of a frame in a rollout, noise behind clean frames, is then asked of many. A bidirectional clip has one
    level for all frames with probability `shared`, else one per frame.
    """

    law: NoiseLaw
    context: int
    clean_history: float
    history_level: float
    shared: float
    clean_share: float = 0.0

    def sample(self, path: GaussianPath, blocks: Int[Tensor, "f"], source: np.random.Generator) -> Float[Tensor, "f"]:
        """Times of one clip; `blocks` are its block indices, all equal when bidirectional."""
        frames, last = len(blocks), int(blocks[-1])
        per_block = self.law.sample(path, (max(frames, last + 1),), source)
        coins, cut, level = source.random(2), source.random(), source.random()
        if last == 0:
            t = per_block[:1].expand(frames).clone() if coins[0] < self.shared else per_block[:frames].clone()
        else:
            t = per_block[blocks]
            if self.clean_share > 0:
                t[torch.from_numpy(source.random(last + 1) < self.clean_share)[blocks]] = 0.0
            if coins[0] < self.clean_history:
                history = blocks < 1 + int(cut * last)
                faint = path.noisy(torch.tensor(level * self.history_level))
                t[history] = 0.0 if coins[1] < 0.5 else faint.to(t)
        t[: self.context] = 0.0
        return t


def denoising_weight(path: GaussianPath, t: Levels) -> Levels:
    """The path's loss weight where there is noise to remove, 0 on clean frames."""
    return torch.where(t > 0, path.loss_weight(t), torch.zeros_like(t))
