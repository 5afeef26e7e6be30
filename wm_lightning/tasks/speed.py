"""Speed and memory of generators, measured side by side in one process."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

from wm_lightning.clip import Clip
from wm_lightning.tasks.subjects import Subject

MIB = 2**20


@dataclass(frozen=True)
class Speed:
    """Generated frames per second at batch 1 and 16, seconds to the first chunk, peak MiB (None: not measured)."""

    fps_b1: float
    fps_b16: float
    first_frame_latency: float
    peak_memory: float | None


def measure_speed(
    subjects: Sequence[Subject],
    clip: Clip,
    context: int,
    *,
    repeats: int,
    device: torch.device,
    advance: Callable[[str], None],
) -> list[Speed]:
    """Median times over `repeats` rounds, all subjects in every round, so that a slow moment hits all alike.

    `clip` holds 16 clips; the first is used at batch 1.
    """
    generated = clip.video.shape[1] - context
    one, first = clip[:1], clip[:1].frames(0, context + subjects[0].plan.chunk)
    times: list[list[list[float]]] = [[[], [], []] for _ in subjects]
    for subject in subjects:
        seconds(subject, first, context, device)
    for _ in range(repeats):
        for subject, kept in zip(subjects, times, strict=True):
            for batch, collected in zip((one, clip, first), kept, strict=True):
                collected.append(seconds(subject, batch, context, device))
            advance(f"speed: {subject.name}, {subject.steps} steps")
    speeds = []
    for subject, kept in zip(subjects, times, strict=True):
        single, many, latency = (statistics.median(values) for values in kept)
        memory = peak_memory(subject, one, context, device)
        speeds.append(Speed(generated / single, generated * len(clip) / many, latency, memory))
    return speeds


def seconds(subject: Subject, clip: Clip, context: int, device: torch.device) -> float:
    """Wall time of one rollout, pixels included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    subject.generate(clip, context, 0, device)
    return time.perf_counter() - start


def peak_memory(subject: Subject, clip: Clip, context: int, device: torch.device) -> float:
    """Most tensor memory in use during one rollout at batch 1, weights included, in MiB.

    On a GPU the allocator counts it. On a CPU the profiler's allocations are summed, because the
    process's resident size also holds what the C allocator keeps for later.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        subject.generate(clip, context, 0, device)
        return torch.cuda.max_memory_allocated(device) / MIB
    network = subject.model.network
    weights = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    end = min(clip.video.shape[1], context + 2 * subject.plan.chunk)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        subject.generate(clip.frames(0, end), context, 0, device)
    return (weights + _highest(profiler)) / MIB


def _highest(profiler: profile) -> float:
    kineto = profiler.profiler
    assert kineto is not None and kineto.kineto_results is not None
    events = [event for event in kineto.kineto_results.events() if event.name() == "[memory]"]
    used = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        used += event.nbytes()  # pyright: ignore[reportAttributeAccessIssue]  the stub lacks it
        highest = max(highest, used)
    return float(highest)
