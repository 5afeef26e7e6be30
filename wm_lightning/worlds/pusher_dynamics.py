"""How the table-top pusher moves: quasi-static pushing among discs, vectorised over episodes.

Lengths are in frame widths, x to the right and y down the picture. Everything is elementwise over
the episodes, so an episode's course does not depend on which others are simulated beside it.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

GRIPPER_RADIUS = 0.08
BLOCK_RADIUS = 0.085
DISTRACTOR_RADIUS = 0.065
START_MARGIN = 0.15
START_GAP = 0.04
SUBSTEPS = 4
# Rotation, height and opening only alter how the gripper looks, so they move slowly and stay small.
TURN_RATE = 0.5
LIFT_RATE = 0.1
GRASP_RATE = 0.5
# Goal zone of each block, fixed, so that a picture without a text says where a block belongs.
GOALS = np.array([[0.2, 0.24], [0.8, 0.76]])


@dataclass(frozen=True)
class Scene:
    """The state of `n` tables: positions in frame widths, height in -1..1, angle in radians, opening in 0..1."""

    gripper: Float[np.ndarray, "n 2"]
    height: Float[np.ndarray, "n"]
    angle: Float[np.ndarray, "n"]
    opening: Float[np.ndarray, "n"]
    blocks: Float[np.ndarray, "n k 2"]
    distractor: Float[np.ndarray, "n 2"]


def first_scene(generators: list[np.random.Generator]) -> Scene:
    """One random table per generator, nothing touching anything else."""
    places = np.stack([_scatter(source) for source in generators])
    looks = np.stack([source.random(3) for source in generators])
    return Scene(
        gripper=places[:, 0],
        height=2 * looks[:, 0] - 1,
        angle=np.pi * looks[:, 1],
        opening=looks[:, 2],
        blocks=places[:, 1:3],
        distractor=places[:, 3],
    )


def advance(scene: Scene, action: Float[np.ndarray, "n 7"], jump: Float[np.ndarray, "n 2"], reach: float) -> Scene:
    """The scene after one action.

    `action` is world_vector (x, y, z), rotation_delta (x, y, z) and gripper_closedness_action, raw;
    a world_vector of 1 moves the gripper by `reach` frame widths. `jump` moves the distractor: nothing
    in the action explains it.
    """
    gripper, blocks = scene.gripper, scene.blocks
    # Small substeps, because a fast gripper would otherwise pass a block's centre and push it backwards.
    for _ in range(SUBSTEPS):
        gripper = _inside(gripper + reach / SUBSTEPS * action[:, :2], GRIPPER_RADIUS)
        gripper, blocks = _push(gripper, blocks)
    return Scene(
        gripper=gripper,
        height=np.clip(scene.height + LIFT_RATE * action[:, 2], -1, 1),
        angle=scene.angle + TURN_RATE * action[:, 5],
        opening=np.clip(scene.opening - GRASP_RATE * action[:, 6], 0, 1),
        blocks=blocks,
        distractor=_roll(scene.distractor + jump, gripper, blocks),
    )


def _scatter(source: np.random.Generator) -> Float[np.ndarray, "4 2"]:
    """Places of gripper, two blocks and distractor, by rejection."""
    radii = np.array([GRIPPER_RADIUS, BLOCK_RADIUS, BLOCK_RADIUS, DISTRACTOR_RADIUS])
    least = radii[:, None] + radii[None] + START_GAP
    pairs = np.triu_indices(len(radii), 1)
    while True:
        places = source.uniform(START_MARGIN, 1 - START_MARGIN, (len(radii), 2))
        gaps = places[:, None] - places[None]
        if np.all((gaps**2).sum(-1)[pairs] > least[pairs] ** 2):
            return places


def _inside(place: Float[np.ndarray, "... 2"], radius: float) -> Float[np.ndarray, "... 2"]:
    return np.clip(place, radius, 1 - radius)


def _escape(place: Float[np.ndarray, "n 2"], other: Float[np.ndarray, "n 2"], least: float) -> Float[np.ndarray, "n 2"]:
    """By how much `place` must move straight away from `other` to be `least` away from it."""
    gap = place - other
    distance = np.sqrt((gap**2).sum(-1, keepdims=True))
    # Exactly coincident centres have no direction; any fixed one will do.
    direction = np.where(distance > 1e-9, gap / np.maximum(distance, 1e-9), np.array([1.0, 0.0]))
    return direction * np.maximum(least - distance, 0)


def _push(
    gripper: Float[np.ndarray, "n 2"], blocks: Float[np.ndarray, "n k 2"]
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n k 2"]]:
    """Gripper and blocks with every overlap resolved; what cannot give way at a wall stops the gripper."""
    first, second = blocks[:, 0], blocks[:, 1]
    touch = GRIPPER_RADIUS + BLOCK_RADIUS
    for _ in range(2):
        first = _inside(first + _escape(first, gripper, touch), BLOCK_RADIUS)
        second = _inside(second + _escape(second, gripper, touch), BLOCK_RADIUS)
        apart = _escape(first, second, 2 * BLOCK_RADIUS)
        first, second = _inside(first + apart / 2, BLOCK_RADIUS), _inside(second - apart / 2, BLOCK_RADIUS)
    for block in (first, second):
        gripper = _inside(gripper + _escape(gripper, block, touch), GRIPPER_RADIUS)
    return gripper, np.stack([first, second], axis=1)


def _roll(
    place: Float[np.ndarray, "n 2"], gripper: Float[np.ndarray, "n 2"], blocks: Float[np.ndarray, "n k 2"]
) -> Float[np.ndarray, "n 2"]:
    """The distractor bounced off the walls and out of everything else, so that it is seldom hidden."""
    low, high = DISTRACTOR_RADIUS, 1 - DISTRACTOR_RADIUS
    place = np.where(place < low, 2 * low - place, place)
    place = np.where(place > high, 2 * high - place, place)
    for _ in range(3):
        for block in (blocks[:, 0], blocks[:, 1]):
            place = _inside(place + _escape(place, block, DISTRACTOR_RADIUS + BLOCK_RADIUS), DISTRACTOR_RADIUS)
        place = _inside(place + _escape(place, gripper, DISTRACTOR_RADIUS + GRIPPER_RADIUS), DISTRACTOR_RADIUS)
    return place
