"""Invented results of a whole run, every target just met."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from wm_lightning.results.results import Results, Row, Use
from wm_lightning.results.targets import Targets

NUMBERS = {
    "psnr": 22.0,
    "ssim": 0.8,
    "perceptual": 0.05,
    "frames_distance": 1.5,
    "action_error": 0.1,
    "object_error": 0.2,
    "presence": 0.97,
    "distance_floor": 0.01,
    "nfe": 5,
    "first_frame_latency": 0.04,
    "peak_memory": 512.0,
    "drift": (0.1, 0.2, 0.3),
}


def row(role: str, steps: int | None, distance: float, fps: float, **other) -> Row:
    interval = {"distance_low": distance - 0.02, "distance_high": distance + 0.02}
    values = NUMBERS | interval | {"extra": {"terrain_distance": 0.1}} | other
    name = values.pop("name", "Euler")
    cached = values.pop("cached", True)
    commit = values.pop("cache_commit", "clean")
    speed = {"fps_b1": fps, "fps_b16": 3 * fps}
    return Row(
        role=role, name=name, steps=steps, cached=cached, cache_commit=commit, distance=distance, **speed | values
    )


@pytest.fixture
def results() -> Results:
    rows = (
        row("teacher", 32, 0.05, 10.0),
        row("teacher", 16, 0.09, 20.0),
        row("teacher", 8, 0.30, 40.0),
        row("teacher", 32, 0.05, 4.0, cached=False, cache_commit=None),
        row("teacher", 32, 0.05, 11.0, cache_commit="last"),
        row("control", 4, 0.31, 72.0, name="own sampler", presence=0.9),
        row("control", 4, 0.21, 72.0, name="re-noising", presence=0.94),
        row("student", 4, 0.10, 72.0, name="DMD", action_error=0.109),
        row("student", 4, 0.10, 83.0, name="DMD", cache_commit="last"),
    )
    return Results(
        rows=rows,
        name="dmd_chunkwise",
        data="simulated",
        world="world map",
        config_hash="a1b2c3",
        revision="1234567",
        seconds=431.0,
        seed=0,
        clips=256,
        context=1,
        horizon=3,
        chunk=3,
        drift_of="action error",
        machine="2 threads",
        extractor_hash="e" * 64,
        distance_floor=0.01,
        presence_truth=0.99,
        deployed=Use("student", 4, "clean"),
    )


@pytest.fixture
def targets() -> Targets:
    return Targets(
        teacher_steps=32,
        speed_cached={4: 6.5},
        speed_uncached={4: 18},
        speed_last={4: 7.5},
        action_ratio=1.1,
        action_slack=0.01,
        excess_control=0.7,
        excess_teacher=2.5,
        presence_gap=0.1,
        presence_least=0.95,
        extra_slack={"terrain_distance": 0.12},
    )


@pytest.fixture
def changed(results: Results) -> Callable[..., Results]:
    """The results with other values in every row that has the given role, steps and commit."""

    def change(role: str, steps: int, commit: str | None = "clean", **values) -> Results:
        rows = [
            replace(entry, **values)
            if (entry.role, entry.steps, entry.cache_commit) == (role, steps, commit)
            else entry
            for entry in results.rows
        ]
        assert rows != list(results.rows)
        return replace(results, rows=tuple(rows))

    return change
