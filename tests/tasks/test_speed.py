"""What a generator is timed at: chunks behind a full window, as a running simulator makes them."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tests.networks.tiny import SHAPE, condition, tiny
from tests.sampling.recording import FEW_STEP, FLOW, plan
from wm_lightning.clip import Clip
from wm_lightning.networks.denoiser import Denoiser
from wm_lightning.tasks.speed import PASSES_B1, PASSES_B16, measure_speed
from wm_lightning.tasks.subjects import Subject

FRAMES, CHUNK, WINDOW = 9, 2, 6


@dataclass(frozen=True)
class Watched(Denoiser):
    """Keeps batch and number of remembered frames of every denoising pass."""

    passes: list[tuple[int, int]] = field(default_factory=list)

    def x0(self, x_t: Tensor, *others: Any) -> Any:
        self.passes.append((len(x_t), others[2].length))
        return super().x0(x_t, *others)


def test_chunks_are_timed_behind_a_full_window_and_the_first_frame_behind_its_context() -> None:
    model = Watched(tiny("joint"), FLOW)
    subject = Subject("student", "student", model, FEW_STEP, plan(CHUNK, window=WINDOW), steps=2, cached=True)
    video = torch.randint(256, (16, FRAMES, *SHAPE)).to(torch.uint8)
    clip = Clip(video, condition(16, FRAMES, seed=0), torch.arange(16))
    told: list[str] = []
    speed = measure_speed([subject], clip, 1, repeats=1, device=torch.device("cpu"), advance=told.append)[0]
    first, full = (1, 1), (1, WINDOW - CHUNK)
    chunks = lambda passes, seen: [seen] * 2 * round(passes / subject.forwards)  # noqa: E731  two steps, no commit seen
    measured = [first] * 2 + chunks(PASSES_B1, full) + chunks(PASSES_B16, (16, WINDOW - CHUNK)) + [first] * 2
    assert model.passes[: len(measured)] == measured  # what follows is the measurement of memory
    assert told == ["speed: student, 2 steps"]
    assert min(speed.fps_b1, speed.fps_b16, speed.first_frame_latency) > 0
    assert speed.peak_memory is not None and speed.peak_memory > 0
