"""Tiny networks whose zero-initialised layers hold noise, random inputs, and attention by its definition."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from wm_lightning.clip import ActionState, Condition
from wm_lightning.networks.state import State
from wm_lightning.networks.video_dit import VideoDiT, modulate

Attention = Literal["joint", "factorised"]
ATTENTIONS: tuple[Attention, ...] = ("joint", "factorised")
# Not square, so that rows taken for columns are noticed.
SHAPE = (2, 4, 6)
ACTIONS = 3


def tiny(
    attention: Attention, *, dtype: torch.dtype = torch.float32, seed: int = 0, gradient_checkpointing: bool = False
) -> VideoDiT:
    """Two layers of width 24, every parameter noisy: a fresh network outputs zeros and proves nothing."""
    network = VideoDiT(
        channels=SHAPE[0], height=SHAPE[1], width=SHAPE[2], patch=2, dim=24, depth=2, heads=2, mlp_ratio=2.0,
        gelu="none", attention=attention, qk_norm=True, spatial_positions=True, rope_base=100.0, frequencies=8,
        actions=ACTIONS,
        action_kind="mlp", action_none="learned", action_dropped="learned",
        gradient_checkpointing=gradient_checkpointing,
    )  # fmt: skip
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.25 * torch.randn(parameter.shape, generator=source))
        network.level.mlp[2].weight.mul_(3)
    return network.to(dtype)


def randn(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def videos(batch: int, frames: int, *, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return randn(batch, frames, *SHAPE, seed=seed, dtype=dtype)


def labels(batch: int, frames: int, *, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Another label for every frame, from 0 to 20."""
    source = torch.Generator().manual_seed(seed)
    return (20 * torch.rand(batch, frames, generator=source, dtype=torch.float64)).to(dtype)


def condition(batch: int, frames: int, *, seed: int, dtype: torch.dtype = torch.float32) -> Condition:
    """Random actions; nothing produced frame 0, and the last sample's frame 2 has lost its action."""
    state = torch.full((batch, frames), int(ActionState.GIVEN))
    state[:, 0] = ActionState.NONE
    state[-1, 2:3] = ActionState.DROPPED
    return Condition(randn(batch, frames, ACTIONS, seed=seed, dtype=dtype), state)


def other_action(condition: Condition, frame: int) -> Condition:
    """The same condition with another action at one frame."""
    actions = condition.actions.clone()
    actions[:, frame] += 1
    return replace(condition, actions=actions)


def clones(state: State) -> State:
    """A deep copy."""
    memory = {name: value.clone() for name, value in state.memory.items()}
    valid = None if state.valid is None else state.valid.clone()
    return State(memory, state.frame.clone(), valid)


def assert_same_state(one: State, other: State) -> None:
    """Bit for bit."""
    assert one.memory.keys() == other.memory.keys()
    assert all(torch.equal(one.memory[name], other.memory[name]) for name in one.memory)
    assert torch.equal(one.frame, other.frame)
    assert (one.valid is None) == (other.valid is None)
    assert one.valid is None or torch.equal(one.valid, other.valid)  # type: ignore[arg-type]


def chunks_of(frames: int, context: int, chunk: int) -> list[range]:
    """The context and the chunks behind it, the last of them maybe shorter."""
    starts = range(context, frames, chunk)
    return [range(context), *(range(start, min(start + chunk, frames)) for start in starts)]


def slots(chunks: Sequence[range], window: int | None, sink: int) -> list[list[int]]:
    """For every chunk the frames a rolling memory holds while it is denoised, its own included, in their order."""
    held: list[int] = []
    seen = []
    for chunk in chunks:
        if window is not None and len(held) + len(chunk) > window:
            held = held[:sink] + held[len(held) - (window - len(chunk) - sink) :]
        held = held + list(chunk)
        seen.append(held)
    return seen


