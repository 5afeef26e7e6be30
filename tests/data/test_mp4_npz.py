import wm_lightning  # noqa: F401, I001  (before lightning: it makes a CPU torch and torchvision agree)

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wm_lightning.clip import ActionState
from wm_lightning.data.formats import video_files
from wm_lightning.data.formats.frame_store import BadBudget, FrameStore
from wm_lightning.data.formats.mp4_npz import (
    COLUMNS,
    EpisodeFiles,
    Mp4NpzSource,
    find_episodes,
    read_actions,
    read_episode,
    write_episode,
)
from wm_lightning.data.formats.resize import Resize, scaled
from wm_lightning.data.formats.robot_actions import columns, spec_of
from wm_lightning.data.formats.store_reader import StoreReader, build_store, check_actions
from wm_lightning.data.formats.video_files import BadFile, Encoding, decode

FIELD_BOUNDS = {
    "world_vector": 1.0,
    "rotation_delta": 1.0,
    "gripper_closedness_action": 1.0,
    "base_displacement_vector": 1.0,
    "base_displacement_vertical_rotation": 1.0,
}
SPEC = spec_of("oxe10", FIELD_BOUNDS)
SMALL = Resize("squash", 16, 16)
ENCODING = Encoding(fps=20, crf=10, preset="veryfast")


def make_episode(folder: Path, number: int, frames: int = 8, *, actions: int | None = None) -> EpisodeFiles:
    """A smooth moving gradient; action k holds k / 100 in its first column."""
    folder.mkdir(parents=True, exist_ok=True)
    files = EpisodeFiles.of(folder, f"{number:09d}")
    columns, rows = np.meshgrid(np.arange(32), np.arange(32))
    video = np.stack([np.stack([4 * columns + 8 * f, 4 * rows, 0 * rows + 20 * number], -1) for f in range(frames)])
    table = np.zeros((frames, COLUMNS), np.float32)
    table[:, 0] = np.arange(frames) / 100
    table[:, 1] = number / 10
    write_episode(files, video.astype(np.uint8), table, {}, ENCODING)
    if actions is not None:
        np.savez(files.actions, np.resize(table, (actions, COLUMNS)))
    return files


def source(folder: Path, *, trim_tail: bool = False) -> Mp4NpzSource:
    return Mp4NpzSource(folder, decoder="pyav", trim_tail=trim_tail)


def build(folder: Path, place: Path, *, allowed: int = 0, trim_tail: bool = False) -> FrameStore:
    episodes = source(folder, trim_tail=trim_tail)
    plan = check_actions(episodes)
    build_store(place, episodes, plan, SMALL, allowed=allowed, workers=2, report=lambda steps: None)
    return FrameStore(place)


def reader_of(store: FrameStore, *, action_shift: int = 1) -> StoreReader:
    return StoreReader(store, columns=columns("oxe10"), spec=SPEC, action_shift=action_shift)


def zero_last_frames(files: EpisodeFiles) -> None:
    """Zeros where the last pictures stand; every header stays right."""
    content = bytearray(files.video.read_bytes())
    end = content.index(b"moov") - 4
    content[end - 60 : end] = bytes(60)
    files.video.write_bytes(content)


def cut(share: float) -> Callable[[EpisodeFiles], None]:
    def damage(files: EpisodeFiles) -> None:
        content = files.video.read_bytes()
        files.video.write_bytes(content[: int(share * len(content))])

    return damage


def store_actions(array: np.ndarray, **names: np.ndarray) -> Callable[[EpisodeFiles], None]:
    return lambda files: np.savez(files.actions, *([array] if not names else []), **names)


