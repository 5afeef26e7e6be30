"""Speed and memory of generators, measured side by side in one process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

from wm_lightning.clip import Clip
from wm_lightning.compute import now
from wm_lightning.sampling.rollout import SeededNoise, iter_chunks, remember_context
from wm_lightning.tasks.subjects import Subject

MIB = 2**20
# Forward passes of one timing at batch 1 and 16: a chunk of a student alone takes a few hundredths of a second, too
# short to time beside a teacher's.
PASSES_B1, PASSES_B16 = 32, 8


@dataclass(frozen=True)
class Speed:
    """What a generator costs.

    `fps_*`: generated frames per second at batch 1 and 16, summed over the batch, once its memory holds
    all it is given: chunks, their commits and pixels. `first_frame_latency`: seconds from the first given
    frames to the pixels of the first chunk. `peak_memory`: MiB of a rollout at batch 1.
    """

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
    """The shortest times of `repeats` rounds, as `timeit` takes them: what else runs can only make them longer.

    All subjects are timed in every round, so that a slow minute hits all alike. `clip` holds 16 clips; the
    first is used at batch 1. All but its last chunk fill the memory. Batch 16, whose timings are long, is
    timed in the first round only.
    """
    chunk = subjects[0].plan.first_chunk(clip.video.shape[1] - context)
    one, first = clip[:1], clip[:1].frames(0, context + chunk)
    times: list[list[list[float]]] = [[[], [], []] for _ in subjects]
    for subject in subjects:
        _first_chunk(subject, first, context, device)
    for number in range(repeats):
        for subject, (single, many, latency) in zip(subjects, times, strict=True):
            single.append(_chunk_time(subject, one, context, device, PASSES_B1))
            if number == 0:
                many.append(_chunk_time(subject, clip, context, device, PASSES_B16))
            latency.append(_first_chunk(subject, first, context, device))
            advance(f"speed: {subject.name}, {subject.steps} steps")
    speeds = []
    for subject, kept in zip(subjects, times, strict=True):
        single, many, latency = map(min, kept)
        memory = peak_memory(subject, one, context, device)
        speeds.append(Speed(chunk / single, chunk * len(clip) / many, latency, memory))
    return speeds


def sixteen(clips: Sequence[Clip]) -> Clip:
    """The first sixteen of some clips, repeated where there are fewer."""
    clip = Clip.cat(list(clips[:16]))
    while len(clip) < 16:
        clip = Clip.cat([clip, clip])
    return clip[:16]


def _first_chunk(subject: Subject, clip: Clip, context: int, device: torch.device) -> float:
    start = now(device)
    subject.generate(clip, context, 0, device)
    return now(device) - start


@torch.no_grad()
def _chunk_time(subject: Subject, clip: Clip, context: int, device: torch.device, passes: int) -> float:
    """Seconds per chunk of a rollout of about `passes` forward passes whose memory is full.

    The actions of the last chunk are used for all.
    """
    chunks = max(1, round(passes / subject.forwards))
    model, plan, frames = subject.model, subject.plan, clip.video.shape[1]
    chunk = plan.first_chunk(frames - context)
    given = frames - chunk
    noise = SeededNoise(0, "speed", tuple(range(len(clip))), device)
    seen, condition = clip.frames(0, given).x0.to(device), clip.condition.to(device)
    condition = model.begun(seen, condition)
    past = remember_context(model, seen, condition, plan, noise)
    ahead = [condition.frames(given, frames)] * chunks
    start = now(device)
    for chunk in iter_chunks(model, subject.sampler, past, ahead, plan, noise, shape=tuple(seen.shape[2:])):
        subject.decode(chunk.frames).cpu()
    return (now(device) - start) / chunks


def peak_memory(subject: Subject, clip: Clip, context: int, device: torch.device) -> float:
    """Most tensor memory in use during one rollout at batch 1, weights included, in MiB.

    On a GPU the allocator counts it. On a CPU the profiler's allocations are summed, because the
    process's resident size also holds what the C allocator keeps for later.
    """
    network = subject.model.network
    weights = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    if device.type == "cuda":
        resident = torch.cuda.memory_allocated(device)  # its own weights, and those of other rows
        torch.cuda.reset_peak_memory_stats(device)
        subject.generate(clip, context, 0, device)
        return (weights + torch.cuda.max_memory_allocated(device) - resident) / MIB
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
