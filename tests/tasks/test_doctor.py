"""What `task=doctor` says of sound, broken and misaligned recordings."""

import os
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig

from wm_lightning.config import compose
from wm_lightning.data.formats.mp4_npz import COLUMNS, EpisodeFiles, write_episode
from wm_lightning.data.formats.video_files import Encoding, decode, encode
from wm_lightning.tasks.doctor import Doctor, opened
from wm_lightning.tasks.doctor_command import command
from wm_lightning.tasks.doctor_look import read_tables, sample

FRAMES = 24
BOUNDS = (
    "+data.bounds.arm={world_vector: 1.0, rotation_delta: 1.0, gripper_closedness_action: 1.0, "
    "base_displacement_vector: 1.0, base_displacement_vertical_rotation: 1.0}"
)


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


def test_recordings_that_are_only_simulated_are_not_looked_at(tmp_path: Path) -> None:
    config = compose(["task=doctor", "data=rt1", f"cache_dir={tmp_path}", f"run_dir={tmp_path / 'run'}"])
    with pytest.raises(ValueError, match=r"doom.*data.root=PATH"):
        Doctor(decoded=2)(config)
    assert Doctor(decoded=2).data(config, experiment=True) == {}
    with pytest.raises(ValueError, match="task.decoded=0"):
        Doctor(decoded=0)


def test_an_episode_that_serves_two_splits_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_set(tmp_path / "set", 8)
    test = root / "arm/test"
    test.mkdir()
    for suffix in ("mp4", "npz"):
        shutil.copy(root / f"arm/train/000000003.{suffix}", test / f"000000090.{suffix}")
    with pytest.raises(ValueError, match=r"episode 000000090 \(test\) is the same as 000000003 \((train|val)\)"):
        Doctor(decoded=1)(config_of(root, tmp_path))  # neither of the two need be drawn
    # The same recording, coded again: other pixels, which a training does not tell.
    video = decode(test / "000000090.mp4", "pyav")
    encode(test / "000000090.mp4", video, Encoding(fps=20, crf=30, preset="veryfast"))
    capsys.readouterr()
    Doctor(decoded=1)(config_of(root, tmp_path))
    assert re.search(r"alike: episode 000000090 \(test\) has the actions of 000000003", capsys.readouterr().out)


def test_what_stands_twice_in_train_is_said_and_refused_only_across_parts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_set(tmp_path / "set", 8)
    folder = root / "arm/train"
    refused = []
    for number in (20, 21):
        for suffix in ("mp4", "npz"):
            shutil.copy(folder / f"000000001.{suffix}", folder / f"{number:09d}.{suffix}")
        capsys.readouterr()
        shares = ["data.val_share=0.3", "data.test_share=0.25", BOUNDS]
        config = config_of(root, tmp_path, f"cache_dir={tmp_path / str(number)}", *shares)
        data = opened(config)
        try:
            data.prepare_data()
            refused.append(False)
            Doctor(decoded=None)(config)
            assert "is the same as 000000001" in capsys.readouterr().out
        except ValueError as error:
            assert "is the same as" in str(error)
            refused.append(True)
            with pytest.raises(ValueError, match="is the same as"):
                Doctor(decoded=None)(config)
        for suffix in ("mp4", "npz"):
            (folder / f"{number:09d}.{suffix}").unlink()
    assert refused == [True, False], "as names have it"


def damaged(root: Path, *numbers: int) -> Path:
    for number in numbers:
        path = root / f"arm/train/{number:09d}.mp4"
        path.write_bytes(path.read_bytes()[:-200])
    return root


def test_what_cannot_be_decoded_is_counted_and_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = damaged(write_set(tmp_path / "set", 8), 5)
    with pytest.raises(ValueError, match=r"(?s)train: 1 unusable, 0 allowed.*000000005\.mp4: cannot be decoded"):
        Doctor(decoded=None)(config_of(root, tmp_path))
    assert "8 of 8" in capsys.readouterr().out
    allowed = config_of(root, tmp_path, "data.max_bad_share=0.2")
    assert Doctor(decoded=None)(allowed)["episodes"] == 7


def test_a_sample_is_drawn_over_the_whole_set_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(write_set(tmp_path / "set", 12), tmp_path)
    findings = read_tables(opened(config))
    drawn = [episode for _, episode in sample(findings, 5)]
    assert len(set(drawn)) == 5 and max(drawn) > 6 and drawn == [episode for _, episode in sample(findings, 5)]
    assert len(sample(findings, None)) == len(sample(findings, 12)) == 12
    Doctor(decoded=5)(config)
    assert "5 of 12 episodes were decoded" in capsys.readouterr().out


