"""The latent video UNet of DynamiCrafter (2310.12190), as it is or made causal and action-conditioned (2505.14357)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wm_lightning.clip import Condition, Latents, Levels, Start
from wm_lightning.networks.conditioning import ActionEmbedder, ActionKind, ActionScales, Embedding, LevelEmbedder
from wm_lightning.networks.geometry import frame_visibility
from wm_lightning.networks.masks import FrameMask, TeacherForcingMask
from wm_lightning.networks.start_tokens import StartTokens
from wm_lightning.networks.state import Grown, State, empty_state
from wm_lightning.networks.unet_spatial import ResBlock
from wm_lightning.networks.unet_stages import Stages
from wm_lightning.networks.unet_temporal import (
    Changed,
    Features,
    NormScope,
    Padding,
    Run,
    TemporalAttention,
    TemporalConv,
    TemporalNorm,
    TemporalTransformer,
    per_frame,
)

GROUP = 16  # image tokens of one frame, unless a resampler says otherwise
TOKENS_ADVICE = "encoders=openclip network.start_tokens.folder=FOLDER makes them, network.tokens=null does without"
ImageGroups = Literal["frame", "all", "official"]


class Head(nn.Module):
    """Norm, SiLU and a convolution over each frame, zero-initialised.

    With `height_causal` it sees the two rows above and none below, as Vid2World's published weights ask for.
    """

    def __init__(self, channels: int, out: int, *, groups: int, height_causal: bool) -> None:
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(groups, channels), nn.Conv2d(channels, out, 3)
        self.around = (1, 1, 2, 0) if height_causal else (1, 1, 1, 1)
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b out h w"]:
        return self.conv(F.pad(F.silu(self.norm(x)), self.around))


class Bypass(nn.Module):
    """The sum of what enters a network, every channel weighed by the frame's embedding; zero at first."""

    def __init__(self, embedding: int, entering: int, out: int) -> None:
        super().__init__()
        self.weigh, self.out = nn.Linear(embedding, entering), out
        nn.init.zeros_(self.weigh.weight)
        nn.init.zeros_(self.weigh.bias)

    def forward(self, x: Float[Tensor, "b f c h w"], embedding: Embedding) -> Float[Tensor, "b f out h w"]:
        weights = self.weigh(F.silu(embedding))[..., None, None]
        return torch.stack((x * weights).split(self.out, dim=2)).sum(0)


def _check_size(height: int, width: int, patch: int, multipliers: Sequence[int]) -> None:
    smallest = patch * 2 ** (len(multipliers) - 1)
    if height % smallest or width % smallest:
        raise ValueError(f"{height=} and {width=} must be multiples of {smallest}, by {patch=} and {multipliers=}")


