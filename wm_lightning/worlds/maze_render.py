"""Pictures of the maze by ray casting: textured walls, shaded floor and ceiling, the bot, and what the player holds."""

import numpy as np
from jaxtyping import Float, Int, UInt8

from wm_lightning.worlds.maze_dynamics import MAGAZINE, Scene

FIELD = 1.15  # horizontal field of view, radians
WALLS = np.array([(168, 150, 120), (120, 132, 150), (150, 108, 92), (112, 140, 104)], np.float32)
CEILING, FLOOR = np.array((126, 150, 178), np.float32), np.array((104, 98, 88), np.float32)
BOT = np.array((212, 40, 168), np.float32)
WEAPONS = np.array([(240, 120, 20), (30, 200, 220), (230, 225, 40)], np.float32)
FLASH, AMMUNITION = np.array((255, 244, 190), np.float32), np.array((245, 245, 245), np.float32)
BOT_WIDTH, BOT_HEIGHT = 0.35, 0.75  # cells, wall heights
EYE, CROUCHED_EYE = 0.5, 0.32
# Rectangles of the display, as shares of height and width: top, bottom, left, right.
WEAPON_BOX = (0.80, 0.95, 0.84, 0.97)
AMMUNITION_BOX = (0.74, 0.77, 0.70, 0.97)


def focal(width: int) -> float:
    """Pixels from the eye to the picture."""
    return 0.5 * width / np.tan(0.5 * FIELD)


def render(
    scene: Scene, grids: UInt8[np.ndarray, "n rows columns"], height: int, width: int
) -> UInt8[np.ndarray, "n h w 3"]:
    """RGB pictures of one frame of every episode."""
    angles = np.arctan((np.arange(width) - 0.5 * (width - 1)) / focal(width))
    distance, across, kind, side = cast(scene.place, scene.yaw[:, None] + angles, grids)
    depth = distance * np.cos(angles)  # to the picture's plane, so that straight walls stay straight
    eye = np.where(scene.crouched, CROUCHED_EYE, EYE) + scene.height
    horizon = 0.5 * height + focal(width) * np.tan(scene.pitch)
    picture = _walls(depth, across, kind, side, eye, horizon, height, focal(width))
    _draw_bot(picture, scene, depth, eye, horizon)
    _draw_display(picture, scene)
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


def cast(
    place: Float[np.ndarray, "n 2"], angle: Float[np.ndarray, "n w"], grids: UInt8[np.ndarray, "n rows columns"]
) -> tuple[Float[np.ndarray, "n w"], Float[np.ndarray, "n w"], Int[np.ndarray, "n w"], Int[np.ndarray, "n w"]]:
    """Where rays meet walls (Amanatides and Woo's grid traversal): distance, place along the wall, kind, and axis."""
    way = np.stack([np.cos(angle), np.sin(angle)])
    way = np.where(np.abs(way) < 1e-9, 1e-9, way)
    cell = np.floor(place.T[:, :, None] + 0 * way).astype(int)
    step, gap = np.sign(way).astype(int), 1 / np.abs(way)
    following = np.where(way > 0, cell + 1 - place.T[:, :, None], place.T[:, :, None] - cell) * gap
    rows = np.arange(len(place))[:, None]
    side = np.zeros(angle.shape, int)
    alive = np.ones(angle.shape, bool)
    for _ in range(2 * grids.shape[1]):
        axis = (following[1] < following[0]).astype(int)
        for which in range(2):
            now = alive & (axis == which)
            cell[which] = np.where(now, cell[which] + step[which], cell[which])
            side = np.where(now, which, side)
            following[which] = np.where(now, following[which] + gap[which], following[which])
        alive &= grids[rows, cell[1], cell[0]] == 0
        if not alive.any():
            break
    distance = np.where(side == 0, following[0] - gap[0], following[1] - gap[1])
    meeting = place.T[:, :, None] + distance * way
    across = np.where(side == 0, meeting[1], meeting[0]) % 1
    return np.maximum(distance, 1e-3), across, grids[rows, cell[1], cell[0]].astype(int), side


