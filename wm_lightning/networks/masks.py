"""Which frame sees which: block-causal masks over frames."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def chunk_blocks(frames: int, chunk: int | None, *, first_alone: bool) -> Int[Tensor, "f"]:
    """Block index of every frame. With `first_alone`, frame 0 is its own block: b(i) = 1 + (i − 1) // chunk."""
    index = torch.arange(frames)
    if chunk is None:
        return torch.zeros_like(index)
    return (index + (chunk - 1 if first_alone else 0)) // chunk


@dataclass(frozen=True)
class FrameMask:
    """Frames see their own block and the blocks before it.

    `chunk` is the block length: 1 is framewise, None bidirectional. `window` bounds what is seen to
    the last `window` frames counted to the end of the query's block, `sink` frames at the start
    excepted. New frames behind remembered ones start a block; at the start of a video the first
    frame is a block of its own.
    """

    chunk: int | None
    window: int | None = None
    sink: int = 0

    def blocks(self, past: int, frames: int) -> Int[Tensor, "f"]:
        """Block index of the new frames, counted from the first new block."""
        return chunk_blocks(frames, self.chunk, first_alone=past == 0)

    def allowed(self, past: int, frames: int) -> Bool[Tensor, "f total"]:
        """May new frame i see frame j of (remembered, new)?"""
        blocks = self.blocks(past, frames)
        seen = torch.ones(frames, past + frames, dtype=torch.bool)
        seen[:, past:] = blocks[None, :] <= blocks[:, None]
        return seen if self.window is None else seen & self._band(blocks, past)

    def _band(self, blocks: Int[Tensor, "f"], past: int) -> Bool[Tensor, "f total"]:
        # The end of a query's block is where the count of frames in blocks up to its own reaches.
        ends = past + (blocks[None, :] <= blocks[:, None]).sum(1)
        keys = torch.arange(past + len(blocks))
        assert self.window is not None
        return (keys[None, :] >= ends[:, None] - self.window) | (keys[None, :] < self.sink)

    def positions(self, past: int, frames: int) -> tuple[Int[Tensor, "f"], Int[Tensor, "total"]]:
        """Temporal positions of queries and keys, relative to the window."""
        keys = torch.arange(past + frames)
        return keys[past:], keys


@dataclass(frozen=True)
class TeacherForcingMask(FrameMask):
    """New noisy frames behind a clean copy of themselves: block b sees clean blocks < b and noisy block b.

    Both copies stand at the same temporal positions (Self-Forcing's [clean | noisy] layout).
    """

    def allowed(self, past: int, frames: int) -> Bool[Tensor, "f total"]:
        if past != frames:
            raise ValueError(f"teacher forcing needs as many clean frames as noisy ones, got {past} and {frames}")
        blocks = chunk_blocks(frames, self.chunk, first_alone=True)
        clean = blocks[None, :] < blocks[:, None]
        return torch.cat([clean, blocks[None, :] == blocks[:, None]], dim=1)

    def positions(self, past: int, frames: int) -> tuple[Int[Tensor, "f"], Int[Tensor, "total"]]:
        own = torch.arange(frames)
        return own, torch.cat([own[:past], own])


@dataclass(frozen=True)
class ExplicitMask(FrameMask):
    """Block-causal with block indices given frame by frame, for a history that starts in mid-video."""

    ids: tuple[int, ...] = ()

    def blocks(self, past: int, frames: int) -> Int[Tensor, "f"]:
        if past or len(self.ids) != frames:
            raise ValueError(f"{len(self.ids)} block indices for {frames} frames behind {past}")
        return torch.tensor(self.ids)