class VideoUNet(nn.Module):
    """Predicts what its path asks for, of every new frame, given the remembered ones.

    With `causal`, convolutions along time see the past and the present alone, so that it works under the framewise
    mask and remembers keys and values of all attentions along time and the last inputs of all convolutions along time.
    Without, it is the bidirectional network that causal ones start from. `norm_scope="clip"` pools statistics over
    frames, as pretrained networks do: no frame is then free of later ones, and nothing can be remembered.

    `start`: the clean first frame joins the channels of every frame. `tokens` is the width of text and image tokens,
    None without; `start_tokens` makes them of the first frame, those of the image through the trained `resampler`, and
    `image_groups` says which of them a frame is given. `rate` is the frame rate it is told. `bypass` adds the frame and
    the start themselves to the prediction, every channel weighed by the embedding: a network narrower than its input
    cannot carry all of a frame's noise through. With `action_scales` actions multiply channels of every residual block,
    beside being added to the noise level.
    """

    # Behind a clean copy of themselves, noisy frames would get its last ones from the convolutions, which lie ahead.
    teacher_forcing = False
    # Attention along time has no positions, so that no length is longer than what was trained.
    places_frames = False

    def __init__(
        self,
        *,
        channels: int,
        height: int,
        width: int,
        patch: int,
        dim: int,
        multipliers: Sequence[int],
        blocks: int,
        attention_at: Sequence[int],
        head_dim: int,
        opening_heads: int,
        groups: int,
        causal: bool,
        pad: Padding,
        norm_scope: NormScope,
        head_height_causal: bool,
        start: bool,
        tokens: int | None,
        image_groups: ImageGroups,
        rate: float | None,
        actions: int,
        actions_seen: bool,
        action_kind: ActionKind,
        gradient_checkpointing: bool,
        start_tokens: StartTokens | None = None,
        resampler: Callable[[], nn.Module] | None = None,
        bypass: bool = False,
        action_scales: bool = False,
    ) -> None:
        super().__init__()
        _check_size(height, width, patch, multipliers)
        self.patch, self.causal, self.rate_value, self.image_groups = patch, causal, rate, image_groups
        self.head_height_causal = head_height_causal
        # Official tokens hang on how many frames a pass has, as statistics of a clip do.
        self.remembers = causal and norm_scope != "clip" and (tokens is None or image_groups != "official")
        self.start, self.gradient_checkpointing = start, gradient_checkpointing
        embedder = partial(LevelEmbedder, 4 * dim, frequencies=dim)
        self.level, self.rate = embedder(), None if rate is None else embedder()
        self.action = None
        if actions_seen:
            own = {"kind": action_kind, "none": "input_zero", "dropped": "zero", "hidden": dim}
            self.action = ActionEmbedder(actions, 4 * dim, **own)  # type: ignore[arg-type]
        self.tokens, self.start_tokens = tokens, start_tokens
        self.resampler = None if resampler is None else resampler()
        self.group = getattr(self.resampler, "group", GROUP)
        folded = channels * patch**2
        entering = folded * (2 if start else 1)
        self.stem = nn.Conv2d(entering, dim, 3, padding=1)
        self.bypass = Bypass(4 * dim, entering, folded) if bypass else None
        make = Stages(head_dim, 4 * dim, groups, causal, pad, norm_scope, tokens)
        self.opening = TemporalTransformer(
            dim, opening_heads * head_dim, opening_heads, groups=groups, scope=norm_scope
        )
        self.down, self.middle, self.up = make.stages(dim, multipliers, blocks, tuple(attention_at))
        self.head = Head(dim * multipliers[0], folded, groups=groups, height_causal=head_height_causal)
        widths = self._name_layers()
        self.action_scales = ActionScales(4 * dim, widths) if action_scales and actions_seen else None

    def _name_layers(self) -> dict[str, int]:
        """Gives layers the key they remember under; returns how many channels each residual block makes."""
        widths = {}
        for name, module in self.named_modules():
            if isinstance(module, TemporalAttention | TemporalConv | TemporalNorm | ResBlock):
                module.key = name
            if isinstance(module, ResBlock):
                widths[name] = module.embed.out_features
        return widths

    def begun(self, context: Latents, condition: Condition) -> Condition:
        """The condition with the first given frame as its start, where it takes one; zeros if none is given.

        With `start_tokens`, the start holds the features of the image and the states of the text too.
        """
        if not self.start or condition.start is not None:
            return condition
        first = context[:, :1] if context.shape[1] else context.new_zeros(len(context), 1, *context.shape[2:])
        image, text = (None, None) if self.start_tokens is None else self.start_tokens(first)
        return replace(condition, start=Start(first, image, text))

    def forward(
        self,
        x_t: Latents,
        label: Levels,
        condition: Condition,
        past: State | None = None,
        *,
        mask: FrameMask,
        memory_only: bool = False,
    ) -> tuple[Latents | None, State]:
        """Prediction for the new frames and the state that includes them; see `VideoDiT.forward`.

        Raises ValueError for a mask or a past that this network cannot have, and without a start where it takes one.
        """
        state = empty_state(len(x_t)) if past is None else past
        self._check(mask, state, condition)
        frames = x_t.shape[1]
        run = self._run(label, condition, state, mask, frames)
        x = x_t
        if condition.start is not None and self.start:
            x = torch.cat([x, condition.start.latent.to(x.dtype).expand(-1, frames, -1, -1, -1)], dim=2)
        entered = self._folded(x)
        x = self.opening(per_frame(self.stem, entered), run)
        skips = [x]
        for stage in self.down:
            skips.append(x := self._through(stage, x, run))
        for stage in self.middle:
            x = self._through(stage, x, run)
        for stage in self.up:
            x = self._through(stage, torch.cat([x, skips.pop()], dim=2), run)
        state = state.advanced(Grown(state.memory, run.kept_memory), frames, run.kept_last)
        if memory_only:
            return None, state
        made = per_frame(self.head, x)
        if self.bypass is not None:
            made = made + self.bypass(entered, run.embedding)
        made = rearrange(made, "b f (c p q) y x -> b f c (y p) (x q)", p=self.patch, q=self.patch)
        return made.to(torch.promote_types(x_t.dtype, torch.float32)), state

    def _folded(self, x: Latents) -> Changed:
        return rearrange(x, "b f c (y p) (x q) -> b f (c p q) y x", p=self.patch, q=self.patch)

    def _run(self, label: Levels, condition: Condition, state: State, mask: FrameMask, frames: int) -> Run:
        embedding = self.level(label)
        if self.rate is not None and self.rate_value is not None:
            embedding = embedding + self.rate(torch.full_like(label, self.rate_value))
        told = None if self.action is None else self.action(condition)
        scales = {} if told is None or self.action_scales is None else self.action_scales(told)
        seen, start = frame_visibility(mask, state.length, frames, state.valid), condition.start
        first = state.frame.to(embedding.device)
        image = None if start is None else start.image
        if image is not None:
            tokens = image if self.resampler is None else self.resampler(image)
            image = self._image_tokens(tokens, first, frames)
        visible = None if seen is None else seen.to(embedding.device)
        text, fresh = None if start is None else start.text, state.frame == 0
        # Asked here, once, where the frames' numbers are: on a GPU every layer would wait for the answer.
        fresh = fresh.to(embedding.device) if state.last and bool(fresh.any()) else None
        told_all = embedding if told is None else embedding + told
        return Run(told_all, state.memory, state.last, visible, fresh, text, image, scales)

    def _image_tokens(self, tokens: Float[Tensor, "b n d"], first: Tensor, frames: int) -> Float[Tensor, "b f m d"]:
        """Each frame's own group by its absolute place (beyond the last group that one), or all for every frame."""
        every = tokens[:, None].expand(-1, frames, -1, -1)
        if self.image_groups == "all":
            return every
        if tokens.shape[1] % self.group:
            raise ValueError(
                f"{tokens.shape[1]} image tokens are no groups of {self.group}, one for a frame; give "
                f"network.resampler, which makes such groups, or network.image_groups=all"
            )
        groups = rearrange(tokens, "b (g m) d -> b g m d", m=self.group)
        if self.image_groups == "official" and frames != groups.shape[1]:
            return every
        place = (first[:, None] + torch.arange(frames, device=tokens.device)).clamp(max=groups.shape[1] - 1)
        return groups[torch.arange(len(tokens), device=tokens.device)[:, None], place]

    def _through(self, stage: nn.Module, x: Features, run: Run) -> Changed:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(stage, x, run, use_reentrant=False)  # type: ignore[return-value]
        return stage(x, run)

    def _check(self, mask: FrameMask, state: State, condition: Condition) -> None:
        if mask.chunk != (1 if self.causal else None):
            raise ValueError(
                f"a {'causal' if self.causal else 'bidirectional'} VideoUNet works under the mask "
                f"{'framewise (chunk 1)' if self.causal else 'bidirectional (chunk null)'}, not {mask}; set "
                f"rollout.mask.chunk and module.masks.chunks, or network.causal"
            )
        if isinstance(mask, TeacherForcingMask):
            raise ValueError("no teacher forcing with convolutions along time: they would see ahead in the clean copy")
        if state.length and not self.remembers:
            raise ValueError("norms or tokens of a clip and bidirectional layers leave nothing to remember: use Rerun")
        if self.start and condition.start is None:
            raise ValueError("this VideoUNet is told of the first frame; give it a condition from `begun`")
        start = condition.start
        if self.tokens is not None and (start is None or start.text is None or start.image is None):
            raise ValueError(f"network.tokens={self.tokens}, and the start has none; {TOKENS_ADVICE}")
