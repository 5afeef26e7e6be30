"""NWM's lists of clips choose the test windows, and its way of feeding a rollout's actions is the one it has."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate

from tests.data.making import moving_picture
from wm_lightning.config import compose
from wm_lightning.data.formats.nwm import IndexEntry, NWMReader, nwm_steps, read_index
from wm_lightning.data.formats.recon import HIGH, LOW, SPACING, planar_actions, write_recon_folder
from wm_lightning.data.formats.video_files import BadFile
from wm_lightning.data.recon import RECONDataModule

LENGTH = 14


def straight(frames: int, spacings: float) -> np.ndarray:
    """Actions of a robot that drives `spacings` waypoint spacings a frame."""
    position = np.zeros((frames, 2))
    position[:, 0] = spacings * SPACING * np.arange(frames)
    return planar_actions(position, np.zeros(frames))[:-1]


def published(position: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """NWM's evaluation by its formulas: waypoints seen from the first pose, normalised, then differenced."""
    offset = position[1:] - position[0]
    cos, sin = np.cos(yaw[0]), np.sin(yaw[0])
    local = offset @ np.array([[cos, -sin], [sin, cos]])
    scaled = 2 * (local / SPACING - LOW) / (HIGH - LOW) - 1
    return np.diff(np.concatenate([np.zeros((1, 2)), scaled]), axis=0)


def test_driving_straight_the_first_step_is_fed_as_trained_and_every_later_one_a_third_above() -> None:
    trained, fed = straight(6, 1.0), nwm_steps(straight(6, 1.0))
    np.testing.assert_allclose(trained[:, 0], -1 / 15, atol=1e-6)
    assert fed[0, 0] == pytest.approx(-0.067, abs=5e-4)
    np.testing.assert_allclose(fed[1:, 0], 0.267, atol=5e-4)
    np.testing.assert_allclose(fed[1:, 0] - trained[1:, 0], 1 / 3, atol=1e-6)
    np.testing.assert_allclose(fed[:, 1:], 0, atol=1e-6)


def test_steps_on_a_curve_are_those_of_the_published_formulas() -> None:
    yaw = 3.0 + np.cumsum(np.random.default_rng(0).uniform(-0.3, 0.3, 9))  # passes pi
    position = np.cumsum(0.1 * np.stack([np.cos(yaw), np.sin(yaw)], 1), axis=0)
    fed = nwm_steps(planar_actions(position, (yaw + np.pi) % (2 * np.pi) - np.pi)[:-1])
    np.testing.assert_allclose(fed[:, :2], published(position, yaw), atol=1e-5)
    np.testing.assert_allclose(fed[:, 2], np.diff(yaw), atol=1e-5)


