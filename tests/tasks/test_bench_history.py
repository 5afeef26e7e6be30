"""A new frame behind a long history: all ways do the same work, and every number is of the ways it names."""

import json
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate

from tests.modules.making import PATH, SCALED_LINEAR, clip, network, unet
from wm_lightning.config import compose
from wm_lightning.networks.denoiser import Denoiser
from wm_lightning.tasks import bench_history
from wm_lightning.tasks.bench_history import history, inputs_of, remembered, run_again
from wm_lightning.tasks.build import build_data

MODELS = {"dit": lambda: Denoiser(network(), PATH), "unet": lambda: Denoiser(unet(), SCALED_LINEAR)}
CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("frames", [4, 16])
@torch.no_grad()
def test_a_new_frame_is_the_same_remembered_and_run_again(kind: str, frames: int) -> None:
    model = MODELS[kind]()
    inputs = inputs_of(model, clip(batch=1), frames + 3, CPU)
    (new, state), (whole, _) = (way(model, inputs, frames)() for way in (remembered, run_again))
    assert new is not None and whole is not None
    assert new.shape[1] == 1 and whole.shape[1] == frames + 1 and state.length == frames + 1
    torch.testing.assert_close(new, whole[:, -1:], atol=1e-5, rtol=1e-4)


def test_a_short_clip_goes_on_and_on() -> None:
    given = clip(batch=1, frames=7)
    video, level, condition = inputs_of(MODELS["unet"](), given, 32, CPU)
    assert video.shape[1] == level.shape[1] == condition.actions.shape[1] == condition.state.shape[1] == 32
    assert torch.equal(video[:, 7:14], given.x0) and torch.equal(
        condition.actions[:, 28:], given.condition.actions[:, :4]
    )
    assert condition.start is not None and torch.equal(condition.start.latent, given.x0[:, :1])


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    places = [f"run_dir={tmp_path}/run", f"cache_dir={tmp_path}/cache"]
    return ["experiment=vid2world", "size=debug", "trainer.precision=32-true", "task=bench", *places]


@pytest.mark.parametrize("change", [["experiment=vid2world_base"], ["network.norm_scope=clip"]], ids=str)
def test_a_network_that_remembers_nothing_has_no_such_cost(words: list[str], change: list[str]) -> None:
    config = compose([*words, *change])
    assert history(config, build_data(config), CPU, repeats=1) == []


def test_numbers_are_medians_of_the_ways_they_name(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # Seconds of eight passes behind 4, 16 and 31 remembered frames and of 16 run again, in every round.
    rounds = [(8.0, 9.0, 10.0, 90.0), (8.0, 9.0, 10.0, 90.0), (800.0, 1.0, 1000.0, 0.9)]
    durations = [taken for seconds in rounds for taken in seconds]
    clock: Iterator[float] = accumulate(step for taken in durations for step in (1.0, taken))
    monkeypatch.setattr(bench_history, "now", lambda device: next(clock))
    monkeypatch.setattr(bench_history, "PASSES", 1)
    config = compose(words)
    data = build_data(config)
    data.setup("fit")
    flat, again = history(config, data, CPU, repeats=3)
    assert (flat.ours_value, flat.other_value) == pytest.approx((1 / 10, 1 / 8))
    assert (again.ours_value, again.other_value) == pytest.approx((1 / 9, 1 / 90))
    assert (flat.met, again.met) == (False, True) and next(clock, None) is None, "a way was timed too often"


def test_the_task_says_both_with_what_is_aimed_at(words: list[str], tmp_path: Path) -> None:
    config = compose([*words, "task.parts=[history]", "task.repeats=1", "task.warmup=0", "task.steps=1"])
    measured: dict[str, float] = instantiate(config.task)(config)
    report: dict[str, Any] = json.loads((tmp_path / "run/bench.json").read_text())
    assert list(measured) == [entry["name"] for entry in report["comparisons"]]
    assert [(entry["name"], entry["least"]) for entry in report["comparisons"]] == [
        ("new frame, longer history", 0.87), ("new frame behind 16 frames", 5.0),
    ]  # fmt: skip
    assert all(ratio > 0 for ratio in measured.values())
    page = (tmp_path / "run/bench.md").read_text()
    assert "behind 31 frames: " in page and "| at least 5× |" in page