def _walls(depth, across, kind, side, eye, horizon, height, focus):
    """Walls with bricks and mortar between a floor and a ceiling that darken with distance."""
    # Pictures are drawn in float32: half the memory, and eight bits come out of it.
    depth, across, eye, horizon = (values.astype(np.float32) for values in (depth, across, eye, horizon))
    tall = np.float32(focus) / depth
    down = np.arange(height, dtype=np.float32)[None, :, None]
    top = horizon[:, None] - tall * (1 - eye[:, None])
    v = (down - top[:, None]) / tall[:, None]
    inside = (v >= 0) & (v < 1)
    course = np.floor(v * 6)
    beside = across[:, None] * 3 + np.float32(0.5) * (course.astype(np.int32) & 1)
    mortar = (v * 6 - course < 0.14) | (beside - np.floor(beside) < 0.07)
    shade = np.where(side == 0, np.float32(1.0), np.float32(0.8)) / (1 + np.float32(0.10) * depth)
    walls = WALLS[kind - 1][:, None] * (shade[:, None] * np.where(mortar, np.float32(0.65), 1))[..., None]
    reach = np.abs(down - horizon[:, None, None]) / np.float32(height)
    plane = np.where((down < horizon[:, None, None])[..., None], CEILING, FLOOR)
    plane = plane * (np.float32(0.45) + np.float32(0.9) * reach)[..., None]  # one value a row
    return np.where(inside[..., None], walls, plane)


def _draw_bot(picture, scene, depth, eye, horizon) -> None:
    n, height, width = picture.shape[:3]
    offset = scene.bot - scene.place
    ahead = offset[:, 0] * np.cos(scene.yaw) + offset[:, 1] * np.sin(scene.yaw)
    right = -offset[:, 0] * np.sin(scene.yaw) + offset[:, 1] * np.cos(scene.yaw)
    near = np.maximum(ahead, 0.2)
    scale = focal(width) / near
    middle, half = 0.5 * width + scale * right / 1.0, 0.5 * BOT_WIDTH * scale
    feet = horizon + scale * eye
    columns, rows = np.arange(width)[None, None, :], np.arange(height)[None, :, None]
    seen = (np.abs(columns - middle[:, None, None]) < half[:, None, None]) & (ahead[:, None, None] > 0.2)
    seen = seen & (rows < feet[:, None, None]) & (rows > (feet - BOT_HEIGHT * scale)[:, None, None])
    seen = seen & (near[:, None, None] < depth[:, None, :])
    for row in np.flatnonzero(seen.any((1, 2))):
        picture[row, seen[row]] = BOT / (1 + 0.06 * near[row])


def box(shares: tuple[float, float, float, float], height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of a rectangle of the display, at least one pixel each."""
    top, bottom, left, right = shares
    rows = slice(int(top * height), max(int(bottom * height), int(top * height) + 1))
    return rows, slice(int(left * width), max(int(right * width), int(left * width) + 1))


def _draw_display(picture: Float[np.ndarray, "n h w 3"], scene: Scene) -> None:
    height, width = picture.shape[1:3]
    rows, columns = box(WEAPON_BOX, height, width)
    picture[:, rows, columns] = WEAPONS[scene.weapon][:, None, None]
    rows, columns = box(AMMUNITION_BOX, height, width)
    filled = np.where(scene.reloading > 0, 0, scene.ammunition) / MAGAZINE
    share = (np.arange(columns.stop - columns.start) + 0.5) / (columns.stop - columns.start)
    bar = (share[None] < filled[:, None])[:, None, :, None]
    picture[:, rows, columns] = np.where(bar, AMMUNITION, 0.4 * picture[:, rows, columns])
    if scene.flash.any():
        down, across = np.mgrid[:height, :width]
        far = ((down - 0.82 * height) / (0.10 * height)) ** 2 + ((across - 0.5 * width) / (0.07 * width)) ** 2
        strength = np.exp(-far)[..., None]
        picture[scene.flash] = picture[scene.flash] * (1 - strength) + FLASH * strength
