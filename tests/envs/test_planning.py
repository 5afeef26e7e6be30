"""CEM and MPPI: they find what is worth most, in numbers, in the true simulator, and run inside a network."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.pusher_starts import TASK, briefed, clip_of, pusher, simulator
from tests.tiny_world import PUSHER, tiny_world
from wm_lightning.envs.arenas import Imagined, play
from wm_lightning.envs.planning import CEM, MPPI, Planner
from wm_lightning.envs.policy import Actions
from wm_lightning.randomness import generator

PLANNER = Planner(
    method=CEM(elites=6, least_spread=0.02), columns=["world_vector_x", "world_vector_y"], imagined=6, samples=48,
    rounds=5, spread=1.0, hold=3, batch=16,
)  # fmt: skip
SOFT = replace(PLANNER, method=MPPI(temperature=0.05), spread=0.5)


@pytest.mark.parametrize(
    "planner",
    [replace(PLANNER, samples=256, method=CEM(elites=20, least_spread=0.02)), replace(SOFT, samples=256)],
    ids=["cem", "mppi"],
)
def test_the_best_actions_are_found(planner: Planner) -> None:
    best = np.array([[[0.6, -0.4], [-0.9, 0.1]], [[-0.2, 0.8], [0.3, 0.3]]])

    def score(plans: np.ndarray) -> np.ndarray:
        return -((plans - best[:, None]) ** 2).sum((2, 3))

    bound = np.ones((1, 1, 2))
    sources = [generator(0, "test", row) for row in range(2)]
    found = planner.plan(score, np.zeros_like(best), -bound, bound, sources)
    assert np.abs(found - best).max() < 0.2
    assert (score(found[:, None]) > score(np.zeros_like(best)[:, None]) * 0.1).all()


def test_in_the_true_simulator_it_goes_where_the_reward_is() -> None:
    world = pusher()
    start, briefing = briefed(world, clip_of(world, 3, 1), horizon=6)
    true = simulator(world)

    def whole(plans: np.ndarray) -> Actions:
        actions = np.zeros((len(plans), 6, 10), np.float32)
        actions[..., :2] = np.repeat(plans, 3, axis=1)
        return actions

    def score(plans: np.ndarray) -> np.ndarray:
        worth = []
        for sample in range(plans.shape[1]):
            frames = true.begin(start, briefing)(whole(plans[:, sample]))
            reward = TASK.reward(torch.from_numpy(frames).permute(0, 1, 4, 2, 3), briefing.targets)
            worth.append(reward[:, -1].double().numpy())
        return np.stack(worth, axis=1)

    bound = np.ones((1, 1, 2))
    sources = [generator(0, "test", row) for row in range(len(start))]
    few = replace(PLANNER, samples=16, rounds=2, method=CEM(elites=3, least_spread=0.05))
    still = np.zeros((len(start), 2, 2))
    found = few.plan(score, still, -bound, bound, sources)
    assert (score(found[:, None]) > score(still[:, None])).all()


def test_it_plans_inside_a_network(tmp_path: Path) -> None:
    model, data = tiny_world(tmp_path, data=PUSHER)
    world = pusher()
    start, briefing = briefed(world, clip_of(world, 3, 1), horizon=6)
    with pytest.raises(ValueError, match="needs a world model to imagine in"):
        PLANNER(briefing)
    briefing = replace(briefing, model=model, spec=data.spec)
    few = replace(PLANNER, samples=3, rounds=2, method=CEM(elites=1, least_spread=0.1))
    one, other = (play(Imagined(model), few, "cem", start, briefing).actions for _ in range(2))
    assert np.array_equal(one, other) and one.shape == (len(start), 6, 10)
    assert (one[..., :2] != 0).any() and (one[..., 2:] == 0).all(), "only the named columns vary"
    assert (one[:, 0] == one[:, 2]).all(), "an action is held"
    for wrong, said in (
        (replace(few, imagined=4, hold=1), "imagined=4 frames: a multiple of the model's chunk 3"),
        (replace(few, hold=2), "hold=2 must divide protocol.decision=3"),
        (replace(few, columns=["up"]), r"columns \['up'\] are none of the data's"),
    ):
        with pytest.raises(ValueError, match=said):
            wrong(briefing)
    with pytest.raises(ValueError, match="elites=4 must be 1 to samples=3"):
        replace(few, method=CEM(elites=4, least_spread=0.1))
