"""What all layers of one forward share: rotary tables and the mask."""

from dataclasses import dataclass, replace
from functools import lru_cache, partial

import torch
from jaxtyping import Bool
from torch import Tensor

from wm_lightning.networks.masks import FrameMask
from wm_lightning.networks.rope import RopeTable, rope_table, unrotated


@dataclass(frozen=True)
class Layout:
    """How tokens lie: places of a frame, channels of a head, and whether one attention sees space and time."""

    rows: int
    columns: int
    head_dim: int
    rope_base: float
    joint: bool


@dataclass(frozen=True)
class Geometry:
    """The tables broadcast against heads `b f n h pairs`: `place` turns by the position within a frame,
    `time_keys` by the window-relative position of past and new frames, `queries` by all that new
    frames need. `seen` is what `attend` takes, None where everything is visible.
    """

    place: RopeTable
    time_keys: RopeTable
    queries: RopeTable
    seen: Bool[Tensor, "..."] | None


def geometry(
    layout: Layout,
    mask: FrameMask,
    past: int,
    frames: int,
    valid: Bool[Tensor, "b past"] | None,
    device: torch.device,
    dtype: torch.dtype,
) -> Geometry:
    """The geometry of `frames` new frames behind `past` remembered ones, of which only `valid` count."""
    shared = _geometry(layout, mask, past, frames, device, dtype)
    return shared if valid is None else replace(shared, seen=_seen(layout, mask, past, frames, valid, device))


# A rollout asks for the same few geometries in every pass; making one costs a twentieth of a small network's pass.
@lru_cache(maxsize=32)
@torch.inference_mode(False)  # what is kept must serve a pass with gradient too
def _geometry(
    layout: Layout, mask: FrameMask, past: int, frames: int, device: torch.device, dtype: torch.dtype
) -> Geometry:
    pairs = layout.head_dim // 2
    # A joint head gives its first third of pairs, rounded so that both spatial axes get equally many, to time.
    axis = pairs // 3 if layout.joint else pairs // 2
    temporal = pairs - 2 * axis if layout.joint else pairs

    rope = partial(rope_table, base=layout.rope_base, dtype=dtype)
    still, index = partial(unrotated, dtype=dtype), torch.arange(layout.rows * layout.columns)
    place = torch.cat([rope(index // layout.columns, axis), rope(index % layout.columns, axis)], -1)
    queries, keys = (rope(positions, temporal) for positions in mask.positions(past, frames))
    if layout.joint:
        place = torch.cat([still(len(place), temporal), place], -1)
        queries, keys = (torch.cat([t, still(len(t), 2 * axis)], -1) for t in (queries, keys))
    place, queries, keys = (
        place[:, None].to(device),
        queries[:, None, None].to(device),
        keys[:, None, None].to(device),
    )
    seen = _seen(layout, mask, past, frames, None, device)
    return Geometry(place, keys, queries * place if layout.joint else queries, seen)


def _seen(
    layout: Layout, mask: FrameMask, past: int, frames: int, valid: Tensor | None, device: torch.device
) -> Bool[Tensor, "..."] | None:
    seen = frame_visibility(mask, past, frames, valid)
    expand = joint_mask if layout.joint else temporal_mask
    return expand(None if seen is None else seen.to(device), layout.rows * layout.columns)


def frame_visibility(
    mask: FrameMask, past: int, frames: int, valid: Bool[Tensor, "b past"] | None
) -> Bool[Tensor, "..."] | None:
    """The frame mask with unused slots taken out; None where every frame sees every frame."""
    seen = mask.allowed(past, frames)
    if valid is not None:
        new = valid.new_ones(len(valid), frames)
        seen = seen.to(valid.device) & torch.cat([valid, new], dim=1)[:, None, :]
    return None if bool(seen.all()) else seen


def joint_mask(seen: Bool[Tensor, "..."] | None, tokens: int) -> Bool[Tensor, "..."] | None:
    """A frame mask repeated for every token of its frames; with a batch, a place for heads is added."""
    if seen is None:
        return None
    mask = seen.repeat_interleave(tokens, dim=-2).repeat_interleave(tokens, dim=-1)
    return mask[:, None] if mask.ndim == 3 else mask


def temporal_mask(seen: Bool[Tensor, "..."] | None, tokens: int) -> Bool[Tensor, "..."] | None:
    """A frame mask for attention along time at every place of a frame."""
    return seen if seen is None or seen.ndim == 2 else seen.repeat_interleave(tokens, dim=0)[:, None]