# -- Lists ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["pickle", "array", "json"])
def test_a_list_is_read_in_its_order(tmp_path: Path, form: str) -> None:
    plain = [("jackal_b", 7, -64, 64), ("jackal_a", 3, 0, 8)]
    path = tmp_path / ("time.json" if form == "json" else "time.pkl")
    numpy_ints = [(name, *(np.int64(value) for value in rest)) for name, *rest in plain]
    contents = {"pickle": pickle.dumps(plain), "array": pickle.dumps(numpy_ints), "json": json.dumps(plain).encode()}
    path.write_bytes(contents[form])
    assert read_index(path) == (IndexEntry("jackal_b", 7, -64, 64), IndexEntry("jackal_a", 3, 0, 8))
    assert read_index(path)[0].start(context=4) == 4


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "holds no list"),
        ({"a": 1}, "holds no list"),
        ([("a", 1, 2)], r"entry 0 is \('a', 1, 2\)"),
        ([("a", 1, 0, 2), ("a", 1.5, 0, 2)], "entry 1 is"),
        ([("a", -1, 0, 2)], "entry 0 is"),
        ([("a", 1, 3, 2)], "entry 0 is"),
        (np.float64, "neither an array nor a plain value"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path: Path, content: object, said: str) -> None:
    (tmp_path / "time.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(BadFile, match=rf"time\.pkl: .*{said}"):
        read_index(tmp_path / "time.pkl")
    with pytest.raises(BadFile, match="none.pkl: is not there"):
        read_index(tmp_path / "none.pkl")


# -- In the DataModule ------------------------------------------------------------------------------------------------


def recordings(folder: Path) -> Path:
    """Trajectories a to h driving straight at the waypoint spacing, and NWM's folders of lists."""
    names = "abcdefgh"
    for seed, name in enumerate(names):
        position = np.stack([SPACING * np.arange(LENGTH), np.zeros(LENGTH)], 1)
        write_recon_folder(folder / "data" / name, moving_picture(LENGTH, seed), position, np.zeros(LENGTH))
    for split, part in (("train", names[:5]), ("test", names[5:])):
        (folder / "splits" / split).mkdir(parents=True)
        (folder / "splits" / split / "traj_names.txt").write_text("\n".join(part))
    return folder


def opened(folder: Path, entries: list[tuple], **changes: Any) -> RECONDataModule:
    path = folder / "splits/test/time.pkl"
    path.write_bytes(pickle.dumps(entries))
    words = {"root": folder / "data", "subset": "jackals", "lists": folder / "splits", "index": path, "context": 3}
    words |= {"frames": 6, "val_frames": 6, "val_clips": 2, "val_share": 0.2} | changes
    config = compose(["data=recon", f"cache_dir={folder / 'cache'}", *(f"data.{k}={v}" for k, v in words.items())])
    data: RECONDataModule = instantiate(config.data, _convert_="all")
    data.prepare_data()
    return data


def test_the_test_clips_are_those_of_the_list(tmp_path: Path) -> None:
    data = opened(recordings(tmp_path), [("h", 8, -8, 5), ("f", 2, -2, 8), ("h", 4, -4, 4)])
    windows = data._fixed("test", 3, 6)
    reader = data.reader("test")
    assert [(reader.name(w.episode), w.start, w.index) for w in windows] == [("h", 6, 0), ("f", 0, 1), ("h", 2, 2)]  # type: ignore[attr-defined]
    (clip,) = data.clips("test", 2, 6, 4)
    assert len(clip) == 2, "the first entries where fewer are asked for"
    whole = data.reader("test").read(windows[0].episode, 0, LENGTH).video
    np.testing.assert_array_equal(clip.video[0].numpy(), whole[6:12])
    assert {w.episode for w in data._fixed("val", 2, 6)} != {w.episode for w in windows}
    assert len(data.manifest["index"]) == 64 and data.manifest["nwm_compat"] is False


def test_actions_are_fed_as_nwm_does_from_the_present_on(tmp_path: Path) -> None:
    folder = recordings(tmp_path)
    (usual,) = opened(folder, [("f", 5, 0, 6)]).clips("test", 1, 8, 1)
    (shifted,) = opened(folder, [("f", 5, 0, 6)], nwm_compat=True).clips("test", 1, 8, 1)
    np.testing.assert_allclose(usual.condition.actions[0, :, 0], -1 / 15, atol=1e-5)
    # Three given frames, of which the last is the present; the next is the first that is predicted.
    expected = [-1 / 15] * 3 + [-1 / 15] + [4 / 15] * 4
    np.testing.assert_allclose(shifted.condition.actions[0, :, 0], expected, atol=1e-5)
    assert (shifted.condition.state == usual.condition.state).all() and (shifted.video == usual.video).all()
    with pytest.raises(ValueError, match=r"data\.action_shift=0: NWM's step leads to the next frame"):
        opened(folder, [("f", 5, 0, 6)], nwm_compat=True, action_shift=0)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (("a", 5, 0, 6), r"entry 1 \(a, 5\) is of no test recording"),
        (("f", 1, 0, 6), rf"entry 1 \(f, 1\) needs frames -1\.\.4 of {LENGTH}"),
        (("f", 12, 0, 6), rf"entry 1 \(f, 12\) needs frames 10\.\.15 of {LENGTH}; lower metrics.horizon"),
    ],
)
def test_an_entry_that_does_not_fit_the_recordings_is_named(tmp_path: Path, entry: tuple, said: str) -> None:
    data = opened(recordings(tmp_path), [("f", 5, 0, 6), entry])
    with pytest.raises(BadFile, match=rf"time\.pkl: {said}"):
        next(data.clips("test", 2, 6, 2))


def test_a_window_of_given_frames_alone_is_left_as_it_is(tmp_path: Path) -> None:
    data = opened(recordings(tmp_path), [("f", 5, 0, 6)], nwm_compat=True)
    reader = data.reader("test")
    assert isinstance(reader, NWMReader)
    np.testing.assert_allclose(reader.read(0, 4, 7).actions[:, 0], -1 / 15, atol=1e-5)
