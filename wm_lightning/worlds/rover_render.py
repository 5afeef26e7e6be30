"""What a rover sees: a sky, hilly ground, posts, and the ball; the pictures of many frames at once.

Ground is found along every column's ray: the first place whose row lies above all nearer ones' is seen there, and hides
what is behind it. The camera stands upright over the rover; a tilt moves its picture up or down, as a shifted lens
does, and upright things stay so.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from wm_lightning.worlds.rover_ground import CELL, CELLS, Ground

FIELD, EYE = 1.4, 0.5  # radians across the picture; metres above the ground
HORIZON = 0.42  # share of the picture's height, on level ground
SKY = np.array([(96, 142, 205), (176, 204, 232)], np.float32)  # at the top, at the horizon
GRASS, SOIL = np.array((92, 122, 58), np.float32), np.array((138, 112, 82), np.float32)
BALL = (214, 52, 40)
POST_WIDTH, POST_HEIGHT, BALL_SIZE = 0.35, 1.6, 0.7  # metres
NEAREST = 0.4  # metres ahead; nearer things are not drawn
BEFORE = 0.2  # metres by which ground must lie nearer than a thing to hide it
HAZE, THICKEST = 25.0, 0.75  # metres until all is haze, and the most of it
STEPS = np.geomspace(0.3, 60, 48).astype(np.float32)  # metres ahead at which a ray asks for the ground
TOGETHER = 4  # frames drawn at once: as many as a core's cache holds


@dataclass(frozen=True)
class Poses:
    """Where the rover stands, how it is turned and tilted (radians), and where the ball lies (metres), by frame."""

    place: Float[np.ndarray, "f 2"]
    yaw: Float[np.ndarray, "f"]
    height: Float[np.ndarray, "f"]
    pitch: Float[np.ndarray, "f"]
    ball: Float[np.ndarray, "f 2"]


@dataclass(frozen=True)
class _Camera:
    """Rays of some frames: (x, y) a metre ahead by column, the row of the horizon and the eye's height by frame."""

    ray: Float[np.ndarray, "2 f w"]
    place: Float[np.ndarray, "2 f"]
    horizon: Float[np.ndarray, "f"]
    eye: Float[np.ndarray, "f"]
    focus: float
    rows: int

    @classmethod
    def of(cls, poses: Poses, part: slice, height: int, width: int) -> "_Camera":
        focus = 0.5 * width / np.tan(0.5 * FIELD)
        across = (np.arange(width) - 0.5 * (width - 1)) / focus
        cos, sin = np.cos(poses.yaw[part, None]), np.sin(poses.yaw[part, None])
        ray = np.stack([cos - across * sin, sin + across * cos])
        horizon = HORIZON * height + focus * np.tan(poses.pitch[part])
        return cls(ray, poses.place[part].T, horizon, poses.height[part] + EYE, focus, height)


def render(ground: Ground, poses: Poses, height: int, width: int) -> UInt8[np.ndarray, "f h w 3"]:
    """The RGB picture of every pose; each depends on its own pose alone, to the bit."""
    video = np.empty((len(poses.yaw), height, width, 3), np.uint8)
    # Columns are what rays fill, so they come before rows here.
    pictures = video.transpose(0, 2, 1, 3)
    depths = np.empty(pictures.shape[:3], np.float32)
    for first in range(0, len(pictures), TOGETHER):
        part = slice(first, first + TOGETHER)
        camera = _Camera.of(poses, part, height, width)
        depths[part] = _draw_ground(pictures[part], ground, camera)
    _draw_things(pictures, depths, ground, poses)
    return video


def _draw_ground(
    pictures: UInt8[np.ndarray, "f w h 3"], ground: Ground, camera: _Camera
) -> Float32[np.ndarray, "f w h"]:
    """Fills the pictures with sky and ground; returns how far ahead the ground is, infinity in the sky."""
    rows = _rows_of_steps(ground, camera)
    reached = _first_step(rows, camera.rows)
    seen = reached < len(STEPS)
    top = int(seen.any((0, 1)).argmax())
    lower = _depth(rows, reached[..., top:], top)
    pictures[:] = _sky(camera)[:, None]
    _paint(pictures[:, :, top:], seen[..., top:], ground, camera, lower)
    depth = np.full(reached.shape, np.inf, np.float32)
    np.copyto(depth[..., top:], lower, where=seen[..., top:])
    return depth


def _rows_of_steps(ground: Ground, camera: _Camera) -> Float32[np.ndarray, "f w s"]:
    """The picture's row at which the ground lies at every step of every column's ray."""
    rise = np.zeros((*camera.ray.shape[1:], len(STEPS)), np.float32)
    for kx, ky, high, phase in ground.waves.tolist():
        start = (kx * camera.place[0] + ky * camera.place[1] + phase) % (2 * np.pi)
        along = (kx * camera.ray[0] + ky * camera.ray[1]).astype(np.float32)
        wave = along[..., None] * STEPS
        wave += start.astype(np.float32)[:, None, None]
        rise += np.float32(high) * np.sin(wave, out=wave)
    rise -= camera.eye.astype(np.float32)[:, None, None]
    rise *= np.float32(-camera.focus) / STEPS
    return rise + camera.horizon.astype(np.float32)[:, None, None]


