"""A diffusion transformer over video: joint or factorised attention, AdaLN-zero per frame, a remembered past."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wm_lightning.clip import Condition, Latents, Levels
from wm_lightning.networks.attention import (
    JointAttention,
    SpatialAttention,
    TemporalAttention,
    Tokens,
)
from wm_lightning.networks.conditioning import ActionEmbedder, Embedding, LevelEmbedder
from wm_lightning.networks.geometry import Geometry, Layout, geometry
from wm_lightning.networks.masks import FrameMask
from wm_lightning.networks.prompt import PromptAttention, Words, numbered
from wm_lightning.networks.state import State, empty_state

KeysValues = tuple[Tensor, Tensor]
Read = tuple[Words, Bool[Tensor, "b w"], Float[Tensor, "b f d"]]
ATTENTION: dict[str, Any] = {"joint": JointAttention, "spatial": SpatialAttention, "temporal": TemporalAttention}


def modulate(x: Tokens, shift: Embedding, scale: Embedding) -> Tokens:
    """x (1 + scale) + shift, one vector per frame."""
    return torch.addcmul(shift[:, :, None], x, 1 + scale[:, :, None])


class Block(nn.Module):
    """Attention and MLP, each modulated and gated per frame (AdaLN-zero, DiT 2212.09748)."""

    def __init__(
        self,
        kind: str,
        dim: int,
        heads: int,
        *,
        mlp_ratio: float,
        gelu: Literal["none", "tanh"],
        qk_norm: bool,
        prompted: bool,
    ) -> None:
        super().__init__()
        self.attention = ATTENTION[kind](dim, heads, qk_norm=qk_norm)
        self.prompt = PromptAttention(dim, heads) if prompted else None
        hidden = int(dim * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(approximate=gelu), nn.Linear(hidden, dim))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.norm1 = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.norm2 = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)

    def remember(self, x: Tokens, c: Embedding, geometry: Geometry, past: KeysValues | None) -> KeysValues:
        """Keys and values only: all a commit needs of the last block."""
        shift, scale = self.modulation(c).chunk(6, dim=-1)[:2]
        return self.attention.remember(modulate(self.norm1(x), shift, scale), geometry, past)

    def forward(
        self, x: Tokens, c: Embedding, geometry: Geometry, past: KeysValues | None, words: Read | None = None
    ) -> tuple[Tokens, KeysValues | None]:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c).chunk(6, dim=-1)
        attended, memory = self.attention(modulate(self.norm1(x), shift1, scale1), geometry, past)
        x = torch.addcmul(x, attended, gate1[:, :, None])
        if self.prompt is not None and words is not None:
            x = x + self.prompt(x, *words)
        return torch.addcmul(x, self.mlp(modulate(self.norm2(x), shift2, scale2)), gate2[:, :, None]), memory


class Head(nn.Module):
    """Final modulation and projection back to patches, zero-initialised."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))
        self.linear = nn.Linear(dim, out)

    def forward(self, x: Tokens, c: Embedding) -> Float[Tensor, "b f n out"]:
        return self.linear(modulate(self.norm(x), *self.modulation(c).chunk(2, dim=-1)))