def test_a_sample_with_more_damage_than_the_bound_explains_is_refused(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", 40)
    config = config_of(root, tmp_path, "data.max_bad_share=0.1")  # four of forty are allowed
    drawn = [episode for _, episode in sample(read_tables(opened(config)), 8)]
    damaged(root, *drawn[:1])
    Doctor(decoded=8)(config)
    damaged(root, *drawn[1:4])
    with pytest.raises(ValueError, match=r"4 of 8 episodes drawn could not be decoded.*task.decoded=null"):
        Doctor(decoded=8)(config_of(root, tmp_path, "data.max_bad_share=0.1"))


def test_the_command_keeps_every_word_that_was_given() -> None:
    words = [
        "task=doctor", "task.decoded=3", "data=rt1", "data.root=here", "+data.bounds.arm={world_vector: 0.5}",
        "++data.subset=arm", "size=debug", "run_dir=x", "data.frames=31", "cache_dir=c",
    ]  # fmt: skip
    said = shlex.split(command(words, "here", {"data.frames": 22, "+data.x": {"a": 1.0}}))
    assert said == [
        "python", "run.py", "experiment=teacher", "data=rt1", f"data.root={Path('here').resolve()}",
        "+data.bounds.arm={world_vector: 0.5}", "++data.subset=arm", "size=debug", "cache_dir=c", "data.frames=22",
        "+data.x={a: 1.0}",
    ]  # fmt: skip
    assert "experiment=teacher" not in command([*words, "experiment=dmd_framewise"], "here", {})


def test_actions_of_other_episodes_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_set(tmp_path / "set", 24)
    files = sorted((root / "arm/train").glob("*.npz"))
    tables = [path.read_bytes() for path in files]
    for path, table in zip(files, [*tables[5:], *tables[:5]], strict=True):
        path.write_bytes(table)
    with pytest.raises(ValueError, match="motion of other episodes as well as with that of their own"):
        Doctor(decoded=None)(config_of(root, tmp_path))
    Doctor(decoded=7)(config_of(root, tmp_path))  # too few to refuse
    assert "warning: cannot be told" in capsys.readouterr().out


@pytest.mark.skipif("WM_REAL_DATA" not in os.environ, reason="WM_REAL_DATA names no folder of real recordings")
@pytest.mark.parametrize(("folder", "subset"), [("oxe_mp4", "bridge"), ("rlds", "bridge_dataset")])
def test_real_robots_answer_one_frame_late(
    folder: str, subset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(os.environ["WM_REAL_DATA"]) / folder
    if not (root / subset).is_dir():
        pytest.skip(f"{root / subset} is not there")
    data = ["data=rt1", f"data.root={root}", f"data.subset={subset}", "data.val_share=0.1"]
    Doctor(decoded=None)(compose([*data, f"cache_dir={tmp_path}", f"run_dir={tmp_path}"]))
    assert "peak +1: actions come before the motion" in capsys.readouterr().out


def test_both_maps_end_in_the_command_that_trains_on_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["data.world.map_tiles=8", "data.world.maps={train: 3, val: 2, test: 2}", "data.world.length=20"]
    small += ["data.world.walks={train: 40, val: 30, test: 30}", f"cache_dir={tmp_path}"]
    config = compose(["data=worldmap", *small])
    assert Doctor(decoded=1)(config) == {"episodes": 100.0, "frames": 2000.0}
    said = capsys.readouterr().out
    assert "no map serves two splits" in said and said.rstrip().endswith("python run.py experiment=teacher")
    root = next(tmp_path.glob("simulated-worldmap-*"))
    shutil.copy(root / "maps/0000.png", root / "maps/0005.png")  # a map of train and one of test
    with pytest.raises(ValueError, match=r"0005\.png \(test\) is the same picture as 0000\.png \(train\)"):
        Doctor(decoded=1)(compose(["data=worldmap", *small, f"data.root={root}"]))

    config = compose(["data=map_image", f"cache_dir={tmp_path}", "data.walks={train: 9, val: 4, test: 4}"])
    assert Doctor(decoded=1)(config)["episodes"] == 17
    said = capsys.readouterr().out
    assert "no pixel serves two splits" in said and "python run.py experiment=worldgen_flow" in said
    root = next(tmp_path.glob("simulated-mapimage-*"))
    words = ["data=map_image", f"data.root={root}", "data.walks={train: 9, val: 4, test: 4}"]
    instantiate(compose(["experiment=worldgen_flow", *words]).data, _convert_="all").prepare_data()
    shutil.copy(root / "world_map.png", root / "unseen_map.png")
    with pytest.raises(ValueError, match=r"unseen_map\.png is the same picture"):
        Doctor(decoded=1)(compose(words))
