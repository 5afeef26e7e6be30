"""How the rover moves among posts: it slides along them, and never through."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

RATE = 4  # frames a second, as in RECON's recordings
CLEAR = 0.5  # metres from a post's middle to the rover's, at least: half of either, and a hand's breadth
CORE = 0.3  # metres: a step that passes nearer than this would go through the post
TOUCH = 1e-3  # metres beyond CLEAR that still count as contact: poses are stored with rounded actions
FASTEST, SHARPEST = 0.4, 0.35  # metres and radians a frame
ROUNDS = 8  # posts may stand so near that leaving one leads into another


@dataclass(frozen=True)
class Chance:
    """What one episode draws: where it begins, and what happens in every frame."""

    place: Float[np.ndarray, "2"]
    yaw: float
    speed: float
    ahead: float  # metres to the ball
    aside: Float[np.ndarray, "2"]
    frames: Float[np.ndarray, "f 4"]  # change of speed, of turn, and the ball's step, in standard deviations

    @classmethod
    def drawn(cls, source: np.random.Generator, frames: int, area: float) -> "Chance":
        """Begins within `area` metres, both ways together."""
        place, yaw = source.uniform(-area / 2, area / 2, 2), source.uniform(-np.pi, np.pi)
        speed, ahead = source.uniform(0.1, FASTEST), source.uniform(2, 5)
        return cls(place, yaw, speed, ahead, source.normal(size=2), source.normal(size=(frames, 4)))

    def ball(self, roll: float) -> Float[np.ndarray, "f 2"]:
        """Where the ball lies: first before the rover, then wherever it rolls."""
        first = self.place + self.ahead * np.array([np.cos(self.yaw), np.sin(self.yaw)]) + self.aside
        return np.cumsum(np.concatenate([first[None], roll * self.frames[1:, 2:]]), axis=0)


def roam(
    chances: Sequence[Chance], posts: Float[np.ndarray, "n posts 2"], area: float
) -> tuple[Float[np.ndarray, "n f 2"], Float[np.ndarray, "n f"]]:
    """Position (metres) and yaw (radians, [-pi, pi)) of rovers that turn back where they are `area` from the middle."""
    position, yaw = [cleared(np.stack([one.place for one in chances]), posts)], [np.array([one.yaw for one in chances])]
    speed, turn = np.array([one.speed for one in chances]), np.zeros(len(chances))
    for faster, sharper in np.stack([one.frames[1:, :2] for one in chances], 1).transpose(0, 2, 1):
        speed = np.clip(speed + 0.08 * faster, 0.0, FASTEST)
        turn = np.clip(0.8 * turn + 0.12 * sharper, -SHARPEST, SHARPEST)
        x, y = position[-1].T
        home = (np.arctan2(-y, -x) - yaw[-1] + np.pi) % (2 * np.pi) - np.pi
        turn = np.where(np.hypot(x, y) > area, np.clip(home, -SHARPEST, SHARPEST), turn)
        way = np.stack([np.cos(yaw[-1]), np.sin(yaw[-1])], 1)
        position.append(driven(position[-1], position[-1] + speed[:, None] * way, posts))
        yaw.append(yaw[-1] + turn)
    return np.stack(position, 1), (np.stack(yaw, 1) + np.pi) % (2 * np.pi) - np.pi


def driven(
    start: Float[np.ndarray, "n 2"], tried: Float[np.ndarray, "n 2"], posts: Float[np.ndarray, "n posts 2"]
) -> Float[np.ndarray, "n 2"]:
    """Where a step to `tried` ends: pushed out of posts, so that they are slid along; at its start where it cannot.

    A step that was possible stays as it is, so actions derived from poses lead along the same poses.
    """
    way, offset = tried - start, posts - start[:, None]
    length = np.maximum((way**2).sum(-1), 1e-12)[:, None]
    along = np.clip((offset * way[:, None]).sum(-1) / length, 0, 1)
    nearest = np.linalg.norm(offset - along[..., None] * way[:, None], axis=-1).min(1)
    place = cleared(tried, posts)
    stopped = (nearest < CORE) | (_distance(place, posts).min(1) < CLEAR - TOUCH)
    return np.where(stopped[:, None], start, place)


def cleared(place: Float[np.ndarray, "n 2"], posts: Float[np.ndarray, "n posts 2"]) -> Float[np.ndarray, "n 2"]:
    """The place, or where it is pushed out of the post that is nearest."""
    rows = np.arange(len(place))
    for _ in range(ROUNDS):
        distance = _distance(place, posts)
        worst = distance.argmin(1)
        centre, near = posts[rows, worst], distance[rows, worst]
        out = centre + (place - centre) * (CLEAR / np.maximum(near, 1e-9))[:, None]
        place = np.where((near < CLEAR)[:, None], out, place)
    return place


def touching(place: Float[np.ndarray, "n f 2"], posts: Float[np.ndarray, "n posts 2"]) -> Bool[np.ndarray, "n f"]:
    """Whether the rover stands at a post."""
    return np.linalg.norm(place[:, :, None] - posts[:, None], axis=-1).min(-1) < CLEAR + TOUCH


def _distance(place: Float[np.ndarray, "n 2"], posts: Float[np.ndarray, "n posts 2"]) -> Float[np.ndarray, "n posts"]:
    return np.linalg.norm(place[:, None] - posts, axis=-1)
