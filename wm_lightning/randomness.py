"""Noise that depends on what it is for, never on what was drawn before.

Every draw names its purpose and its place (iteration, sample, frame, step); the generator is made
on the spot. There is no generator state to save, and neither batch composition nor the number of
ranks, caching or validation changes a draw.
"""

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def generator(seed: int, purpose: str, *place: int) -> np.random.Generator:
    """A counter-based generator for one purpose at one place; the same arguments give the same draws.

    `purpose` is hashed with CRC-32, because Python's own `hash` of a string differs between processes.
    """
    entropy = [seed, zlib.crc32(purpose.encode()), *place]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))


def normal(
    shape: Sequence[int], seed: int, purpose: str, *place: int, device: torch.device | str = "cpu"
) -> Float[Tensor, "..."]:
    """Standard normal float32 noise of `shape` for one place."""
    draws = generator(seed, purpose, *place).standard_normal(tuple(shape), dtype=np.float32)
    return torch.from_numpy(draws).to(device)


def frame_noise(
    shape: Sequence[int],
    seed: int,
    purpose: str,
    samples: Sequence[int],
    frames: range,
    step: int,
    *,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "b f ..."]:
    """Standard normal noise, one independent draw per (sample, absolute frame, step).

    `shape` is that of one frame, `samples` holds the global index of every sample of the batch.
    """
    draws = np.empty((len(samples), len(frames), *shape), dtype=np.float32)
    for row, sample in enumerate(samples):
        for column, frame in enumerate(frames):
            source = generator(seed, purpose, sample, frame, step)
            draws[row, column] = source.standard_normal(tuple(shape), dtype=np.float32)
    return torch.from_numpy(draws).to(device)
