"""A small image transformer that makes the next frame from the last one and an action, or from nothing at all.

A world model in the sense of WorldGen: its history is one frame, so a step is a rollout with chunks of one frame. The
axes of that work are arguments: what is seen of the start image, additive conditioning against FiLM (1709.07871),
LayerNorm against RMSNorm (1910.07467), and classifier-free guidance (2207.12598).
"""

from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from wm_lightning.clip import ActionState, Condition, Latents, Levels
from wm_lightning.networks.attention import Projections, Tokens, attend
from wm_lightning.networks.conditioning import ActionEmbedder, Embedding, LevelEmbedder
from wm_lightning.networks.geometry import Layout, geometry
from wm_lightning.networks.masks import FrameMask
from wm_lightning.networks.rope import RopeTable, rotate
from wm_lightning.networks.start_encoder import StartEncoder
from wm_lightning.networks.state import State, empty_state

Conditioning = Literal["additive", "film"]
Norm = Literal["layer", "rms"]
ALONE = FrameMask(1)  # attention does not leave its frame


class Conditioned(nn.Module):
    """Normalised tokens with a condition: `norm(x) + shift(c)`, or FiLM's `norm(x) (1 + scale(c)) + shift(c)`."""

    def __init__(self, dim: int, *, norm: Norm, conditioning: Conditioning) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6) if norm == "layer" else nn.RMSNorm(dim, eps=1e-6)
        self.film = conditioning == "film"
        self.linear = nn.Linear(dim, 2 * dim if self.film else dim)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tokens, c: Embedding) -> Tokens:
        found = self.linear(nn.functional.silu(c))[:, :, None]
        if not self.film:
            return self.norm(x) + found
        shift, scale = found.chunk(2, dim=-1)
        return torch.addcmul(shift, self.norm(x), 1 + scale)


class Attention(nn.Module):
    """Tokens of a frame attend to one another and, where there are any, to the features of its start image.

    Both lie at the same places, so that a move is an offset between the two.
    """

    def __init__(self, dim: int, heads: int, *, qk_norm: bool) -> None:
        super().__init__()
        self.projections = Projections(dim, heads, qk_norm=qk_norm)

    def forward(self, x: Tokens, start: Float[Tensor, "b f m d"] | None, place: RopeTable) -> Tokens:
        q, k, v = self.projections.split(x)
        q, k = rotate(q, place), rotate(k, place)
        if start is not None:
            seen_k, seen_v = self.projections.keys_values(start)
            k, v = torch.cat([k, rotate(seen_k, place)], 2), torch.cat([v, seen_v], 2)
        q, k, v = (rearrange(y, "b f n h e -> (b f) h n e") for y in (q, k, v))
        return self.projections.out(rearrange(attend(q, k, v, None), "(b f) h n e -> b f n (h e)", b=len(x)))


class Block(nn.Module):
    """Attention and an MLP, both conditioned, without gates."""

    def __init__(
        self, dim: int, heads: int, *, mlp_ratio: float, qk_norm: bool, norm: Norm, conditioning: Conditioning
    ) -> None:
        super().__init__()
        self.before_attention = Conditioned(dim, norm=norm, conditioning=conditioning)
        self.attention = Attention(dim, heads, qk_norm=qk_norm)
        self.before_mlp = Conditioned(dim, norm=norm, conditioning=conditioning)
        hidden = int(dim * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tokens, c: Embedding, start: Float[Tensor, "b f m d"] | None, place: RopeTable) -> Tokens:
        seen = None if start is None else self.before_attention.norm(start)
        x = x + self.attention(self.before_attention(x, c), seen, place)
        return x + self.mlp(self.before_mlp(x, c))


class Head(nn.Module):
    """A last condition and the projection back to patches, zero-initialised."""

    def __init__(self, dim: int, out: int, *, norm: Norm, conditioning: Conditioning) -> None:
        super().__init__()
        self.before = Conditioned(dim, norm=norm, conditioning=conditioning)
        self.linear = nn.Linear(dim, out)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tokens, c: Embedding) -> Float[Tensor, "b f n out"]:
        return self.linear(self.before(x, c))


