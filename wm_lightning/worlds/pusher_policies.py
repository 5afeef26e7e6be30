"""Who moves the pusher's gripper: a scripted expert, the same with noise, one that fails, and a random one.

A model trained on successes alone learns that every action succeeds, so the mixture holds failures.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from wm_lightning.worlds.pusher_dynamics import BLOCK_RADIUS, GOALS, GRIPPER_RADIUS, Scene

POLICIES = ("scripted", "noisy", "failing", "random")
TOUCH = GRIPPER_RADIUS + BLOCK_RADIUS
BEHIND = TOUCH + 0.03
AT_GOAL = 0.06
NOISE = {"scripted": 0.05, "noisy": 0.45, "failing": 0.15, "random": 0.0}
MISS = 0.13
# A random mover keeps its direction for a few steps; otherwise it would tremble in one place.
HOLD = 0.65


@dataclass(frozen=True)
class Temper:
    """What a policy brings to each of `n` episodes, drawn before the first step; `f` steps long."""

    policy: Int[np.ndarray, "n"]
    favourite: Int[np.ndarray, "n"]
    speed: Float[np.ndarray, "n"]
    side: Float[np.ndarray, "n"]
    noise: Float[np.ndarray, "n f 7"]
    turn: Bool[np.ndarray, "n f"]
    heading: Float[np.ndarray, "n f 2"]


def draw_temper(generators: list[np.random.Generator], shares: dict[str, float], steps: int) -> Temper:
    """Policies drawn by their `shares` (which sum to 1), one episode per generator."""
    edges = np.cumsum([shares[name] for name in POLICIES])[:-1]
    rows = [_draw_one(source, edges, steps) for source in generators]
    return Temper(*(np.stack(column) for column in zip(*rows, strict=True)))


def act(scene: Scene, temper: Temper, last: Float[np.ndarray, "n 7"], step: int) -> Float[np.ndarray, "n 7"]:
    """The raw 7-D action of step `step`: world_vector and gripper in -1..1, rotation_delta in radians."""
    move = np.where((temper.policy == 3)[:, None], _wander(temper, last, step), _herd(scene, temper))
    scale = np.array([NOISE[name] for name in POLICIES])[temper.policy][:, None]
    noise = temper.noise[:, step]
    action = np.empty_like(noise)
    action[:, :2] = move + scale * noise[:, :2]
    action[:, 2] = 0.3 * noise[:, 2]
    action[:, 3:6] = 0.15 * noise[:, 3:6]
    # Commands are -1 (open), 0 (leave) and +1 (close); most steps leave the fingers alone.
    action[:, 6] = np.sign(noise[:, 6]) * (np.abs(noise[:, 6]) > 1.8)
    bound = np.array([1, 1, 1, np.pi / 2, np.pi / 2, np.pi / 2, 1])
    return np.clip(action, -bound, bound)


def _draw_one(source: np.random.Generator, edges: Float[np.ndarray, "..."], steps: int) -> tuple[np.ndarray, ...]:
    policy = np.searchsorted(edges, source.random(), side="right")
    favourite = source.integers(len(GOALS))
    speed, side = source.uniform(0.6, 1.0), source.choice([-1.0, 1.0])
    noise = source.standard_normal((steps, 7))
    turn = source.random(steps) > HOLD
    heading = source.uniform(-1, 1, (steps, 2))
    return tuple(np.asarray(value) for value in (policy, favourite, speed, side, noise, turn, heading))


def _wander(temper: Temper, last: Float[np.ndarray, "n 7"], step: int) -> Float[np.ndarray, "n 2"]:
    fresh = temper.turn[:, step] if step else np.ones(len(temper.speed), dtype=bool)
    return np.where(fresh[:, None], temper.heading[:, step], last[:, :2])


def _herd(scene: Scene, temper: Temper) -> Float[np.ndarray, "n 2"]:
    """Go behind a block, seen from its goal, then push; a block that has arrived makes room for the other one."""
    rows = np.arange(len(temper.speed))
    arrived = _length(scene.blocks - GOALS)[..., 0] < AT_GOAL
    own = temper.favourite
    target = np.where(arrived[rows, own], 1 - own, own)
    block, goal = scene.blocks[rows, target], GOALS[target]
    away = _unit(block - goal)
    across = np.stack([-away[:, 1], away[:, 0]], axis=-1)
    # A failing pusher aims beside the block: it slips past or sends it elsewhere.
    aim = block + np.where(temper.policy == 2, MISS * temper.side, 0.0)[:, None] * across
    rest = aim + BEHIND * away - scene.gripper
    offset = scene.gripper - block
    behind = (offset * away).sum(-1, keepdims=True)
    slip = ((scene.gripper - aim) * across).sum(-1, keepdims=True)
    ready = (behind > 0.6 * TOUCH) & (np.abs(slip) < 0.035)
    # While pushing, the sideways error is steered out, or the block would roll off the gripper.
    push = _unit(-away - 8 * slip * across)
    move = np.where(ready, push, _detour(offset, rest, behind))
    still = np.all(arrived, axis=-1, keepdims=True)
    return np.where(still, 0.0, temper.speed[:, None] * move)


def _detour(
    offset: Float[np.ndarray, "n 2"], rest: Float[np.ndarray, "n 2"], behind: Float[np.ndarray, "n 1"]
) -> Float[np.ndarray, "n 2"]:
    """Straight towards the place behind the block, but along a circle round the block when it is in the way."""
    distance = _length(offset)
    outward = offset / np.maximum(distance, 1e-9)
    along = np.stack([-outward[:, 1], outward[:, 0]], axis=-1)
    along = along * np.where((along * rest).sum(-1, keepdims=True) < 0, -1.0, 1.0)
    near = (distance < BEHIND + 0.03) & (behind < 0.8 * TOUCH)
    circle = _unit(along + 6 * (BEHIND - distance) * outward)
    # One step at full speed is about 0.08; nearer than that the move shrinks in proportion.
    straight = _unit(rest) * np.minimum(_length(rest) / 0.08, 1)
    return np.where(near, circle, straight)


def _length(vector: Float[np.ndarray, "... 2"]) -> Float[np.ndarray, "... 1"]:
    return np.sqrt((vector**2).sum(-1, keepdims=True))


def _unit(vector: Float[np.ndarray, "... 2"]) -> Float[np.ndarray, "... 2"]:
    return vector / np.maximum(_length(vector), 1e-9)
