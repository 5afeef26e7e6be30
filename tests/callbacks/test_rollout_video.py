"""Pictures of a training: when they appear, what they show, where loggers get them, and that training never notices."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from tests.tiny_run import tiny_teacher
from wm_lightning.callbacks import rollout_video
from wm_lightning.callbacks.rollout_video import RolloutVideo, evaluating, side_by_side
from wm_lightning.data.formats.video_files import decode


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def pictures(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "rollouts").iterdir())


def test_a_picture_before_the_first_step_and_after_every_validation(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: dict[int, list[str]] = {}

    def look(self: RolloutVideo, trainer: Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        there[batch_idx] = pictures(tmp_path / "run")

    monkeypatch.setattr(RolloutVideo, "on_train_batch_start", look, raising=False)
    tiny_teacher(tmp_path, "logger=tensorboard", cache=cache)
    first = ["iteration_000000_simulated.mp4", "iteration_000000_simulated.png"]
    assert there == {0: first, 1: first}
    last = ["iteration_000002_simulated.mp4", "iteration_000002_simulated.png"]
    assert pictures(tmp_path / "run") == first + last
    shown = decode(tmp_path / "run/rollouts" / last[0], "pyav")
    assert len(shown) == 7 and len(np.unique(shown[0].reshape(-1, 3), axis=0)) > 3
    events = EventAccumulator(str(tmp_path / "run/tensorboard"), size_guidance={"images": 0})
    events.Reload()
    images = events.Images("rollout/simulated-worldmap")
    assert [image.step for image in images] == [0, 2]
    with Image.open(tmp_path / "run/rollouts" / last[1]) as picture:
        assert (images[-1].width, images[-1].height) == picture.size


def test_the_csv_logger_is_given_numbers_only(cache: Path, tmp_path: Path) -> None:
    tiny_teacher(tmp_path, "logger=csv", cache=cache)
    [metrics] = (tmp_path / "run/csv").rglob("metrics.csv")
    assert "rollout" not in metrics.read_text() and "val/psnr" in metrics.read_text()


@pytest.mark.slow
def test_wandb_offline_gets_the_mp4(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb = pytest.importorskip("wandb")
    try:
        tiny_teacher(tmp_path, "logger=wandb", cache=cache)
    finally:
        wandb.finish()
    logged = sorted((tmp_path / "run/wandb").glob("offline-run-*/files/media/videos/rollout/*.mp4"))
    assert [len(decode(path, "pyav")) for path in logged] == [7, 7]
    written = {path.read_bytes() for path in (tmp_path / "run/rollouts").glob("*.mp4")}
    assert {path.read_bytes() for path in logged} == written


def test_training_ends_in_the_same_weights_with_and_without(cache: Path, tmp_path: Path) -> None:
    _, shown = tiny_teacher(tmp_path / "shown", cache=cache)
    _, hidden = tiny_teacher(tmp_path / "hidden", "callbacks.rollout_video=null", cache=cache)
    assert pictures(tmp_path / "shown/run") and not (tmp_path / "hidden/run/rollouts").exists()
    for name, value in hidden.state_dict().items():
        assert torch.equal(value, shown.state_dict()[name]), name


def random_states() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002


def test_random_numbers_modes_and_gradients_stay(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before_and_after: list[tuple[Any, Any]] = []

    def state(module: LightningModule) -> tuple[Any, ...]:
        modes = [part.training for part in module.modules()]
        grads = [parameter.requires_grad for parameter in module.parameters()]
        return random_states(), modes, grads, [parameter.grad is None for parameter in module.parameters()]

    show, made_by = RolloutVideo.show, rollout_video.made_by

    def watched(self: RolloutVideo, trainer: Trainer, module: LightningModule) -> None:
        before = state(module)
        show(self, trainer, module)
        before_and_after.append((before, state(module)))

    def careless(module: Any, clip: Any) -> Any:
        # What a network with hidden randomness would do.
        torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
        return made_by(module, clip)

    monkeypatch.setattr(RolloutVideo, "show", watched)
    monkeypatch.setattr(rollout_video, "made_by", careless)
    tiny_teacher(tmp_path, cache=cache)
    assert len(before_and_after) == 2
    for before, after in before_and_after:
        assert before == after


def test_evaluating_restores_the_mode_of_every_part() -> None:
    network = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Linear(1, 1)))
    network[1].eval()
    modes = [part.training for part in network.modules()]
    with pytest.raises(RuntimeError, match="stop"), evaluating(network):
        assert not any(part.training for part in network.modules())
        raise RuntimeError("stop")
    assert [part.training for part in network.modules()] == modes


def test_films_stand_above_each_other_and_clips_beside() -> None:
    videos = [torch.full((3, 5, 3, 4, 6), value, dtype=torch.uint8) for value in (10, 20)]
    videos[1][2] = 30
    video = side_by_side(videos)
    assert video.shape == (5, 3, 4 + 1 + 4, 6 + 1 + 6 + 1 + 6)
    assert (video[..., :4, :6] == 10).all() and (video[..., 5:, 7:13] == 20).all() and (video[..., 5:, 14:] == 30).all()
    assert (video[..., 4, :] == 255).all() and (video[..., :, 6] == 255).all()


@pytest.mark.parametrize("key", ["clips", "columns", "side", "fps"])
def test_settings_below_one_are_refused(key: str, tmp_path: Path) -> None:
    settings = {"clips": 1, "columns": 1, "side": 1, "fps": 1, key: 0}
    with pytest.raises(ValueError, match=rf"callbacks\.rollout_video\.{key}=0"):
        RolloutVideo(run_dir=str(tmp_path), **settings)
