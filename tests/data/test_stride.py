"""Every n-th frame: all phases of a recording, and the motion over the gap as it is between the poses themselves."""

from pathlib import Path

import numpy as np
import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from wm_lightning.clip import ActionState
from wm_lightning.config import compose
from wm_lightning.data.formats.recon import SPEC, planar_actions, spec_of
from wm_lightning.data.formats.strided_reader import joined
from wm_lightning.data.recon import RECONDataModule

FEW = [
    "data=recon",
    "size=debug",
    "data.frames=4",
    "data.val_frames=4",
    "data.world.episodes={train: 3, val: 1, test: 3}",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the rover is simulated once for all tests."""
    return tmp_path_factory.mktemp("rover")


def opened(folder: Path, *words: str) -> RECONDataModule:
    data: RECONDataModule = instantiate(compose([*FEW, f"cache_dir={folder}", *words]).data, _convert_="all")
    data.prepare_data()
    return data


def test_joined_steps_are_the_motion_between_the_poses() -> None:
    source = np.random.default_rng(0)
    position = np.cumsum(0.3 * source.normal(size=(21, 2)), axis=0)
    yaw = np.cumsum(0.3 * source.normal(size=21))
    single, wide = planar_actions(position, yaw)[:20], planar_actions(position[::4], yaw[::4])[:5]
    np.testing.assert_allclose(joined(single.reshape(5, 4, 3)), wide, atol=1e-5)
    assert np.array_equal(joined(single.reshape(20, 1, 3)).round(5), single.round(5))
    assert spec_of(1) == SPEC and spec_of(4).high[0] == pytest.approx(5) and spec_of(4) != SPEC


def test_every_phase_of_a_recording_is_there_with_its_frames_and_motions(folder: Path) -> None:
    plain, wide = opened(folder), opened(folder, "data.stride=4")
    one, four = plain.reader("test"), wide.reader("test")
    assert len(four) == 4 * len(one) and one.length(2) == 24 and [four.length(8 + k) for k in range(4)] == [6] * 4
    whole, found = one.read(2, 0, 24), four.read(2 * 4 + 3, 0, 6)
    assert np.array_equal(found.video, whole.video[3::4])
    assert found.state.tolist() == [int(ActionState.NONE)] + [int(ActionState.GIVEN)] * 5
    np.testing.assert_allclose(found.actions[1:], joined(whole.actions[4:24].reshape(5, 4, 3)), atol=1e-6)
    assert np.array_equal(found.truth["position"], whole.truth["position"][3::4])
    inner = four.read(2 * 4 + 3, 2, 5)
    assert np.array_equal(inner.video, found.video[2:5]) and np.array_equal(inner.actions, found.actions[2:5])
    assert (inner.state == int(ActionState.GIVEN)).all()
    clip = next(wide.clips("train", 8, 4, 8))
    assert clip.video.shape[1] == 4 and wide.spec.high[0] == pytest.approx(5) and wide.manifest["stride"] == 4
    assert float(clip.condition.actions[..., 2].abs().mean()) > 0


def test_the_episodes_of_a_recording_are_counted_as_one_and_judged_by_no_judge_of_single_frames(
    folder: Path,
) -> None:
    plain, wide = opened(folder), opened(folder, "data.stride=4")
    one, four = plain._opened("test"), wide._opened("test")
    assert [four.mark(episode) for episode in range(12)] == [one.mark(episode // 4) for episode in range(12)]
    assert len({one.mark(episode) for episode in range(len(one))}) == len(one)
    homes, every = wide.episodes("test", 4 * len(one), 4), {one.name(episode) for episode in range(len(one))}
    assert len(homes) == 4 * len(one) and set(homes) == every
    assert set(plain.episodes("test", len(one), 4)) == every
    assert plain.world is not None and wide.world is None


@pytest.mark.parametrize("words", [["data.stride=0"], ["data.stride=4", "data.nwm_compat=true"]])
def test_strides_that_cannot_be_are_refused(folder: Path, words: list[str]) -> None:
    with pytest.raises(InstantiationException, match=r"stride=\d: 1 or more is expected"):
        opened(folder, *words)
