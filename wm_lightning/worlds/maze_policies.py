"""Who plays the maze: a walker that turns away from walls, one that looks around, and one that presses at random."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from wm_lightning.data.formats.csgo import COLUMNS, MOUSE, MOUSE_X, MOUSE_Y
from wm_lightning.worlds.maze_dynamics import KEY, Scene
from wm_lightning.worlds.maze_render import cast

POLICIES = ("walker", "watcher", "random")
LOOK = np.array([-0.6, 0.0, 0.6])  # radians: where a player looks for walls
# How often, per frame, a policy changes its mind, and presses keys beside those that move it.
CHANGE = {"walker": 0.08, "watcher": 0.15, "random": 0.4}
ASIDE = {"space": 0.02, "ctrl": 0.04, "shift": 0.08, "1": 0.01, "2": 0.01, "3": 0.01, "r": 0.015, "left_click": 0.06}


@dataclass
class Mood:
    """What each of `n` players wants for a while; altered in place from step to step."""

    policy: np.ndarray
    forward: np.ndarray
    strafe: np.ndarray
    spin: np.ndarray  # counts of the mouse a frame


def first_mood(sources: list[np.random.Generator], shares: dict[str, float]) -> Mood:
    """Policies drawn by their `shares`, which sum to 1."""
    edges = np.cumsum([shares[name] for name in POLICIES])[:-1]
    policy = np.array([np.searchsorted(edges, source.random(), side="right") for source in sources])
    zeros = np.zeros(len(sources))
    return Mood(policy, np.ones(len(sources)), zeros.copy(), zeros.copy())


def act(
    scene: Scene, mood: Mood, grids: UInt8[np.ndarray, "n rows columns"], sources: list[np.random.Generator]
) -> Float[np.ndarray, "n 51"]:
    """The next action of every player."""
    free = cast(scene.place, scene.yaw[:, None] + LOOK, grids)[0]
    action = np.zeros((len(sources), len(COLUMNS)), np.float32)
    for row, source in enumerate(sources):
        name = POLICIES[mood.policy[row]]
        if source.random() < CHANGE[name]:
            mood.forward[row] = source.choice([1, 1, 1, 0, -1]) if name != "watcher" else source.choice([0, 0, 1])
            mood.strafe[row] = source.choice([0, 0, 0, -1, 1])
            mood.spin[row] = source.choice([0, 0, -30, 30, -60, 60, -100, 100]) if name != "walker" else 0
        spin = mood.spin[row]
        if name == "walker" and free[row, 1] < 0.9:
            spin = 100 if free[row, 2] > free[row, 0] else -100
        _press(action[row], mood.forward[row], mood.strafe[row], spin + 4 * source.normal(), source)
    return action


def _press(action: np.ndarray, forward: float, strafe: float, spin: float, source: np.random.Generator) -> None:
    for key, on in (("w", forward > 0), ("s", forward < 0), ("d", strafe > 0), ("a", strafe < 0)):
        action[KEY[key]] = on
    for key, share in ASIDE.items():
        action[KEY[key]] = source.random() < share
    tilt = 12 * source.normal() if source.random() < 0.1 else 0.0
    action[MOUSE["x"].start + int(np.abs(np.array(MOUSE_X) - spin).argmin())] = 1
    action[MOUSE["y"].start + int(np.abs(np.array(MOUSE_Y) - tilt).argmin())] = 1