class WorldDiT(nn.Module):
    """Predicts what its path asks for, of every new frame, given the frame before and the action between the two.

    `start="none"` and `actions_seen=False` make it unconditional. Where an action is dropped, the start image is
    hidden with it, so that dropping teaches what guidance subtracts: unconditional generation. In evaluation mode
    predictions are extrapolated by `guidance`, unconditional + guidance (conditional − unconditional), both from one
    pass over a doubled batch; 1 does without. A video's first frame has none before it: it is given and never made,
    and its prediction is 0.
    """

    def __init__(
        self,
        *,
        channels: int,
        height: int,
        width: int,
        patch: int,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        qk_norm: bool,
        norm: Norm,
        conditioning: Conditioning,
        rope_base: float,
        frequencies: int,
        start: Literal["none", "cnn", "timm"],
        start_pooled: bool,
        start_model: str | None,
        start_weights: str | None,
        actions: int,
        actions_seen: bool,
        guidance: float,
    ) -> None:
        super().__init__()
        if height % patch or width % patch:
            raise ValueError(f"{height=} and {width=} must be multiples of {patch=}")
        if dim % heads or (dim // heads) % 4:
            raise ValueError(f"{dim=} over {heads=} must give heads of a multiple of 4 channels")
        if guidance != 1 and not (actions_seen or start != "none"):
            raise ValueError(f"{guidance=} needs something to guide by; an unconditional network has guidance=1")
        self.patch, self.grid, self.guidance = patch, (height // patch, width // patch), guidance
        self.layout = Layout(*self.grid, head_dim=dim // heads, rope_base=rope_base, joint=False)
        self.embed = nn.Linear(channels * patch**2, dim)
        self.places = nn.Parameter(torch.randn(self.grid[0] * self.grid[1], dim) * 0.02)
        self.level = LevelEmbedder(dim, frequencies=frequencies)
        self.action = self.start = None
        if actions_seen:
            self.action = ActionEmbedder(actions, dim, kind="mlp", none="learned", dropped="learned")
        if start != "none":
            self.start = StartEncoder(
                kind=start, channels=channels, grid=self.grid, patch=patch, dim=dim, pooled=start_pooled,
                model=start_model, weights=start_weights,
            )  # fmt: skip
        self.blocks = nn.ModuleList(
            Block(dim, heads, mlp_ratio=mlp_ratio, qk_norm=qk_norm, norm=norm, conditioning=conditioning)
            for _ in range(depth)
        )
        self.head = Head(dim, channels * patch**2, norm=norm, conditioning=conditioning)

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

        The state holds frames as they were shown, and their labels. Raises ValueError for another mask than the
        framewise one: no frame sees another of its chunk.
        """
        if mask.chunk != 1:
            raise ValueError(f"a WorldDiT makes one frame from the one before; set rollout.chunk=1, not {mask.chunk}")
        state = empty_state(len(x_t)) if past is None else past
        known, frames = state.length, x_t.shape[1]
        shown = {"frame": x_t, "label": label}
        if known:
            shown = {name: torch.cat([state.memory[name].to(new.dtype), new], dim=1) for name, new in shown.items()}
        state = state.advanced({name: values.detach() for name, values in shown.items()}, frames)
        if memory_only:
            return None, state
        # The first new frame that has one before it.
        first = 0 if known else 1
        made = torch.zeros_like(x_t[:, :first])
        if frames > first:
            before = {name: values[:, known + first - 1 : known + frames - 1] for name, values in shown.items()}
            made = torch.cat([made, self._predicted(x_t, label, condition, before, first)], dim=1)
        if state.valid is not None:
            there = nn.functional.pad(state.valid, (1, 0), value=False)[:, known : known + frames]
            made = made * there[..., None, None, None]
        return made, state

    def _predicted(
        self, x_t: Latents, label: Levels, condition: Condition, before: dict[str, Tensor], first: int
    ) -> Float[Tensor, "b made c h w"]:
        """Predictions of the frames from `first` on, guided where this network guides."""
        condition = condition.frames(first, x_t.shape[1])
        args = (x_t[:, first:], label[:, first:], before["frame"], before["label"])
        if self.training or self.guidance == 1:
            return self._one(condition, *args)
        twice = [torch.cat([values, values]) for values in args]
        both = self._one(Condition.cat([condition, condition.null()]), *twice)
        conditional, unconditional = both.chunk(2)
        return unconditional + self.guidance * (conditional - unconditional)

    def _one(self, condition: Condition, x_t: Latents, label: Levels, before: Latents, before_label: Levels) -> Latents:
        x = self.embed(rearrange(x_t, "b f c (y p) (x q) -> b f (y x) (c p q)", p=self.patch, q=self.patch))
        x, c = x + self.places, self.level(label)
        hidden: Bool[Tensor, "b f"] = condition.state == int(ActionState.DROPPED)
        if self.action is not None:
            c = c + self.action(condition)
        start = None
        if self.start is not None:
            start = self.start(before, hidden)
            # How noisy the frame before was shown, which is clean except in training on long clips.
            c = c + self.level(before_label)
            if self.start.pooled:
                c, start = c + start[:, :, 0], None
        wide = torch.promote_types(x_t.dtype, torch.float32)
        shared = geometry(self.layout, ALONE, 0, 1, None, x.device, wide)
        for block in self.blocks:
            x = block(x, c, start, shared.place)
        x = self.head(x, c).to(wide)
        shape = "b f (y x) (c p q) -> b f c (y p) (x q)"
        return rearrange(x, shape, y=self.grid[0], p=self.patch, q=self.patch)
