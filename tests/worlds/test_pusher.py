import wm_lightning  # noqa: F401, I001  (before lightning: it makes a CPU torch and torchvision agree)

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from wm_lightning.clip import Clip, Condition
from wm_lightning.data.formats.resize import scaled
from wm_lightning.data.formats.mp4_npz import EpisodeFiles, find_episodes, read_episode
from wm_lightning.worlds.pusher import Course, PusherWorld
from wm_lightning.worlds.pusher_dynamics import BLOCK_RADIUS, DISTRACTOR_RADIUS, GOALS, GRIPPER_RADIUS
from wm_lightning.worlds.pusher_measure import look
from wm_lightning.worlds.pusher_policies import POLICIES

MIX = {"scripted": 0.4, "noisy": 0.25, "failing": 0.1, "random": 0.25}


def make_world(**changes) -> PusherWorld:
    settings: dict = dict(seed=0, length=17, episodes=dict(train=6, val=2, test=2), pixels=128, fps=20, crf=20)
    settings |= dict(reach=2.5 / 32, jump=0.042, policies=MIX, workers=1)
    return PusherWorld(**(settings | changes))


def only(policy: str, **changes) -> PusherWorld:
    return make_world(policies={name: float(name == policy) for name in POLICIES}, **changes)


def clip_of(world: PusherWorld, episodes: int) -> Clip:
    """Episodes at 32 x 32, straight from the renderer."""
    course = world.simulate("test", range(episodes))
    video = np.stack([scaled(frames, 32, 32) for frames in world.render(course)])
    return _clip(video, course.actions, course.gripper, course.blocks, course.distractor)


def _clip(video, actions, gripper, blocks, distractor) -> Clip:
    truth = {"gripper": gripper, "blocks": blocks, "distractor": distractor}
    condition = Condition(torch.from_numpy(actions), torch.zeros(actions.shape[:2], dtype=torch.int64))
    hidden = {key: torch.from_numpy(np.asarray(value, np.float32)) for key, value in truth.items()}
    return Clip(torch.from_numpy(video), condition, torch.arange(len(video)), hidden)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pusher")
    make_world().write(folder, lambda episodes: None)
    return folder / "pusher"


def assert_same(one: Course, other: Course) -> None:
    for field in fields(Course):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name), err_msg=field.name)


def test_an_episode_depends_on_the_seed_and_its_number_alone():
    world = make_world()
    together = world.simulate("train", range(9))
    for episode in (0, 4, 8):
        alone = world.simulate("train", range(episode, episode + 1))
        row = Course(**{f.name: getattr(together, f.name)[episode : episode + 1] for f in fields(Course)})
        assert_same(alone, row)
        np.testing.assert_array_equal(world.render(alone), world.render(row))
    assert_same(together, make_world().simulate("train", range(9)))
    for other in (make_world(seed=1).simulate("train", range(9)), world.simulate("test", range(9))):
        assert not np.allclose(together.gripper[:, 0], other.gripper[:, 0])


