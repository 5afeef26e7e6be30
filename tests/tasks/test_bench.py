"""task=bench: both ways of every comparison do the same work, and the file says where the numbers come from."""

import json
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate

from tests.tiny_run import DMD, tiny
from wm_lightning.tasks.bench_entries import Comparison

TINY = ["task.warmup=1", "task.steps=4", "task.repeats=1", "task.batches=2", "task.frames=7"]
TINY += ["task.parts=[training, rollout, history, loading]"]  # waiting has tests of its own

HISTORY = ["new frame, longer history", "new frame behind 16 frames"]


def test_a_ratio_is_ours_against_the_other() -> None:
    assert Comparison("x", "steps/s", "a", "b", 3.0, 2.0).ratio == 1.5


def test_every_comparison_with_equal_weights_at_the_end(tmp_path: Path) -> None:
    config = tiny(tmp_path, "experiment=dmd_chunkwise", "task=bench", f"task.save_dir={tmp_path}/saved", *DMD, *TINY)
    measured = instantiate(config.task)(config)
    names = ["teacher step", "distillation step", "rollout", *HISTORY, "loading"]
    assert list(measured) == names and all(ratio > 0 for ratio in measured.values())
    report = json.loads((tmp_path / "run/bench.json").read_text())
    assert (report["data"], report["world"], report["threads"]) == ("simulated", "simulated-worldmap", 1)
    assert report["device"] and report["revision"] and report["config_hash"]
    by_name = {entry["name"]: entry for entry in report["comparisons"]}
    for name in names:
        assert by_name[name]["ratio"] == pytest.approx(by_name[name]["ours_value"] / by_name[name]["other_value"])
    # The loop by hand is the same training, so its time is a yardstick.
    assert by_name["teacher step"]["same"] is True and by_name["distillation step"]["same"] is True
    assert "| teacher step |" in (tmp_path / "run/bench.md").read_text()
    [copy] = (tmp_path / "saved").iterdir()
    assert json.loads(copy.read_text()) == report and "simulated-worldmap" in copy.name


def test_other_steps_are_told_from_equal_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wm_lightning.tasks.plain_loops.clip_grad_norm_", lambda parameters, norm: torch.tensor(1.0))
    config = tiny(tmp_path, "experiment=teacher", "task=bench", *TINY, "module.clip_norm=0.001")
    measured = instantiate(config.task)(config)
    assert list(measured) == ["teacher step", "rollout", *HISTORY, "loading"]
    report = json.loads((tmp_path / "run/bench.json").read_text())
    assert report["comparisons"][0]["same"] is False
