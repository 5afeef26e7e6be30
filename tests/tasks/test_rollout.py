"""task=rollout: what it writes, that longer than trained is legal, and what it refuses."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from PIL import Image

from tests.tiny_run import tiny, tiny_teacher
from wm_lightning.data.formats.video_files import decode
from wm_lightning.tasks.build import build_data


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    torch.set_num_threads(1)
    tiny_teacher(folder)
    return folder


def asked(trained: Path, run: Path, *words: str) -> DictConfig:
    task = ["task=rollout", "task.count=2", "sampler.steps.steps=2", "module.sampler.steps.steps=2", *words]
    config = tiny(trained, "experiment=teacher", *task)
    config.ckpt_path = str(trained / "run/checkpoints/last.ckpt")
    config.run_dir = str(run)
    return config


def frames_of(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_writes_videos_pictures_and_the_actions_that_drove_them(trained: Path, tmp_path: Path) -> None:
    config = asked(trained, tmp_path, "task.frames=12")
    measured = instantiate(config.task)(config)
    folder = tmp_path / "rollouts"
    assert sorted(path.name for path in folder.iterdir()) == [
        "actions_simulated.npz", "clip_000_simulated.mp4", "clip_001_simulated.mp4",
        "clips_simulated.gif", "clips_simulated.png",
    ]  # fmt: skip
    assert measured["frames"] == 2 * 11 and measured["fps"] > 0
    assert decode(folder / "clip_000_simulated.mp4", "pyav").shape == (12, 240, 240, 3)
    with Image.open(folder / "clips_simulated.gif") as gif:
        assert gif.n_frames == 12  # type: ignore[attr-defined]
    with np.load(folder / "actions_simulated.npz", allow_pickle=False) as stored:
        clip = next(build_data(config).clips("test", 2, 12, 2))
        assert np.array_equal(stored["actions"], clip.condition.actions.numpy())
        assert np.array_equal(stored["state"], clip.condition.state.numpy())
        assert len(stored["names"]) == stored["actions"].shape[-1]


def test_longer_than_the_training_clips(trained: Path, tmp_path: Path) -> None:
    config = asked(trained, tmp_path, "task.frames=20", "rollout.window=6")
    assert config.data.frames < 20 and config.rollout.window < 20
    instantiate(config.task)(config)
    assert frames_of(tmp_path / "rollouts/clip_001_simulated.mp4") == 20


def test_fewer_steps_are_an_override(trained: Path, tmp_path: Path) -> None:
    videos = {}
    for steps in ("null", "2", "1"):
        config = asked(trained, tmp_path / steps, "task.frames=7", f"task.steps={steps}")
        instantiate(config.task)(config)
        videos[steps] = decode(tmp_path / steps / "rollouts/clip_000_simulated.mp4", "pyav")
    assert np.array_equal(videos["null"], videos["2"])
    assert not np.array_equal(videos["2"], videos["1"])


def started(trained: Path, run: Path, images: Path, *words: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The first video that is made from a folder of pictures, and what the actions' file holds."""
    config = asked(trained, run, "task.frames=7", f"task.images={images}", *words)
    instantiate(config.task)(config)
    with np.load(run / "rollouts/actions_simulated.npz", allow_pickle=False) as stored:
        actions = dict(stored)
    return decode(run / "rollouts/clip_000_simulated.mp4", "pyav"), actions


def test_pictures_of_a_folder_are_starts(trained: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name, colour in (("one.png", (220, 30, 30)), ("two.png", (30, 30, 220)), ("three.jpg", (30, 220, 30))):
        Image.new("RGB", (90, 60), colour).save(images / name)
    (images / "readme.txt").write_text("x")
    video, driven = started(trained, tmp_path / "clips", images)
    files = sorted(path.name for path in (tmp_path / "clips/rollouts").iterdir())
    assert files == [
        "actions_simulated.npz", "clip_000_simulated.mp4", "clip_001_simulated.mp4", "clip_002_simulated.mp4",
        "clips_simulated.gif", "clips_simulated.png",
    ]  # fmt: skip
    assert video.shape == (7, 240, 240, 3) and np.abs(video[0].mean((0, 1)) - [220, 30, 30]).max() < 8
    config = asked(trained, tmp_path)
    clip = next(build_data(config).clips("test", 3, 7, 3))
    assert np.array_equal(driven["actions"][:, 1:], clip.condition.actions[:, 1:].numpy())
    assert (driven["state"][:, 0] == 1).all() and driven["images"].tolist() == ["one.png", "three.jpg", "two.png"]

    name = str(driven["names"][1])
    _, held = started(trained, tmp_path / "held", images, f"task.action={{{name}: 1.0, stay: 0}}")
    assert (held["actions"][:, 1:, 1] == 1).all() and held["actions"][:, 1:].sum() == 3 * 6


def test_an_action_without_pictures_and_a_broken_picture_are_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"name their folder with task\.images=FOLDER"):
        config = asked(trained, tmp_path / "run", "task.action={x: 1.0}")
        instantiate(config.task)(config)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"broken\.png: a picture cannot be decoded"):
        started(trained, tmp_path / "run", tmp_path)
    assert not (tmp_path / "run/rollouts").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["task.frames=1"], r"task\.frames=1 leaves nothing to make after 1 given"),
        (["task.frames=21"], "no episode has 21 frames"),
        (["module.context=0"], "given frames=0: the teacher was trained with 1 clean frames"),
        (["network.dim=48"], r"network\.dim: 24 against 48"),
        (["data.first_action=none"], "first_action: 'stored' against 'none'"),
        (["rollout.mask.chunk=5"], r"chunkwise \(5\)"),
    ],
)
def test_what_cannot_be_made_is_refused(trained: Path, tmp_path: Path, words: list[str], said: str) -> None:
    config = asked(trained, tmp_path)
    for word in words:
        config.merge_with_dotlist([word])
    with pytest.raises(ValueError, match=said):
        instantiate(config.task)(config)
    assert not (tmp_path / "rollouts").exists()


def test_a_checkpoint_must_be_named(trained: Path, tmp_path: Path) -> None:
    config = asked(trained, tmp_path)
    config.ckpt_path = None
    with pytest.raises(ValueError, match="ckpt_path=null: name the checkpoint"):
        instantiate(config.task)(config)