class VideoDiT(nn.Module):
    """Predicts what its path asks for, of every new frame, given the remembered ones.

    `attention="joint"` has one block-causal attention per layer over all tokens, "factorised" a
    spatial and a temporal block per layer. `label` is the path's own index, one per frame. `prompt` makes, for a width,
    what reads the words of `condition.prompt`, to which every block then attends.
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
        gelu: Literal["none", "tanh"],
        attention: Literal["joint", "factorised"],
        qk_norm: bool,
        spatial_positions: bool,
        rope_base: float,
        frequencies: int,
        actions: int,
        action_kind: Literal["linear", "mlp"],
        action_none: Literal["input_zero", "learned"],
        action_dropped: Literal["zero", "learned"],
        gradient_checkpointing: bool,
        prompt: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if height % patch or width % patch:
            raise ValueError(f"{height=} and {width=} must be multiples of {patch=}")
        if dim % heads or (dim // heads) % 4 or (attention == "joint" and dim // heads < 8):
            raise ValueError(f"{dim=} over {heads=} must give heads of a multiple of 4 channels, at least 8 if joint")
        self.patch, self.grid = patch, (height // patch, width // patch)
        joint, self.gradient_checkpointing = attention == "joint", gradient_checkpointing
        self.layout = Layout(*self.grid, head_dim=dim // heads, rope_base=rope_base, joint=joint)
        self.embed = nn.Linear(channels * patch**2, dim)
        places = self.grid[0] * self.grid[1]
        self.places = nn.Parameter(torch.randn(places, dim) * 0.02) if spatial_positions else None
        self.level = LevelEmbedder(dim, frequencies=frequencies)
        self.action = ActionEmbedder(actions, dim, kind=action_kind, none=action_none, dropped=action_dropped)
        kinds = ["joint"] * depth if joint else ["spatial", "temporal"] * depth
        self.blocks = nn.ModuleList(
            Block(kind, dim, heads, mlp_ratio=mlp_ratio, gelu=gelu, qk_norm=qk_norm, prompted=prompt is not None)
            for kind in kinds
        )
        self.prompt = None if prompt is None else prompt(dim)
        self.head = Head(dim, channels * patch**2)
        self._initialise()

    def _initialise(self) -> None:
        for module in [self.embed, *self.blocks.modules()]:
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        zeroed = [block.modulation[-1] for block in self.blocks] + [self.head.modulation[-1], self.head.linear]  # type: ignore[index]
        zeroed += [block.prompt.out for block in self.blocks if block.prompt is not None]  # type: ignore[union-attr]
        for layer in zeroed:
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

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
        """Prediction for the new frames and the state that includes them.

        With `memory_only` the prediction is None and only what the state needs is computed.
        """
        state = empty_state(len(x_t)) if past is None else past
        wide = torch.promote_types(x_t.dtype, torch.float32)
        shared = geometry(self.layout, mask, state.length, x_t.shape[1], state.valid, x_t.device, wide)
        c = self.level(label) + self.action(condition)
        x = self.embed(rearrange(x_t, "b f c (y p) (x q) -> b f (y x) (c p q)", p=self.patch, q=self.patch))
        if self.places is not None:
            x = x + self.places
        words = None
        if self.prompt is not None:
            numbers = state.frame.to(x_t.device)[:, None] + torch.arange(x_t.shape[1], device=x_t.device)
            words = (*self.prompt(condition.prompt, len(x_t)), numbered(numbers, x.shape[-1]))
        memory: dict[str, Tensor] = {}
        for name, block, remembered, is_last in self._layers(state):
            if is_last and memory_only:
                kept = block.remember(x, c, shared, remembered)
            elif self.gradient_checkpointing and torch.is_grad_enabled():
                x, kept = checkpoint(block, x, c, shared, remembered, words, use_reentrant=False)  # type: ignore[misc]
            else:
                x, kept = block(x, c, shared, remembered, words)
            if kept is not None:
                memory[f"{name}.k"], memory[f"{name}.v"] = kept[0].detach(), kept[1].detach()
        state = state.advanced(memory, x_t.shape[1])
        return (None if memory_only else self._unpatch(self.head(x, c)).to(wide)), state

    def _layers(self, state: State) -> Iterator[tuple[str, Any, KeysValues | None, bool]]:
        for index, block in enumerate(self.blocks):
            name = str(index)
            past = (state.memory[f"{name}.k"], state.memory[f"{name}.v"]) if f"{name}.k" in state.memory else None
            yield name, block, past, index == len(self.blocks) - 1

    def _unpatch(self, tokens: Tokens) -> Latents:
        rows, _ = self.grid
        shape = "b f (y x) (c p q) -> b f c (y p) (x q)"
        return rearrange(tokens, shape, y=rows, p=self.patch, q=self.patch)
