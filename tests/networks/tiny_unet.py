"""Tiny video UNets whose zero-initialised layers hold noise, and their inputs."""

from typing import Any

import torch
from torch import Tensor

from tests.networks.tiny import ACTIONS, condition, labels, randn
from wm_lightning.clip import Condition, Start
from wm_lightning.networks.video_unet import VideoUNet

SHAPE = (2, 8, 4)
TOKENS = 6
BATCH = 2


def tiny_unet(*, dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any) -> VideoUNet:
    """Two levels of width 8, causal unless told otherwise, every parameter noisy."""
    settings: dict[str, Any] = {
        "channels": SHAPE[0], "height": SHAPE[1], "width": SHAPE[2], "patch": 1, "dim": 8, "multipliers": [1, 2],
        "blocks": 1, "attention_at": [2], "head_dim": 4, "opening_heads": 2, "groups": 4, "causal": True,
        "pad": "zeros", "norm_scope": "frame", "head_height_causal": False, "start": True, "tokens": TOKENS,
        "image_groups": "frame", "rate": 3.0, "actions": ACTIONS, "actions_seen": True, "action_kind": "deep",
        "gradient_checkpointing": False, "bypass": True, "action_scales": True,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = VideoUNet(**(settings | changes))
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            scale = 0.7 * parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3
            parameter.add_(scale * torch.randn(parameter.shape, generator=source))
    return network.to(dtype)


def inputs(frames: int, *, dtype: torch.dtype = torch.float32, seed: int = 1) -> tuple[Tensor, Tensor, Condition]:
    """Frames, labels and a condition with a start and tokens of text and image (three groups)."""
    given = condition(BATCH, frames, seed=seed + 2, dtype=dtype)
    start = Start(
        randn(BATCH, 1, *SHAPE, seed=seed + 3, dtype=dtype),
        randn(BATCH, 3 * 16, TOKENS, seed=seed + 4, dtype=dtype),
        randn(BATCH, 5, TOKENS, seed=seed + 5, dtype=dtype),
    )
    x_t = randn(BATCH, frames, *SHAPE, seed=seed, dtype=dtype)
    return x_t, labels(BATCH, frames, seed=seed + 1, dtype=dtype), Condition(given.actions, given.state, start)
