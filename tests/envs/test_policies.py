"""The pusher's policies by sight, the task they are judged by, foreign policies, and the true world they act in."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.pusher_starts import TASK, briefed, clip_of, pusher, simulator
from wm_lightning.data.formats.robot_actions import FIELDS, NEUTRAL, spec_of
from wm_lightning.envs.adapter import ActionAdapter, Adapted, Rule, openvla_adapter
from wm_lightning.envs.arenas import play
from wm_lightning.envs.policy import executed
from wm_lightning.envs.push_task import PushTask, distances
from wm_lightning.envs.scripted import Scripted, Still
from wm_lightning.worlds.pusher_dynamics import GOALS

WORLD = pusher()
SIMULATOR = simulator(WORLD)
EXPERT = Scripted(habit="scripted", noise=0.05, speed=0.9)


def rate(policy: Scripted | Still, count: int = 24) -> float:
    start, briefing = briefed(WORLD, clip_of(WORLD, count, 1), horizon=24)
    played = play(SIMULATOR, policy, "policy", start, briefing)
    return float(TASK.success(played.video, briefing.targets).mean())


def test_policies_by_sight_differ_in_skill() -> None:
    found = [rate(policy) for policy in (EXPERT, replace(EXPERT, noise=0.8), replace(EXPERT, habit="failing"), Still())]
    assert found[0] > 0.7 and found[-1] == 0
    assert found[0] > found[1] + 0.2 and found[1] > found[2]


def test_a_video_is_judged_as_the_state_behind_it() -> None:
    start, briefing = briefed(WORLD, clip_of(WORLD, 16, 1), horizon=24)
    played = play(SIMULATOR, replace(EXPERT, noise=0.6), "noisy", start, briefing)
    assert played.video.shape[1] == 25 and played.actions.shape == (len(start), 24, 10)
    seen = TASK.success(played.video, briefing.targets)
    true = TASK.success_of_state(SIMULATOR.blocks(start, briefing, played.actions), briefing.targets)
    assert (seen == true).mean() > 0.9 and 0 < true.mean() < 1


def test_steps_of_the_simulator_are_one_course() -> None:
    start, briefing = briefed(WORLD, clip_of(WORLD, 5, 1), horizon=12)
    by_three = play(SIMULATOR, EXPERT, "expert", start, briefing)
    further = SIMULATOR.begin(start, briefing)
    at_once = torch.from_numpy(further(by_three.actions)).permute(0, 1, 4, 2, 3)
    assert torch.equal(by_three.video[:, 1:], at_once)


def test_a_policy_draws_the_same_whoever_is_beside_it() -> None:
    clip = clip_of(WORLD, 6, 1)
    start, briefing = briefed(WORLD, clip, horizon=6)
    noisy = replace(EXPERT, noise=0.5)
    whole = play(SIMULATOR, noisy, "noisy", start, briefing)
    rows = np.array([3, 1])
    part = replace(briefing, numbers=tuple(briefing.numbers[row] for row in rows), targets=briefing.targets[rows])
    few = play(SIMULATOR, noisy, "noisy", start[torch.from_numpy(rows)], part)
    assert np.array_equal(few.actions, whole.actions[rows]) and torch.equal(few.video, whole.video[rows])
    other = play(SIMULATOR, noisy, "noisy", start, replace(briefing, seed=1))
    assert not np.array_equal(other.actions, whole.actions)


def test_what_is_not_seen_is_where_it_was_last() -> None:
    start, briefing = briefed(WORLD, clip_of(WORLD, 4, 1), horizon=12)
    seen = start.video.permute(0, 1, 3, 4, 2).numpy()
    blind, seeing = EXPERT(briefing), EXPERT(briefing)
    for actor in (blind, seeing):
        actor(seen)
    dark = np.zeros_like(seen)
    assert np.isfinite(blind(dark)).all() and np.array_equal(EXPERT(briefing)(dark), EXPERT(briefing)(dark))
    assert not np.array_equal(EXPERT(briefing)(dark), EXPERT(briefing)(seen))


def test_the_block_must_stay_and_be_the_named_one() -> None:
    away = np.array([0.3, 0.0, 0.0])
    blocks = np.stack([GOALS + [[shift, 0.0], [0.0, 0.5 * shift]] for shift in away])[None]
    targets = np.array([0])
    assert PushTask(hold=2).success_of_state(blocks, targets).tolist() == [True]
    assert PushTask(hold=3).success_of_state(blocks, targets).tolist() == [False]
    assert PushTask(hold=1).success_of_state(blocks[:, :1], np.array([1])).tolist() == [False]
    with pytest.raises(ValueError, match="at least the last frame"):
        PushTask(hold=0)


def test_a_start_asks_for_what_is_left_to_do() -> None:
    clip = clip_of(WORLD, 40, 1)
    home = (distances(clip.video)[:, -1] < 0.13).numpy()
    targets = TASK.targets(clip.video, clip.index.tolist())
    assert not home[np.arange(40), targets][targets >= 0].any()
    free = ~home.any(1)
    assert (targets[free] == np.arange(40)[free] % 2).all() and {0, 1} <= set(targets.tolist())
    assert TASK.instructions(np.array([1])) == ["push the yellow block into the yellow zone"]


def test_an_unseen_block_is_nowhere_and_worth_least() -> None:
    start, briefing = briefed(WORLD, clip_of(WORLD, 6, 1), horizon=24)
    video = play(SIMULATOR, EXPERT, "expert", start, briefing).video
    reward = TASK.reward(video, briefing.targets)
    assert (reward[:, -1] > reward[:, 0]).float().mean() > 0.8
    dark = torch.zeros_like(video)
    assert not TASK.success(dark, briefing.targets).any() and (TASK.reward(dark, briefing.targets) < reward).all()


def test_actions_are_cut_held_or_refused() -> None:
    _, briefing = briefed(WORLD, clip_of(WORLD, 2, 1), horizon=6)
    chunk = np.zeros((len(briefing.numbers), 5, 10))
    chunk[:, 0, 0], chunk[:, 4, 0] = 0.5, 0.9
    assert executed(chunk, briefing, "p").shape[1] == 3
    assert (executed(chunk[:, :1], briefing, "p")[..., 0] == 0.5).all()
    chunk[0, 1, 2] = 1.5
    for given, said in (
        (chunk[:, :2], r"policy p gave actions .* episodes of 3 actions or more"),
        (chunk[..., :7], "with the columns"), (chunk, "out of bounds; clip it"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            executed(given, briefing, "p")


def test_openvla_moves_the_gripper_in_the_datas_units() -> None:
    adapter = openvla_adapter(WORLD.spec, {"position": 0.05, "rotation": 0.25})
    outputs = np.array([[0.05, -0.025, 0.9, 0.0, 0.0, -0.25, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.2]])
    actions = adapter(outputs, WORLD.spec, {})
    assert actions.shape == (2, 1, 10)
    half_turn = np.float32(np.pi / 2)
    assert actions[0, 0].tolist() == pytest.approx([1.0, -0.5, 1.0, 0, 0, -half_turn, -1.0, 0, 0, 0])
    assert actions[1, 0, 6] == 1.0, "a closed gripper is 0 there and +1 here"
    chunks = adapter(np.stack([outputs] * 4, axis=1), WORLD.spec, {})
    assert chunks.shape == (2, 4, 10) and np.array_equal(chunks[:, 2:3], actions)
    with pytest.raises(ValueError, match=r"outputs \(2, 3\), but 7 rules"):
        adapter(outputs[:, :3], WORLD.spec, {})
    rule = Rule(column="nowhere", low=0.0, high=1.0, to_low=0.0, to_high=1.0)
    with pytest.raises(ValueError, match="must name columns once each"):
        ActionAdapter(rules=[rule])(outputs[:, :1], WORLD.spec, {})
    with pytest.raises(ValueError, match="must lie below"):
        replace(rule, low=2.0)


def test_doing_nothing_lets_the_episode_go_on() -> None:
    """In an order with the termination one-hot, whose middle column says so."""
    fields = {name: 1.0 for name in FIELDS if name != "terminate_episode"}
    spec = spec_of("vid2world13", fields)
    goes_on = spec.names.index("terminate_episode_1")
    start, briefing = briefed(WORLD, clip_of(WORLD, 2, 1), horizon=3)
    briefing = replace(briefing, spec=spec, rest=NEUTRAL)
    seen = start.video.permute(0, 1, 3, 4, 2).numpy()
    still = executed(Still()(briefing)(seen), briefing, "still")
    assert (still[..., goes_on] == 1.0).all() and not np.delete(still, goes_on, axis=-1).any()
    given: list[str] = []

    def foreign(pictures: np.ndarray, asked: list[str]) -> np.ndarray:
        given.extend(asked)
        return np.tile([0.05, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0], (len(pictures), 1))

    moved = Adapted(foreign, openvla_adapter(spec, {"position": 0.05, "rotation": 0.25}))(briefing)(seen)
    assert (moved[..., goes_on] == 1.0).all() and (moved[..., spec.names.index("world_vector_x")] == 1.0).all()
    assert not moved[..., [spec.names.index(f"terminate_episode_{place}") for place in (0, 2)]].any()


def test_a_foreign_policy_acts_by_the_newest_picture_and_the_words() -> None:
    start, briefing = briefed(WORLD, clip_of(WORLD, 4, 1), horizon=6)
    seen: list[tuple[np.ndarray, list[str]]] = []

    def foreign(pictures: np.ndarray, asked: list[str]) -> np.ndarray:
        seen.append((pictures, list(asked)))
        return np.tile([0.05, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0], (len(pictures), 1))

    policy = Adapted(foreign, openvla_adapter(WORLD.spec, {"position": 0.05, "rotation": 0.25}))
    played = play(SIMULATOR, policy, "foreign", start, briefing)
    assert (played.actions[..., 0] == 1.0).all() and (played.actions[..., 6] == -1.0).all()
    assert len(seen) == 2 and seen[0][1] == briefing.instructions
    newest = played.video[:, 3].permute(0, 2, 3, 1).numpy()
    assert np.array_equal(seen[1][0], newest)
