"""diffusers' own transformers for image-to-video with tiny random weights, and what their networks are shown."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wm_lightning.clip import Condition, Levels, Prompt
from wm_lightning.data.task_datamodule import prompted
from wm_lightning.networks.adapters.hunyuan15 import FrameTokens, Hunyuan15
from wm_lightning.networks.adapters.ltx2 import LTX2
from wm_lightning.networks.prompt import HashedWords
from wm_lightning.noising import RectifiedFlow
from wm_lightning.randomness import normal

FLOW = RectifiedFlow(prediction="velocity", loss_sigma_floor=0.05, label_scale=1000.0)
CHANNELS, SIDE, FRAMES, WIDTH, LENGTH = 4, 4, 3, 16, 12
# The sizes of diffusers' own tests.
LTX2_SIZES: dict[str, Any] = dict(
    num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16, audio_in_channels=4, audio_out_channels=4,
    audio_num_attention_heads=2, audio_attention_head_dim=4, audio_cross_attention_dim=8, num_layers=2,
    caption_channels=WIDTH, rope_double_precision=False,
)  # fmt: skip
HUNYUAN_SIZES: dict[str, Any] = dict(
    num_attention_heads=2, attention_head_dim=8, num_layers=2, num_refiner_layers=1, mlp_ratio=2.0,
    text_embed_dim=WIDTH, text_embed_2_dim=8, image_embed_dim=12, rope_axes_dim=(2, 2, 4), target_size=16,
)  # fmt: skip


def ltx2(sizes: dict[str, Any] | None = None, seed: int = 0, **changes: Any) -> LTX2:
    settings: dict[str, Any] = dict(
        channels=CHANNELS, height=SIDE, width=SIDE, actions=0, architecture=LTX2_SIZES | (sizes or {}), fps=24.0,
        audio="noise", audio_seed=0, cross_timestep=False, prompt=None, gradient_checkpointing=False,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LTX2(**settings | changes).eval()


def hunyuan15(sizes: dict[str, Any] | None = None, seed: int = 0, **changes: Any) -> Hunyuan15:
    settings: dict[str, Any] = dict(
        channels=CHANNELS, height=SIDE, width=SIDE, actions=0, architecture=HUNYUAN_SIZES | (sizes or {}), glyphs=2,
        given_seed=0, prompt=None, image=lambda channels, width: FrameTokens(channels, width, patch=2),
        gradient_checkpointing=False,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Hunyuan15(**settings | changes).eval()


@dataclass(frozen=True)
class Features:
    """A prompter whose tokens are as a frozen encoder's: a random row of `width` numbers for every word."""

    width: int
    length: int = 96

    def __call__(self, texts: Any) -> Prompt:
        prompt = self._words(texts)
        return Prompt(normal((64, self.width), 0, "tests features")[prompt.tokens], prompt.there)

    def shortened(self, text: str) -> str:
        return self._words.shortened(text)

    @property
    def _words(self) -> HashedWords:
        return HashedWords(buckets=64, length=self.length)


def noisy(level: float = 0.7, seed: int = 1) -> tuple[Tensor, Levels]:
    """Two clips whose first frame is given, and their times."""
    x_t = torch.randn(2, FRAMES, CHANNELS, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    return x_t, torch.tensor([0.0, *[level] * (FRAMES - 1)]).expand(2, -1)


def told(*texts: str, width: int = WIDTH, length: int = LENGTH) -> Condition:
    return prompted(Features(width, length)(texts), FRAMES, 0)