def by_definition(
    network: VideoDiT, x_t: Tensor, label: Tensor, condition: Condition, chunks: Sequence[range],
    *, framewise: bool, window: int | None = None, sink: int = 0, absolute: bool = False,
) -> Tensor:  # fmt: skip
    """The network's output when every chunk attends to what a rolling memory holds, computed without one.

    Temporal positions are those in the memory, or with `absolute` those in the video. Rotations are complex
    products, softmax is written out, no cache and no mask of the project takes part.
    """
    c = network.level(label) + network.action(condition)
    x = network.embed(rearrange(x_t, "b f c (y p) (x q) -> b f (y x) (c p q)", p=network.patch, q=network.patch))
    x = x + network.places
    for index, block in enumerate(network.blocks):
        shift1, scale1, gate1, shift2, scale2, gate2 = block.modulation(c).chunk(6, dim=-1)
        normed = modulate(block.norm1(x), shift1, scale1)
        q, k, v = block.attention.projections.split(normed)
        if network.layout.joint or index % 2:
            mixed = _over_time(network, q, k, v, chunks, slots(chunks, window, sink), framewise, absolute)
        else:
            angles = _spatial_angles(network, q.shape[-1] // 2)
            mixed = _softmax(_turned(q, angles), _turned(k, angles), v, "b f q h e, b f k h e -> b f h q k")
        x = x + block.attention.projections.out(mixed.flatten(-2)) * gate1[:, :, None]
        x = x + block.mlp(modulate(block.norm2(x), shift2, scale2)) * gate2[:, :, None]
    return network._unpatch(network.head(x, c))


def _over_time(
    network: VideoDiT, q: Tensor, k: Tensor, v: Tensor, chunks: Sequence[range], held: list[list[int]],
    framewise: bool, absolute: bool,
) -> Tensor:  # fmt: skip
    out = torch.zeros_like(v)
    for chunk, frames in zip(chunks, held, strict=True):
        for frame in chunk:
            seen = [j for j in frames if not framewise or j <= frame]
            places = seen if absolute else [frames.index(j) for j in seen]
            at = frame if absolute else frames.index(frame)
            turned = torch.stack([_turned(k[:, j], _angles(network, p, q)) for j, p in zip(seen, places, strict=True)])
            query = _turned(q[:, frame], _angles(network, at, q))
            if network.layout.joint:
                keys, values = rearrange(turned, "s b n h e -> b (s n) h e"), v[:, seen].flatten(1, 2)
                out[:, frame] = _softmax(query, keys, values, "b q h e, b k h e -> b h q k")
            else:
                keys, values = rearrange(turned, "s b n h e -> b n s h e"), rearrange(v[:, seen], "b s ... -> b s ...")
                scores = torch.einsum("b n h e, b n s h e -> b n h s", query, keys) / q.shape[-1] ** 0.5
                out[:, frame] = torch.einsum("b n h s, b s n h e -> b n h e", scores.softmax(-1), values)
    return out


def _softmax(q: Tensor, k: Tensor, v: Tensor, scores: str) -> Tensor:
    weights = (torch.einsum(scores, q, k) / q.shape[-1] ** 0.5).softmax(-1)
    return torch.einsum("... h q k, ... k h e -> ... q h e", weights, v)


def _spatial_angles(network: VideoDiT, pairs: int) -> Tensor:
    """Angles of every place, `n pairs`: rows turn the first half of the pairs, columns the second."""
    rows, columns = network.grid
    axis = pairs // 2
    speeds = torch.tensor([network.layout.rope_base ** (-i / axis) for i in range(axis)], dtype=torch.float64)
    place = torch.arange(rows * columns)
    return torch.cat([(place // columns)[:, None] * speeds, (place % columns)[:, None] * speeds], dim=-1)


def _angles(network: VideoDiT, position: int, like: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    """Angles at a position in time, `1 pairs`; for joint attention those of the places beside them."""
    pairs = like.shape[-1] // 2
    if not network.layout.joint:
        speeds = torch.tensor([network.layout.rope_base ** (-i / pairs) for i in range(pairs)], dtype=torch.float64)
        return position * speeds[None]
    axis = pairs // 3
    temporal = pairs - 2 * axis
    speeds = torch.tensor([network.layout.rope_base ** (-i / temporal) for i in range(temporal)], dtype=torch.float64)
    return position * speeds[None], _spatial_angles(network, 2 * axis)


def _turned(x: Tensor, angles: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """Neighbouring channels as one complex number, turned by its angle; x is `... n h e`."""
    if isinstance(angles, tuple):
        temporal = 2 * angles[0].shape[-1]
        return torch.cat([_turned(x[..., :temporal], angles[0]), _turned(x[..., temporal:], angles[1])], dim=-1)
    turned = torch.complex(x[..., ::2].double(), x[..., 1::2].double())
    turned = turned * torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.stack([turned.real, turned.imag], dim=-1).flatten(-2).to(x.dtype)