def _first_step(rows: Float32[np.ndarray, "f w s"], height: int) -> Int[np.ndarray, "f w h"]:
    """The first step whose ground reaches up to a pixel's middle: what is seen there; the number of steps for none."""
    highest = np.minimum.accumulate(rows, axis=-1)
    covered = np.clip(np.ceil(highest - 0.5), 0, height).astype(np.intp).reshape(-1, rows.shape[-1])
    covered += (height + 1) * np.arange(len(covered))[:, None]
    counts = np.bincount(covered.ravel(), minlength=len(covered) * (height + 1))
    counts = counts.reshape(*rows.shape[:2], height + 1)[..., :height]
    return rows.shape[-1] - counts.cumsum(-1)


def _depth(
    rows: Float32[np.ndarray, "f w s"], reached: Int[np.ndarray, "f w h"], top: int
) -> Float32[np.ndarray, "f w h"]:
    """Metres ahead of the ground that is seen at a pixel, between the step before and the one that reached it."""
    after = np.minimum(reached, len(STEPS) - 1)
    before = np.maximum(after - 1, 0)
    first = len(STEPS) * np.arange(rows.shape[0] * rows.shape[1]).reshape(*rows.shape[:2], 1)
    lower, upper = rows.take(first + before, mode="clip"), rows.take(first + after, mode="clip")
    middle = (top + 0.5 + np.arange(reached.shape[-1])).astype(np.float32)
    share = np.clip((lower - middle) / np.maximum(lower - upper, np.float32(1e-6)), 0, 1)
    # A row falls as one over the distance does.
    inverse = 1 / STEPS
    near = inverse.take(before)
    return 1 / (near + share * (inverse.take(after) - near))


def _sky(camera: _Camera) -> UInt8[np.ndarray, "f h 3"]:
    above = camera.horizon[:, None] - (np.arange(camera.rows) + 0.5)
    share = np.clip(1 - above / (HORIZON * camera.rows), 0, 1)[..., None]
    return (SKY[0] * (1 - share) + SKY[1] * share + 0.5).astype(np.uint8)


def _paint(
    pictures: UInt8[np.ndarray, "f w h 3"], seen: Bool[np.ndarray, "f w h"], ground: Ground, camera: _Camera,
    depth: Float32[np.ndarray, "f w h"],
) -> None:  # fmt: skip
    """Colours the ground where it is seen: grass and soil, sunlit, and before them haze."""
    parts = []
    for place, ray in zip(camera.place, camera.ray, strict=True):
        along = (ray / CELL).astype(np.float32)[..., None] * depth
        along += (place / CELL % CELLS).astype(np.float32)[:, None, None]
        whole = np.floor(along)
        along -= whole
        parts.append((along, whole.astype(np.intp) & (CELLS - 1)))
    (u, column), (v, row) = parts
    cell = row * CELLS + column
    soil, light = (_within(look, cell, u, v) for look in ground.looks)
    np.clip(soil, 0, 1, out=soil)
    haze = np.minimum(depth / HAZE, THICKEST)
    light *= 1 - haze
    for channel in range(3):
        colour = soil * (SOIL[channel] - GRASS[channel])
        colour += GRASS[channel]
        colour *= light
        colour += SKY[1, channel] * haze + 0.5
        np.copyto(pictures[..., channel], colour.astype(np.uint8), where=seen)


def _within(
    look: Float32[np.ndarray, "4 cells"], cell: Int[np.ndarray, "f w h"], u: Float32[np.ndarray, "f w h"],
    v: Float32[np.ndarray, "f w h"],
) -> Float32[np.ndarray, "f w h"]:  # fmt: skip
    a, b, c, d = (part.take(cell, mode="clip") for part in look)
    b *= u
    b += a
    d *= u
    d += c
    d *= v
    return np.add(b, d, out=b)


def _draw_things(
    pictures: UInt8[np.ndarray, "f w h 3"], depths: Float32[np.ndarray, "f w h"], ground: Ground, poses: Poses
) -> None:
    """Draws posts and ball as upright rectangles, far ones first, where no nearer ground hides them."""
    width, height = pictures.shape[1:3]
    focus = 0.5 * width / np.tan(0.5 * FIELD)
    posts = np.broadcast_to(ground.posts, (len(pictures), *ground.posts.shape))
    places = np.concatenate([posts, poses.ball[:, None]], axis=1)
    colours = np.concatenate([ground.colours, np.array([BALL], np.float32)])
    wide, tall = (np.append(np.full(len(ground.posts), size), BALL_SIZE) for size in (POST_WIDTH, POST_HEIGHT))
    x, y = np.moveaxis(places - poses.place[:, None], -1, 0)
    cos, sin = np.cos(poses.yaw)[:, None], np.sin(poses.yaw)[:, None]
    ahead, right = x * cos + y * sin, y * cos - x * sin
    near = np.maximum(ahead, NEAREST)
    horizon, eye = HORIZON * height + focus * np.tan(poses.pitch), poses.height + EYE
    feet = horizon[:, None] + focus * (eye[:, None] - ground.height(places)) / near
    edges = [0.5 * width + focus * (right + side * wide) / near for side in (-0.5, 0.5)]
    left, end = (np.clip(np.round(edge), 0, width).astype(int) for edge in edges)
    top, bottom = (np.clip(np.round(edge), 0, height).astype(int) for edge in (feet - focus * tall / near, feet))
    haze = np.minimum(ahead / HAZE, THICKEST)[..., None]
    shown = (colours * (1 - haze) + SKY[1] * haze + 0.5).astype(np.uint8)
    frame, thing = np.nonzero((ahead > NEAREST) & (left < end) & (top < bottom))
    for place in np.argsort(-ahead[frame, thing], kind="stable"):
        at = frame[place], thing[place]
        box = (at[0], slice(left[at], end[at]), slice(top[at], bottom[at]))
        pictures[box][depths[box] > ahead[at] - BEFORE] = shown[at]
