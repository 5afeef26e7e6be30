"""The world model as gymnasium sees it: its checks, chunk rules, seeds, starts, ends, and slots beside slots."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny_run import NETWORK, QUIET, WORLD
from tests.tiny_world import CHUNK, FEW, PUSHER, checkpoint, tiny_world
from wm_lightning.clip import Clip, Pixels
from wm_lightning.envs.judges import Judgement, blocks_home, judge_of, no_judge
from wm_lightning.envs.world_model import WorldModel
from wm_lightning.tasks.build import build_data
from wm_lightning.tasks.environments import make_env, make_vector_env, say_unjudged, start_clips

gymnasium = pytest.importorskip("gymnasium", reason="gymnasium is not installed: pip install -e '.[play]'")

from gymnasium.utils.env_checker import check_env  # noqa: E402  behind the skip

from wm_lightning.envs.registered import ID  # noqa: E402
from wm_lightning.envs.single import WorldModelEnv  # noqa: E402
from wm_lightning.envs.vector import WorldModelVectorEnv  # noqa: E402

LEVEL = 1  # see test_world_model
SIDE = 24


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> WorldModel:
    torch.set_num_threads(1)
    return tiny_world(tmp_path_factory.mktemp("world"))[0]


@pytest.fixture(scope="module")
def starts(world: WorldModel) -> Clip:
    return start_clips(world.data, 6, world.context)


def choices(space: gymnasium.Space, seed: int, count: int) -> list[np.ndarray]:
    space.seed(seed)
    return [space.sample() for _ in range(count)]


@pytest.mark.parametrize("action_repeat", [None, CHUNK])
def test_it_is_an_environment(world: WorldModel, starts: Clip, action_repeat: int | None) -> None:
    env = WorldModelEnv(world, starts, horizon=30, action_repeat=action_repeat, timed=False, render_mode="rgb_array")
    check_env(env)
    one = action_repeat is not None
    assert env.action_chunk == (1 if one else CHUNK)
    assert env.action_space.shape == ((5,) if one else (CHUNK, 5))
    assert env.observation_space.shape == ((SIDE, SIDE, 3) if one else (CHUNK, SIDE, SIDE, 3))


def test_a_repeated_action_is_a_chunk_of_it(world: WorldModel, starts: Clip) -> None:
    whole = WorldModelEnv(world, starts, horizon=30)
    held = WorldModelEnv(world, starts, horizon=30, action_repeat=CHUNK)
    action = np.eye(5, dtype=np.int8)[2]
    for env in (whole, held):
        env.reset(seed=3)
    frames, *_, info = whole.step(np.stack([action] * CHUNK))
    last, *_, own = held.step(action)
    assert np.array_equal(own["frames"], frames) and np.array_equal(last, frames[-1])
    assert info["latency_ms"] > 0 and info["forwards"] == 3 and info["frame"] == CHUNK


def test_what_is_no_decision_is_refused(world: WorldModel, starts: Clip) -> None:
    with pytest.raises(ValueError, match=r"action_repeat=2: .* give action_repeat=3, or load a framewise checkpoint"):
        WorldModelEnv(world, starts, horizon=30, action_repeat=2)
    with pytest.raises(ValueError, match="horizon=2 frames: .* at least its chunk of 3"):
        WorldModelEnv(world, starts, horizon=2)
    env = WorldModelEnv(world, starts, horizon=30)
    with pytest.raises(ValueError, match="step before reset"):
        env.step(np.zeros((CHUNK, 5)))
    env.reset(seed=0)
    for action, said in (
        (np.zeros(5), r"makes 3 frames per decision, .* takes \(3, 5\).* give action_repeat=3"),
        (np.full((CHUNK, 5), np.nan), "holds nan, outside of its bounds"),
        (np.full((CHUNK, 5), 1.5), "holds 1.5, outside of its bounds"),
    ):
        with pytest.raises(ValueError, match=said):
            env.step(action)
    for options, said in (
        ({"start": 6}, r"options\['start'\]=6: a number from 0 to 5"),
        ({"start": True}, "a number from 0 to 5"),
        ({"image": np.zeros((4, 4), np.uint8)}, r"RGB uint8 \[h, w, 3\] is expected"),
        ({"picture": 1}, "one of start, image"),
    ):
        with pytest.raises(ValueError, match=said):
            env.reset(options=options)


def test_starts_are_drawn_named_or_given(world: WorldModel, starts: Clip) -> None:
    env = WorldModelEnv(world, starts, horizon=30)
    seen, info = env.reset(seed=1, options={"start": 4})
    first = starts.video[4, -1].permute(1, 2, 0).numpy()
    assert info == {"start": 4, "frame": 0}
    assert seen.shape == (CHUNK, SIDE, SIDE, 3) and all(np.array_equal(frame, first) for frame in seen)
    drawn = {env.reset(seed=seed)[1]["start"] for seed in range(12)}
    assert len(drawn) > 2
    red = np.zeros((50, 70, 3), np.uint8)
    red[..., 0] = 200
    seen, info = env.reset(options={"image": red})
    assert info["start"] == -1 and np.array_equal(seen[-1], np.broadcast_to([200, 0, 0], (SIDE, SIDE, 3)))
    env.step(env.action_space.sample())


def test_seeds_and_actions_make_the_video(world: WorldModel, starts: Clip) -> None:
    env = WorldModelEnv(world, starts, horizon=30)
    actions = choices(env.action_space, 0, 3)

    def video(seed: int, chosen: list[np.ndarray]) -> np.ndarray:
        env.reset(seed=seed, options={"start": 0})
        return np.stack([env.step(action)[0] for action in chosen])

    same, other = video(5, actions), video(6, actions)
    assert np.array_equal(video(5, actions), same) and not np.array_equal(other, same)
    changed = video(5, [*actions[:2], 1 - actions[2]])
    assert np.array_equal(changed[:2], same[:2]) and not np.array_equal(changed[2], same[2])


def bright(video: Pixels) -> Judgement:
    """Something is worth more than nothing, and the second frame of a chunk is the end."""
    done = torch.zeros(video.shape[:2], dtype=torch.bool)
    done[:, 1] = True
    return Judgement(torch.ones(video.shape[:2]), done)


def test_a_judge_ends_episodes_and_the_horizon_does(world: WorldModel, starts: Clip) -> None:
    env = WorldModelEnv(world, starts, horizon=30, judge=bright)
    env.reset(seed=0)
    _, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert (reward, terminated, truncated, info["is_success"]) == (2.0, True, False, True)
    env = WorldModelEnv(world, starts, horizon=7)
    env.reset(seed=0)
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(2)]
    assert ends == [(False, False), (False, True)], "6 frames are made of 7: a third chunk has no room"


def test_without_a_judge_it_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = checkpoint(tmp_path / "a")
    own = [*NETWORK, *WORLD, *QUIET, *FEW, f"cache_dir={config.cache_dir}", "experiment=teacher"]
    asked: dict[str, Any] = {"ckpt_path": config.ckpt_path, "overrides": own, "starts": 1, "horizon": 6}
    say_unjudged.cache_clear()
    with caplog.at_level(logging.WARNING, "wm_lightning.tasks.environments"):
        make_env(**asked, judge=bright)
        make_env(**asked, judge=no_judge)
        assert not caplog.messages, "whoever gives a judge knows of it"
        make_env(**asked)
        make_vector_env(**asked, num_envs=2)
    [said] = caplog.messages
    assert "every reward is 0 and no episode terminates" in said and "judge=" in said and "worldmap" in said


def test_slots_are_single_environments(world: WorldModel, starts: Clip) -> None:
    envs = WorldModelVectorEnv(world, starts, num_envs=3, horizon=12)
    seen, info = envs.reset(seed=7)
    actions = choices(envs.action_space, 0, 4)
    video = np.stack([seen, *(envs.step(action)[0] for action in actions)])
    for slot in range(3):
        env = WorldModelEnv(world, starts, horizon=12)
        first, own = env.reset(seed=7 + slot)
        alone = np.stack([first, *(env.step(action[slot])[0] for action in actions)])
        assert own["start"] == info["start"][slot]
        assert np.abs(video[:, slot].astype(int) - alone.astype(int)).max() <= LEVEL


def test_seeds_may_be_numpys(world: WorldModel, starts: Clip) -> None:
    """As who draws them with a generator has them."""
    envs = WorldModelVectorEnv(world, starts, num_envs=2, horizon=12)
    given = (7, np.int64(7), [7, 8], np.array([7, 8]), (np.uint32(7), None))
    drawn = [[source.integers(2**62) for source in seeded(envs, seed)] for seed in given]
    assert drawn[:4] == [drawn[0]] * 4 and drawn[4][0] == drawn[0][0]
    with pytest.raises(ValueError, match="a whole number, one for each slot, or None is expected"):
        envs.reset(seed=np.array([7.0, 8.0]))
    with pytest.raises(ValueError, match="3 seeds for 2 slots"):
        envs.reset(seed=[1, 2, 3])


def seeded(envs: WorldModelVectorEnv, seed: Any) -> list[np.random.Generator]:
    envs.reset(seed=seed)
    return envs._sources


def test_an_episode_that_ended_begins_anew_beside_the_others(world: WorldModel, starts: Clip) -> None:
    calm, hasty = (WorldModelVectorEnv(world, starts, num_envs=2, horizon=60) for _ in range(2))
    actions = choices(calm.action_space, 0, 4)
    rows = {}
    for name, envs in (("calm", calm), ("hasty", hasty)):
        envs.reset(seed=1)
        videos = []
        for number, action in enumerate(actions):
            if name == "hasty" and number == 2:
                _, info = envs.reset(options={"reset_mask": np.array([True, False]), "start": 3})
                assert info["start"].tolist() == [3, -1] and info["frame"].tolist() == [0, 2 * CHUNK]
            videos.append(envs.step(action)[0])
        rows[name] = np.stack(videos)
    assert np.abs(rows["calm"][:, 1].astype(int) - rows["hasty"][:, 1].astype(int)).max() <= LEVEL
    assert not np.array_equal(rows["calm"][2:, 0], rows["hasty"][2:, 0])
    ends = WorldModelVectorEnv(world, starts, num_envs=2, horizon=CHUNK)
    ends.reset(seed=1)
    truncated = [ends.step(ends.action_space.sample())[3].tolist() for _ in range(3)]
    assert truncated == [[True, True], [False, False], [True, True]], "the step after an end begins anew"


def test_the_pusher_has_a_task(tmp_path: Path) -> None:
    config = checkpoint(tmp_path, data=PUSHER)
    data = build_data(config)
    assert judge_of(data.world) is blocks_home and judge_of(None) is no_judge
    world = data.world
    assert world is not None
    goal = np.array([[[0.2, 0.24], [0.8, 0.76]], [[0.5, 0.24], [0.8, 0.76]]])
    state = {
        "gripper": np.array([[0.5, 0.5]] * 2), "look": np.zeros((2, 3)), "blocks": goal,
        "distractor": np.array([[0.2, 0.8]] * 2),
    }  # fmt: skip
    video, _ = world.branch(state, np.zeros((2, 1, 10), np.float32), np.zeros((2, 1, 2)))  # type: ignore[attr-defined]
    judged = blocks_home(torch.from_numpy(video).permute(0, 1, 4, 2, 3))
    assert judged.reward[:, 0].tolist() == [1.0, 0.5] and judged.done[:, 0].tolist() == [True, False]

    words = [*NETWORK, *PUSHER, *QUIET, *FEW, f"cache_dir={config.cache_dir}", "experiment=teacher"]
    made = gymnasium.make(
        ID, ckpt_path=config.ckpt_path, overrides=words, horizon=6, starts=2, disable_env_checker=True
    )
    seen, _ = made.reset(seed=0)
    assert seen.shape == (CHUNK, 32, 32, 3) and made.unwrapped.episodes.judge is blocks_home
    several = gymnasium.make_vec(ID, num_envs=2, ckpt_path=config.ckpt_path, overrides=words, horizon=6, starts=2)
    several.reset(seed=0)
    assert several.step(several.action_space.sample())[3].shape == (2,)
