"""What `task=doctor` says of sound, broken and misaligned recordings."""

import shlex
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig

from wm_lightning.config import compose
from wm_lightning.data.formats.mp4_npz import COLUMNS, EpisodeFiles, write_episode
from wm_lightning.data.formats.video_files import Encoding
from wm_lightning.tasks.doctor import Doctor, opened

FRAMES = 24


def write_set(root: Path, episodes: int, *, late: int = 0, size: float = 0.04) -> Path:
    """Episodes whose picture moves by the size of the action stored `late` frames before."""
    for number in range(episodes):
        source = np.random.default_rng(number)
        actions = np.zeros((FRAMES, COLUMNS), np.float32)
        actions[:, 0] = size * source.uniform(-1, 1, FRAMES)
        moved = np.abs(np.roll(actions[:, 0], late))[:-1]
        place = np.concatenate([[0], np.cumsum(moved)])[:, None, None]
        across = np.linspace(0, 1, 64)[None, None, :]
        grey = 127 + 120 * np.sin(2 * np.pi * (across + place / size / 12)) * np.ones((1, 64, 1))
        video = np.repeat(grey[..., None], 3, -1).astype(np.uint8)
        folder = root / "arm/train"
        folder.mkdir(parents=True, exist_ok=True)
        files = EpisodeFiles.of(folder, f"{number:09d}")
        write_episode(files, video, actions, {}, Encoding(fps=20, crf=10, preset="veryfast"))
    return root


def config_of(root: Path, tmp_path: Path, *words: str) -> DictConfig:
    data = ["data=rt1", f"data.root={root}", "data.subset=arm", f"cache_dir={tmp_path / 'cache'}"]
    return compose(["task=doctor", *data, f"run_dir={tmp_path / 'run'}", *words])


def test_a_sound_set_ends_in_the_command_that_trains_on_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(write_set(tmp_path / "set", 8), tmp_path)
    found = Doctor(decoded=8)(config)
    assert found == {"episodes": 8.0, "frames": 8.0 * FRAMES}
    said = capsys.readouterr().out
    assert "peak +0" in said and "world_vector_x" in said
    words = shlex.split(said[said.index("python run.py") :])
    # The bounds are those of the actions, rounded up; the fields that never move get 1.
    (bounds,) = (word for word in words if word.startswith("+data.bounds.arm="))
    assert "world_vector: 0.04," in bounds and "rotation_delta: 1.0" in bounds
    assert "data.val_share=0.25" in words, "one episode of eight is too few to validate on"
    assert not (tmp_path / "cache").exists(), "looking decodes nothing into the cache"
    given = ["data=rt1", f"data.root={tmp_path / 'set'}", "data.subset=arm"]  # a command line's own words are kept
    opened(compose([*given, *words[2:], f"cache_dir={tmp_path / 'cache'}"])).prepare_data()


@pytest.mark.parametrize("late", [-2, -1, 3])
def test_actions_that_do_not_come_before_the_motion_are_refused(tmp_path: Path, late: int) -> None:
    config = config_of(write_set(tmp_path / "set", 6, late=late), tmp_path)
    with pytest.raises(ValueError, match=rf"best at a lag of {late} frames"):
        Doctor(decoded=6)(config)


@pytest.mark.parametrize("late", [0, 1, 2])
def test_actions_answered_up_to_two_frames_late_pass(tmp_path: Path, late: int) -> None:
    Doctor(decoded=6)(config_of(write_set(tmp_path / "set", 6, late=late), tmp_path))


def test_a_broken_set_is_refused_with_the_first_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_set(tmp_path / "set", 6)
    (root / "arm/train/000000002.npz").unlink()
    with pytest.raises(ValueError, match=r"(?s)train: 1 unusable, 0 allowed.*000000002\.mp4: has no 000000002\.npz"):
        Doctor(decoded=2)(config_of(root, tmp_path))
    assert "000000002" in capsys.readouterr().out
    allowed = config_of(root, tmp_path, "data.on_error=quarantine", "data.max_bad_share=0.2")
    assert Doctor(decoded=2)(allowed)["episodes"] == 5


def test_a_set_without_a_readable_episode_is_refused(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", 2)
    for path in (root / "arm/train").glob("*.npz"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"no episode can be read.*cannot be read as npz"):
        Doctor(decoded=2)(config_of(root, tmp_path))


def test_clips_are_cut_to_whole_chunks_of_the_longest_episode(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Doctor(decoded=2)(config_of(write_set(tmp_path / "set", 8), tmp_path, "data.frames=31"))
    said = capsys.readouterr().out
    # 24 frames hold one given frame and seven chunks of three.
    assert "data.frames=22 data.val_frames=22 metrics.horizon=21" in said and "data.frames=31" not in said


def test_a_simulated_world_has_nothing_to_look_at(tmp_path: Path) -> None:
    config = compose(["task=doctor", "data=worldmap", f"cache_dir={tmp_path}", f"run_dir={tmp_path / 'run'}"])
    with pytest.raises(ValueError, match="data.root=PATH"):
        Doctor(decoded=2)(config)
