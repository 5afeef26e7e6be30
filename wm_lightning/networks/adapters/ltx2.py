"""LTX-2 as diffusers has it (LTX2VideoTransformer3DModel), made to continue a given picture by words."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from wm_lightning.clip import Condition, Latents, Levels
from wm_lightning.networks.adapters.whole_clip import (
    diffusers_model,
    dtype_of,
    remembered,
    without_actions,
    words,
)
from wm_lightning.networks.masks import FrameMask
from wm_lightning.networks.state import State
from wm_lightning.randomness import normal

Read = tuple[Float[Tensor, "b n e"], Float[Tensor, "b n d"], Bool[Tensor, "b n"]]


class LTX2(nn.Module):
    """The velocity noise − x0 of a clip's latents, each frame at the level that its label says, given ones at 0.

    Every latent, or patch of `architecture.patch_size` of them a side, is a token with its frame's label as timestep,
    which is how the published pipeline keeps the first frame: clean, at timestep 0. `architecture` are the arguments of
    diffusers' class but for its channels. `fps` places frames in time.

    `prompt` makes, for a width, what reads ids of words. Without it a prompt holds features of LTX-2's two connectors,
    those for video before those for audio, or one set of features for both where they are equally wide.

    The model makes sound along with video, and this network shows it a track and drops what it says of it. `audio`
    "noise": the track's clean latents are taken to be 0, their mean, with noise at the level of the frames that are to
    be made; it is one draw by `audio_seed` for all clips, so that executor and demonstrator hear the same. In
    "isolated" video and sound attend to themselves alone, and what the track holds changes nothing of the video.
    The pipeline denoises a track of its own beside the video, which no rollout here does. `cross_timestep` is
    diffusers' `use_cross_timestep`: false for LTX-2.0, true from 2.3 on.
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
        fps: float,
        audio: Literal["noise", "isolated"],
        audio_seed: int,
        cross_timestep: bool,
        prompt: Callable[[int], nn.Module] | None,
        gradient_checkpointing: bool,
    ) -> None:
        super().__init__()
        without_actions(actions)
        self.patch = architecture.get("patch_size", 1)
        if height % self.patch or width % self.patch or architecture.get("patch_size_t", 1) != 1:
            raise ValueError(
                f"frames of {height} x {width} cannot be cut into patches of {self.patch}, each of one frame; change "
                f"network.architecture.patch_size, and leave patch_size_t at 1"
            )
        sizes = {name: channels * self.patch**2 for name in ("in_channels", "out_channels")}
        arguments = {**architecture, **sizes}
        self.transformer = diffusers_model(
            "transformer_ltx2", "LTX2VideoTransformer3DModel", arguments, gradient_checkpointing
        )
        self.fps, self.audio, self.audio_seed, self.cross_timestep = fps, audio, audio_seed, cross_timestep
        video, sound = self._widths
        self.prompt = None if prompt is None else prompt(video if video == sound else video + sound)

    def forward(
        self, x_t: Latents, label: Levels, condition: Condition, past: State | None = None, *, mask: FrameMask
    ) -> tuple[Latents, State]:
        """Prediction for all frames. Raises ValueError for a mask, past or prompt that it cannot have."""
        state = remembered(x_t, past, mask)
        frames, rows, columns = x_t.shape[1], x_t.shape[3] // self.patch, x_t.shape[4] // self.patch
        seen, heard, there = self._read(condition, len(x_t))
        dtype, level = dtype_of(self.transformer.proj_out), label.amax(1)
        tokens = rearrange(x_t, "b f c (y p) (x q) -> b (f y x) (c p q)", p=self.patch, q=self.patch)
        track = self._track(frames, level)
        made, _ = self.transformer(
            hidden_states=tokens.to(dtype), audio_hidden_states=track.to(dtype),
            encoder_hidden_states=seen.to(dtype), audio_encoder_hidden_states=heard.to(dtype),
            encoder_attention_mask=there.to(dtype), audio_encoder_attention_mask=there.to(dtype),
            timestep=label.repeat_interleave(rows * columns, dim=1), audio_timestep=level, sigma=level,
            num_frames=frames, height=rows * self.patch, width=columns * self.patch, fps=self.fps,
            audio_num_frames=track.shape[1], isolate_modalities=self.audio == "isolated",
            use_cross_timestep=self.cross_timestep, return_dict=False,
        )  # fmt: skip
        shape = "b (f y x) (c p q) -> b f c (y p) (x q)"
        made = rearrange(made, shape, f=frames, y=rows, x=columns, p=self.patch, q=self.patch)
        return made.to(torch.promote_types(x_t.dtype, torch.float32)), state

    @property
    def _widths(self) -> tuple[int, int]:
        """How wide features for video and for sound are."""
        config = self.transformer.config
        if config.use_prompt_embeddings:
            return config.caption_channels, config.caption_channels
        return config.cross_attention_dim, config.audio_cross_attention_dim

    def _read(self, condition: Condition, batch: int) -> Read:
        """Features for video and for sound, and which tokens are there."""
        video, sound = self._widths
        given = None if condition.prompt is None else condition.prompt.tokens
        alone = video == sound and (self.prompt is not None or (given is not None and given.shape[-1] == video))
        features, there = words(self.prompt, condition, batch, video if alone else video + sound)
        return (features, features, there) if alone else (features[..., :video], features[..., video:], there)

    def _track(self, frames: int, level: Float[Tensor, "b"]) -> Float[Tensor, "b n c"]:
        """Sound as long as the clip, noised to its level."""
        config = self.transformer.config
        seconds = ((frames - 1) * config.vae_scale_factors[0] + 1) / self.fps
        rate = config.audio_sampling_rate / config.audio_hop_length / config.audio_scale_factor
        count = 1 if self.audio == "isolated" else max(1, round(seconds * rate))
        noise = normal((count, config.audio_in_channels), self.audio_seed, "ltx2 audio", device=level.device)
        return level[:, None, None] / config.timestep_scale_multiplier * noise