def test_the_bytes_on_disk_do_not_depend_on_who_writes(tmp_path: Path, written: Path):
    make_world(workers=2).write(tmp_path, lambda episodes: None)
    here, there = sorted(tmp_path.rglob("*.*z*")), sorted(written.rglob("*.*z*"))
    assert [p.relative_to(tmp_path / "pusher") for p in here] == [p.relative_to(written) for p in there]
    for one, other in zip(sorted(tmp_path.rglob("*.mp4")), sorted(written.rglob("*.mp4")), strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_the_layout_is_that_of_the_real_files(written: Path):
    names = {split: {e.name for e in find_episodes(written / split).episodes} for split in ("train", "val", "test")}
    assert {split: len(found) for split, found in names.items()} == {"train": 6, "val": 2, "test": 2}
    assert len(set.union(*names.values())) == 10, "splits share a number"
    assert all(len(name) == 9 and name.isdigit() for found in names.values() for name in found)
    files = EpisodeFiles.of(written / "train", "000000000")
    actions = np.load(files.actions, allow_pickle=False)["arr_0"]
    assert actions.shape == (17, 10) and actions.dtype == np.float32 and not actions[:, 7:].any()
    with np.load(files.state, allow_pickle=False) as state:
        assert all(len(state[key]) == 17 for key in state.files)


def test_what_touches_does_not_overlap_and_stays_on_the_table():
    course = make_world(length=33).simulate("train", range(200))
    bodies = [(course.gripper, GRIPPER_RADIUS), (course.distractor, DISTRACTOR_RADIUS)]
    bodies += [(course.blocks[:, :, number], BLOCK_RADIUS) for number in range(2)]
    for place, radius in bodies:
        assert place.min() >= radius - 1e-9 and place.max() <= 1 - radius + 1e-9
    for first, (one, here) in enumerate(bodies):
        for other, there in bodies[first + 1 :]:
            depth = here + there - np.linalg.norm(one - other, axis=-1)
            # A crowd in a corner may be squeezed; it must stay rare, or colours would hide one another.
            assert (depth > 0.02).mean() < 0.01


def test_actions_stay_in_bounds_and_only_they_move_the_gripper():
    world = make_world(length=33)
    course = world.simulate("train", range(100))
    assert (course.actions >= np.array(world.spec.low, np.float32)).all()
    assert (course.actions <= np.array(world.spec.high, np.float32)).all()
    moved = np.diff(course.gripper, axis=1)
    wanted = world.reach * course.actions[:, :-1, :2]
    free = np.linalg.norm(moved - wanted, axis=-1) < 1e-6
    assert free.mean() > 0.6, "the gripper is held up too often for its actions to be learnt"
    assert (np.linalg.norm(moved, axis=-1) <= np.linalg.norm(wanted, axis=-1) + 1e-6).mean() > 0.98


def test_policies_do_what_their_names_say():
    def arrived(policy: str) -> float:
        course = only(policy, length=33).simulate("train", range(150))
        away = np.linalg.norm(course.blocks - GOALS, axis=-1)
        return float(((away[:, -1] < 0.1) & (away[:, 0] >= 0.1)).any(-1).mean())

    scripted, noisy, failing, aimless = map(arrived, POLICIES)
    assert scripted > 0.6 > 0.3 > failing
    assert scripted > noisy > failing and aimless < 0.15


def test_the_distractor_wanders_whatever_the_actions():
    course = make_world(length=33).simulate("train", range(100))
    step = np.diff(course.distractor, axis=1)
    assert 0.03 < step.std() < 0.06
    correlation = np.corrcoef(step.reshape(-1, 2).T, course.actions[:, :-1, :2].reshape(-1, 2).T)
    assert np.abs(correlation[:2, 2:]).max() < 0.1
    still = make_world(jump=0.0, length=33).simulate("train", range(100))
    np.testing.assert_array_equal(course.gripper, still.gripper)


def test_pixels_show_the_motion_of_the_action_stored_one_frame_before(written: Path):
    episodes = [read_episode(f, decoder="pyav", trim_tail=False) for f in find_episodes(written / "train").episodes]
    video = torch.from_numpy(np.stack([scaled(e.video, 32, 32) for e in episodes]))
    motion = look(video).gripper.place.diff(dim=1).numpy()
    stored = np.stack([e.actions for e in episodes])[..., :2] * 2.5 / 32

    def unexplained(actions: np.ndarray) -> float:
        return float(((motion[:, 1:] - actions) ** 2).mean() / (motion[:, 1:] ** 2).mean())

    assert unexplained(stored[:, 1:-1]) < 0.3, "motion from frame k to k+1 is not that of action k"
    for shifted in (stored[:, 2:], stored[:, :-2]):
        assert unexplained(shifted) > 2 * unexplained(stored[:, 1:-1]), "a shift by one goes unnoticed"


def test_the_judge_finds_no_error_in_the_truth_after_h264(written: Path):
    episodes = [read_episode(f, decoder="pyav", trim_tail=False) for f in find_episodes(written / "train").episodes]
    video = np.stack([scaled(e.video, 32, 32) for e in episodes])
    truth = [np.stack([e.truth[key] for e in episodes]) for key in ("gripper", "blocks", "distractor")]
    clip = _clip(video, np.stack([e.actions for e in episodes]), *truth)
    measures = make_world().measure(clip.video, clip, 1)
    assert measures.action_error.nanmean() < 0.006 and measures.object_error.nanmean() < 0.006
    assert measures.presence.nanmean() > 0.97
    assert measures.extra["gripper_visible"].min() == 1 and measures.extra["blocks_visible"].min() == 1
    for values in (measures.action_error, measures.object_error, measures.presence):
        assert values[:, :1].isnan().all() and not values[:, 1:].isnan().any()


def test_the_judge_sees_wrong_motion_lost_objects_and_a_lost_distractor():
    world = make_world()
    clip = clip_of(world, 16)
    perfect = world.measure(clip.video, clip, 2)
    other = clip.video.clone()
    other[:, 2:] = clip.video.roll(1, 0)[:, 2:]
    wrong = world.measure(other, clip, 2)
    still = world.measure(clip.video[:, 1:2].expand_as(clip.video), clip, 2)
    empty = clip.video.clone()
    empty[:, 2:] = 64
    gone = world.measure(empty, clip, 2)
    for bad in (wrong, still, gone):
        assert bad.action_error.nanmean() > 5 * perfect.action_error.nanmean()
    # A gripper that is lost gains nothing over one that stands still.
    torch.testing.assert_close(gone.action_error[:, 3:], still.action_error[:, 3:], atol=0.02, rtol=0)
    assert wrong.object_error.nanmean() > 20 * perfect.object_error.nanmean()
    assert perfect.presence.nanmean() > 0.97 and gone.presence.nanmean() == 0
    assert gone.object_error.isnan().all() and gone.extra["gripper_visible"].max() == 0


def test_a_faint_smear_is_no_distractor():
    world = make_world()
    clip = clip_of(world, 16)
    averaged = clip.video.float().mean(1, keepdim=True).expand(clip.video.shape).to(torch.uint8)
    assert world.measure(averaged, clip, 1).presence.nanmean() < 0.5


def test_pixels_alone_serve_where_the_state_is_unknown():
    world = make_world()
    clip = clip_of(world, 4)
    blind = world.measure(clip.video, replace(clip, truth={}), 1)
    assert blind.action_error.nansum() == 0 and blind.object_error.nansum() == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixels": 33}, "even"),
        ({"policies": {"scripted": 1.0}}, "sum to 1"),
        ({"policies": {**MIX, "random": 0.5}}, "sum to 1"),
        ({"reach": 0.5}, "at most 0.2"),
        ({"episodes": {"train": 3}}, "train"),
        ({"length": 1}, "length"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        make_world(**changes)


def test_the_judge_refuses_other_shapes_and_contexts():
    world = make_world()
    clip = clip_of(world, 2)
    with pytest.raises(ValueError, match="differs"):
        world.measure(clip.video[:, 1:], clip, 1)
    for context in (0, 17):
        with pytest.raises(ValueError, match="context"):
            world.measure(clip.video, clip, context)
