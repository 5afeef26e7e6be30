"""Behaviour cloning: what counts as a demonstration, that it is learned, and the file that holds it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.pusher_starts import TASK, briefed, clip_of, pusher
from tests.tiny_run import NETWORK, QUIET, TRAINING
from wm_lightning.config import compose
from wm_lightning.envs.cloned import Cloned, load_policy
from wm_lightning.envs.demonstrations import next_home, successes
from wm_lightning.networks.cloned_policy import ClonedPolicy
from wm_lightning.tasks.build import build_data
from wm_lightning.tasks.clone_policy import Cloning

DATA = [
    "data=rt1", "data.world.length=30", "data.world.episodes={train: 16, val: 6, test: 3}", "data.world.pixels=32",
    "data.world.workers=1",
]  # fmt: skip
CLONING = Cloning(
    lengths=(40, 2), chunk=3, width=4, batch_size=32, lr=0.005, weight_decay=0.0, clips=16, seed=0
)  # fmt: skip


def test_the_next_block_to_come_home_is_the_goal() -> None:
    home = np.zeros((1, 6, 2), bool)
    home[0, 2:, 0], home[0, 4, 1] = True, True
    assert next_home(home).tolist() == [[0, 0, 1, 1, -1, -1]]
    home = np.zeros((1, 4, 2), bool)
    home[0, 0, 1], home[0, 3, 1] = True, True
    assert next_home(home).tolist() == [[-1, 1, 1, -1]], "a block that left may come back"


def test_demonstrations_have_the_actions_that_follow_their_frame() -> None:
    world = pusher()
    world.length = 24
    clip = clip_of(world, 12, 24)
    shown = successes(clip, 3)
    assert 0 < len(shown.goal) < 12 * 21 and shown.actions.shape[1:] == (3, 10)
    row, place = next(
        (row, place) for row in range(12) for place in range(21) if torch.equal(clip.video[row, place], shown.frame[0])
    )
    assert torch.equal(shown.actions[0], clip.condition.actions[row, place + 1 : place + 4])
    briefing_video = clip.video[row, : place + 1][None]
    assert not TASK.success(torch.cat([briefing_video] * 2, 1), shown.goal[:1].numpy())[0], "not at home yet"


def test_a_place_in_the_picture_is_read() -> None:
    """Spatial softmax: the same object elsewhere changes the answer, and goals have answers of their own."""
    torch.manual_seed(0)
    network = ClonedPolicy(actions=2, chunk=2, goals=2, width=4)
    network.scale[1] = 0
    frame = torch.zeros(3, 3, 16, 16, dtype=torch.uint8)
    frame[1:, 0, 4:8, 4:8] = 255
    out = network(frame, torch.tensor([0, 0, 1]))
    assert out.shape == (3, 2, 2) and (out[..., 1] == 0).all()
    assert not torch.allclose(out[0, :, 0], out[1, :, 0]) and not torch.allclose(out[1, :, 0], out[2, :, 0])


def test_it_is_trained_saved_and_acts(tmp_path: Path) -> None:
    places = [f"run_dir={tmp_path / 'run'}", f"cache_dir={tmp_path / 'cache'}"]
    config = compose([*NETWORK, *DATA, *TRAINING, *QUIET, *places])
    found = CLONING(config)
    assert set(found) == {"loss_2", "loss_40"} and found["loss_40"] < found["loss_2"]
    path = tmp_path / "run/policies/policy_40.safetensors"
    _, card = load_policy(path)
    assert card.iterations == 40 and card.demonstrations > 0 and card.content and card.frame_shape == (3, 32, 32)
    data = build_data(config)
    files = CLONING.prepared(config, data)
    before = {length: file.stat().st_mtime_ns for length, file in files.items()}
    assert {length: file.stat().st_mtime_ns for length, file in CLONING.prepared(config, data).items()} == before
    assert files[40].read_bytes() == path.read_bytes(), "the same training gives the same policy"
    world = pusher()
    start, briefing = briefed(world, clip_of(world, 4, 1), horizon=6)
    actions = Cloned(iterations=None, file=str(path))(briefing)(start.video.permute(0, 1, 3, 4, 2).numpy())
    assert actions.shape == (len(start), 3, 10) and np.abs(actions[..., :2]).max() > 0.01
    with pytest.raises(ValueError, match="sees frames of 32 x 32"):
        Cloned(iterations=None, file=str(path))(briefing)(np.zeros((len(start), 1, 24, 24, 3), np.uint8))


def test_what_is_no_policy_is_refused(tmp_path: Path) -> None:
    world = pusher()
    _, briefing = briefed(world, clip_of(world, 2, 1), horizon=6)
    with pytest.raises(ValueError, match=r"is not there; task=clone_policy"):
        Cloned(iterations=None, file=str(tmp_path / "none.safetensors"))(briefing)
    (tmp_path / "other.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="is no safetensors file"):
        load_policy(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="give one of them"):
        Cloned(iterations=None, file=None)
    with pytest.raises(ValueError, match="numbers of 1 and more"):
        Cloning(lengths=(), chunk=3, width=4, batch_size=1, lr=0.1, weight_decay=0.0, clips=1, seed=0)
