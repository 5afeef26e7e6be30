"""HunyuanVideo 1.5 as diffusers has it (HunyuanVideo15Transformer3DModel), made to continue a picture by words."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from wm_lightning.clip import Condition, Latents, Levels
from wm_lightning.networks.adapters.whole_clip import (
    TIMESTEPS,
    diffusers_model,
    dtype_of,
    one_level,
    remembered,
    without_actions,
    words,
)
from wm_lightning.networks.masks import FrameMask
from wm_lightning.networks.state import State
from wm_lightning.noising import per_pixel
from wm_lightning.randomness import normal

Read = tuple[Float[Tensor, "b n e"], Bool[Tensor, "b n"], Float[Tensor, "b g d"], Bool[Tensor, "b g"]]


class FrameTokens(nn.Module):
    """The patches of a frame as tokens, for a network too small for a frozen encoder of images."""

    def __init__(self, channels: int, width: int, *, patch: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)

    def forward(self, frame: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n e"]:
        """One token a patch."""
        return self.patches(frame).flatten(2).transpose(1, 2)


class Hunyuan15(nn.Module):
    """The velocity noise − x0 of a clip's latents; frames of label 0 are given, all others have one level.

    As in the published pipeline the given frames, clean, and where they stand join the channels, and *all* frames of
    the latents themselves are noisy. So this network noises the given ones to the level of the others, with one draw by
    `given_seed` for all clips, and what it then says of them is of no use: at level 0 they are what they are.
    `architecture` are the arguments of diffusers' class but for its channels.

    A prompt holds tokens of Qwen2.5-VL and, last, `glyphs` tokens of ByT5, both filled up with zeros to one width;
    `there` marks either. `prompt` makes, for a width, what reads ids of words instead, and then there are no glyphs.
    Tokens of the picture are SigLIP's in `condition.start.image`, or what `image` makes of the first given frame,
    called with channels and width.
    """

    remembers = False

    def __init__(
        self,
        *,
        channels: int,
        height: int,
        width: int,
        actions: int | None,
        architecture: Mapping[str, Any],
        glyphs: int,
        given_seed: int,
        prompt: Callable[[int], nn.Module] | None,
        image: Callable[[int, int], nn.Module] | None,
        gradient_checkpointing: bool,
    ) -> None:
        super().__init__()
        without_actions(actions)
        patch = architecture.get("patch_size", 1)
        if height % patch or width % patch or architecture.get("patch_size_t", 1) != 1:
            raise ValueError(
                f"frames of {height} x {width} cannot be cut into patches of {patch}, each of one frame; change "
                f"network.architecture.patch_size, and leave patch_size_t at 1"
            )
        arguments = {**architecture, "in_channels": 2 * channels + 1, "out_channels": channels}
        self.transformer = diffusers_model(
            "transformer_hunyuan_video15", "HunyuanVideo15Transformer3DModel", arguments, gradient_checkpointing
        )
        self.glyphs, self.given_seed = glyphs, given_seed
        config = self.transformer.config
        self.prompt = None if prompt is None else prompt(config.text_embed_dim)
        self.image = None if image is None else image(channels, config.image_embed_dim)

    def forward(
        self, x_t: Latents, label: Levels, condition: Condition, past: State | None = None, *, mask: FrameMask
    ) -> tuple[Latents, State]:
        """Prediction for all frames. Raises ValueError for a mask, past, levels or condition that it cannot have."""
        state, level = remembered(x_t, past, mask), one_level(label)
        given = label == 0
        text, text_there, glyphs, glyphs_there = self._read(condition, len(x_t))
        dtype = dtype_of(self.transformer.proj_out)
        made = self.transformer(
            hidden_states=self._seen(x_t, given, level).to(dtype), timestep=level.to(dtype),
            encoder_hidden_states=text.to(dtype), encoder_attention_mask=text_there,
            encoder_hidden_states_2=glyphs.to(dtype), encoder_attention_mask_2=glyphs_there,
            image_embeds=self._picture(x_t, condition).to(dtype), return_dict=False,
        )[0]  # fmt: skip
        return rearrange(made, "b c f h w -> b f c h w").to(torch.promote_types(x_t.dtype, torch.float32)), state

    def _seen(
        self, x_t: Latents, given: Bool[Tensor, "b f"], level: Float[Tensor, "b"]
    ) -> Float[Tensor, "b channels f h w"]:
        """Noisy frames, the given ones clean, and where these are."""
        there = per_pixel(given)
        noise = normal(x_t.shape[2:], self.given_seed, "hunyuan given frame", device=x_t.device).to(x_t.dtype)
        t = per_pixel(level[:, None] / TIMESTEPS)
        noisy = torch.where(there, (1 - t) * x_t + t * noise, x_t)
        marked = there.to(x_t.dtype).expand(-1, -1, 1, *x_t.shape[3:])
        return rearrange(torch.cat([noisy, there * x_t, marked], dim=2), "b f c h w -> b c f h w")

    def _picture(self, x_t: Latents, condition: Condition) -> Float[Tensor, "b n e"]:
        start = condition.start
        tokens = None if start is None else start.image
        if tokens is None and self.image is not None:
            tokens = self.image(x_t[:, 0])
        # Tokens of zeros would make it a model of text alone, without a word.
        if tokens is None or not bool((tokens != 0).any()):
            found = "none" if tokens is None else "zeros"
            raise ValueError(f"this network needs tokens of the picture, found {found}; give SigLIP's as start.image")
        return tokens

    def _read(self, condition: Condition, batch: int) -> Read:
        config = self.transformer.config
        tokens, there = words(self.prompt, condition, batch, config.text_embed_dim)
        glyphs = 0 if self.prompt is not None else self.glyphs
        stop = tokens.shape[1] - glyphs
        if stop < 1 or not bool(there[:, :stop].any(1).all()):
            raise ValueError(
                f"a prompt of {tokens.shape[1]} tokens, of which the last {glyphs} are glyphs, has no words; give one "
                f"at least, or set network.glyphs"
            )
        return tokens[:, :stop], there[:, :stop], tokens[:, stop:, : config.text_embed_2_dim], there[:, stop:]
