"""How the rover moves among posts: it slides along them, and never through."""

import numpy as np
from jaxtyping import Bool, Float

RATE = 4  # frames a second, as in RECON's recordings
CLEAR = 0.5  # metres from a post's middle to the rover's, at least: half of either, and a hand's breadth
CORE = 0.3  # metres: a step that passes nearer than this would go through the post
TOUCH = 1e-3  # metres beyond CLEAR that still count as contact: poses are stored with rounded actions
ROUNDS = 8  # posts may stand so near that leaving one leads into another


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