NAN = np.full((8, COLUMNS), np.nan, np.float32)
INFINITE = np.where(np.eye(8, COLUMNS) > 0, np.inf, 0).astype(np.float32)
FAULTS: dict[str, tuple[Callable[[EpisodeFiles], object], str]] = {
    "no npz": (lambda files: files.actions.unlink(), "no 000000001.npz beside it"),
    "no mp4": (lambda files: files.video.unlink(), "no 000000001.mp4 beside it"),
    "longer actions": (store_actions(np.zeros((10, COLUMNS), np.float32)), "8 frames for 10 actions"),
    "one action less": (store_actions(np.zeros((7, COLUMNS), np.float32)), "8 frames for 7 actions"),
    "NaN": (store_actions(NAN), "not all finite"),
    "infinite": (store_actions(INFINITE), "not all finite"),
    "seven columns": (store_actions(np.zeros((8, 7), np.float32)), r"\[frames, 10\] is expected"),
    "no rows": (store_actions(np.zeros((0, COLUMNS), np.float32)), r"\[frames, 10\] is expected"),
    "other key": (store_actions(NAN, action=NAN), "no array arr_0"),
    "objects": (store_actions(np.array([{"a": 1}, None])), "cannot be read as npz"),
    "npz is text": (lambda files: files.actions.write_text("hello"), "cannot be read as npz"),
    "npz is empty": (lambda files: files.actions.write_bytes(b""), "cannot be read as npz"),
    "half an mp4": (cut(0.5), "truncated or damaged"),
    "nearly all of an mp4": (cut(0.9), "truncated or damaged"),
    "empty mp4": (lambda files: files.video.write_bytes(b""), "cannot be decoded"),
    "damaged mp4": (zero_last_frames, "cannot be decoded|damaged"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_file_is_left_out_and_counted_or_refused(tmp_path: Path, fault: str):
    damage, reason = FAULTS[fault]
    for number in range(3):
        files = make_episode(tmp_path / "train", number)
        if number == 1:
            damage(files)
    before = {path: path.read_bytes() for path in (tmp_path / "train").iterdir()}
    store = build(tmp_path / "train", tmp_path / "store", allowed=1)
    assert store.index.names == ("000000000", "000000002")
    ((path, why),) = store.index.quarantine.items()
    assert "000000001" in path
    with pytest.raises(BadBudget, match=reason):
        build(tmp_path / "train", tmp_path / "other", allowed=0)
    assert why in str(pytest.raises(BadBudget, build, tmp_path / "train", tmp_path / "other", allowed=0).value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store", "train"], "something half-written is left"
    assert before == {path: path.read_bytes() for path in (tmp_path / "train").iterdir()}, "the data were modified"


def test_what_remains_is_what_stood_there_without_the_bad_file(tmp_path: Path):
    for number in range(3):
        make_episode(tmp_path / "train", number, frames=6 + number)
    whole = reader_of(build(tmp_path / "train", tmp_path / "a"))
    EpisodeFiles.of(tmp_path / "train", "000000001").video.write_bytes(b"")
    rest = reader_of(build(tmp_path / "train", tmp_path / "b", allowed=1))
    assert [rest.length(e) for e in range(len(rest))] == [6, 8]
    for mine, theirs in ((0, 0), (1, 2)):
        one, other = rest.read(mine, 0, 6), whole.read(theirs, 0, 6)
        np.testing.assert_array_equal(one.video, other.video)
        np.testing.assert_array_equal(one.actions, other.actions)
        assert rest.digest(mine) == whole.digest(theirs)


@pytest.mark.parametrize("actions", [7, 9])
def test_a_difference_of_one_is_trimmed_where_asked_for(tmp_path: Path, actions: int):
    make_episode(tmp_path / "train", 0, actions=actions)
    store = build(tmp_path / "train", tmp_path / "store", trim_tail=True)
    assert store.index.lengths == (min(8, actions),)
    np.testing.assert_allclose(store.actions[:, 0], np.resize(np.arange(8) / 100, actions)[: store.index.lengths[0]])
    make_episode(tmp_path / "worse", 0, actions=actions + 2 * (1 if actions > 8 else -1))
    with pytest.raises(BadBudget, match="8 frames for"):
        build(tmp_path / "worse", tmp_path / "other", trim_tail=True)


@pytest.mark.parametrize("make", [lambda folder: None, lambda folder: folder.mkdir()])
def test_a_missing_or_empty_folder_is_named(tmp_path: Path, make: Callable):
    make(tmp_path / "train")
    with pytest.raises(ValueError, match=r"train.*NNNNNNNNN.mp4 beside NNNNNNNNN.npz"):
        find_episodes(tmp_path / "train")


def test_an_action_is_read_with_the_frame_it_produced(tmp_path: Path):
    make_episode(tmp_path / "train", 0)
    store = build(tmp_path / "train", tmp_path / "store")
    for shift in (0, 1, 2):
        reader = reader_of(store, action_shift=shift)
        whole, part = reader.read(0, 0, 8), reader.read(0, 3, 6)
        np.testing.assert_allclose(whole.actions[shift:, 0], np.arange(8 - shift) / 100)
        assert (whole.state[:shift] == ActionState.NONE).all() and (whole.state[shift:] == ActionState.GIVEN).all()
        assert not whole.actions[:shift].any()
        np.testing.assert_array_equal(part.video, whole.video[3:6])
        np.testing.assert_array_equal(part.actions, whole.actions[3:6])
        np.testing.assert_array_equal(part.state, whole.state[3:6])


def test_frames_come_back_in_order_and_colour(tmp_path: Path):
    files = make_episode(tmp_path / "train", 2)
    reader = reader_of(build(tmp_path / "train", tmp_path / "store"))
    video = reader.read(0, 0, 8).video.astype(float)
    assert video.shape == (8, 3, 16, 16)
    np.testing.assert_allclose(np.diff(video[:, 0].mean((1, 2))), 8, atol=2)  # red grows by 8 a frame
    np.testing.assert_allclose(video[:, 2].mean(), 40, atol=4)  # blue is constant
    assert np.all(np.diff(video[:, 1].mean((0, 2))) > 0)  # green grows down the picture
    exact = decode(files.video, "pyav").reshape(8, 16, 2, 16, 2, 3).mean((2, 4)).transpose(0, 3, 1, 2)
    assert np.abs(video - exact).max() <= 0.5


def test_both_decoders_give_the_same_frames(tmp_path: Path):
    pytest.importorskip("decord")
    files = make_episode(tmp_path, 0)
    np.testing.assert_array_equal(decode(files.video, "pyav"), decode(files.video, "decord"))
    files.video.write_bytes(b"not a video")
    for decoder in ("pyav", "decord"):
        with pytest.raises(BadFile, match="cannot be decoded"):
            decode(files.video, decoder)


def test_actions_out_of_bounds_are_clipped_and_counted(tmp_path: Path):
    files = make_episode(tmp_path / "train", 0)
    table = np.zeros((8, COLUMNS), np.float32)
    table[2, 0], table[3, 4] = 7, -3
    np.savez(files.actions, table)
    store = build(tmp_path / "train", tmp_path / "store")
    reader = reader_of(store, action_shift=0)
    read = reader.read(0, 0, 8).actions
    assert reader.clipped == 2 and read[2, 0] == 1 and read[3, 4] == -1
    np.testing.assert_array_equal(store.actions, table)  # what is stored is what stood on disk


def test_hidden_state_is_read_by_frame_and_must_be_there_for_all(tmp_path: Path):
    video, table = np.zeros((6, 16, 16, 3), np.uint8), np.zeros((6, COLUMNS), np.float32)
    state = {"gripper": np.arange(12, dtype=np.float32).reshape(6, 2)}
    for number in range(2):
        write_episode(EpisodeFiles.of(tmp_path, f"{number:09d}"), video, table, state, ENCODING)
    reader = reader_of(build(tmp_path, tmp_path / "a"))
    np.testing.assert_array_equal(reader.read(1, 2, 5).truth["gripper"], state["gripper"][2:5])
    with pytest.raises(ValueError, match="lengths differ"):
        write_episode(EpisodeFiles.of(tmp_path, "9"), video, table, {"gripper": state["gripper"][:5]}, ENCODING)
    assert not list(tmp_path.glob("9*"))
    np.savez(EpisodeFiles.of(tmp_path, "000000001").state, other=state["gripper"])
    with pytest.raises(BadBudget, match="other"):
        build(tmp_path, tmp_path / "b")
    EpisodeFiles.of(tmp_path, "000000001").state.unlink()
    with pytest.raises(BadBudget, match="has no 000000001.state.npz, others do"):
        build(tmp_path, tmp_path / "b")


def test_a_writer_that_fails_leaves_the_old_file_and_no_partial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files = make_episode(tmp_path, 0)
    before = files.video.read_bytes()

    class Broken:
        @staticmethod
        def from_ndarray(*args, **kwargs):
            raise OSError("no space left on device")

    monkeypatch.setattr(video_files.av, "VideoFrame", Broken)
    with pytest.raises(OSError, match="no space"):
        video_files.encode(files.video, np.zeros((4, 16, 16, 3), np.uint8), ENCODING)
    assert files.video.read_bytes() == before and not list(tmp_path.glob("*.partial"))


def test_a_store_that_fails_half_way_leaves_nothing(tmp_path: Path):
    make_episode(tmp_path / "train", 0)
    episodes = source(tmp_path / "train")
    plan = check_actions(episodes)

    def stop(steps: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_store(tmp_path / "store", episodes, plan, SMALL, allowed=0, workers=1, report=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["train"]


def test_a_reader_travels_to_workers_without_its_frames(tmp_path: Path):
    for number in range(4):
        make_episode(tmp_path / "train", number, frames=40)
    reader = reader_of(build(tmp_path / "train", tmp_path / "store"))
    expected = reader.read(2, 5, 9)
    packed = pickle.dumps(reader)
    assert len(packed) < reader.store.frames.nbytes / 10
    np.testing.assert_array_equal(pickle.loads(packed).read(2, 5, 9).video, expected.video)  # noqa: S301 (our own bytes)


def test_resizing_is_an_area_mean_that_keeps_flat_colours():
    random = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), dtype=np.uint8)
    small = scaled(random, 8, 12)
    exact = random.reshape(2, 8, 4, 12, 4, 3).mean((2, 4)).transpose(0, 3, 1, 2)
    assert np.abs(small - exact).max() <= 0.5
    flat = np.full((1, 30, 40, 3), 77, np.uint8)
    for size in ((7, 9), (30, 40), (60, 80)):
        assert (scaled(flat, *size) == 77).all()


def test_odd_pictures_and_partial_bounds_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="even"):
        video_files.encode(tmp_path / "a.mp4", np.zeros((2, 15, 16, 3), np.uint8), ENCODING)
    with pytest.raises(ValueError, match="world_vector"):
        spec_of("oxe10", {"world_vector": 1.0})
    assert SPEC.dim == COLUMNS and SPEC.names[:4] == (
        "world_vector_x",
        "world_vector_y",
        "world_vector_z",
        "rotation_delta_x",
    )


def test_actions_of_other_float_types_are_read(tmp_path: Path):
    files = make_episode(tmp_path, 0)
    np.savez(files.actions, np.ones((8, COLUMNS), np.float64))
    actions = read_actions(files)
    assert actions.dtype == np.float32 and (actions == 1).all()
    assert read_episode(files, decoder="pyav", trim_tail=False).actions.shape == (8, COLUMNS)
