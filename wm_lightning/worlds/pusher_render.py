"""Pictures of the pusher's table: anti-aliased shapes whose colours tell every object apart.

Shapes are drawn into small windows round their centres, which costs a thirtieth of whole pictures.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

from wm_lightning.worlds.pusher_dynamics import BLOCK_RADIUS, DISTRACTOR_RADIUS, GOALS, GRIPPER_RADIUS

Canvas = Float32[np.ndarray, "n h w 3"]
Colour = tuple[int, int, int]

TABLE = (62, 65, 70)
ZONES = ((54, 84, 62), (86, 80, 54))
GRIPPER = (232, 44, 44)
FINGERS = (255, 170, 170)
PALM = (120, 22, 22)
BLOCKS = ((44, 196, 76), (244, 204, 36))
DISTRACTOR = (52, 96, 240)
ZONE_RADIUS = 0.13
# Drawn a little smaller than it touches, so that a line of table separates what touches.
BLOCK_HALF = BLOCK_RADIUS - 0.012
BLOCK_CORNER = 0.025
GRIPPER_DRAWN = GRIPPER_RADIUS - 0.01
DISTRACTOR_DRAWN = DISTRACTOR_RADIUS - 0.005


def render(
    gripper: Float[np.ndarray, "n 2"],
    look: Float[np.ndarray, "n 3"],
    blocks: Float[np.ndarray, "n k 2"],
    distractor: Float[np.ndarray, "n 2"],
    pixels: int,
) -> UInt8[np.ndarray, "n h w 3"]:
    """RGB pictures of `n` tables, `pixels` high and wide.

    Positions are in frame widths; `look` is the gripper's height (-1..1: its size), angle (radians: its
    finger bar, the same after half a turn) and opening (0..1: its dark palm).
    """
    canvas = np.repeat(_empty_table(pixels)[None], len(gripper), axis=0)
    stamp = _Stamp(canvas, pixels)
    # The distractor lies lowest: it may never hide what an action moves.
    stamp.disc(distractor, np.full(len(gripper), DISTRACTOR_DRAWN), DISTRACTOR)
    for number, colour in enumerate(BLOCKS):
        stamp.box(blocks[:, number], colour)
    height, angle, opening = look.T
    size = GRIPPER_DRAWN * (1 + 0.08 * height)
    stamp.disc(gripper, size, GRIPPER)
    stamp.disc(gripper, 0.55 * GRIPPER_DRAWN * opening, PALM)
    stamp.bar(gripper, angle, 0.8 * GRIPPER_DRAWN, FINGERS)
    return (canvas + 0.5).astype(np.uint8)


def _empty_table(pixels: int) -> Float[np.ndarray, "h w 3"]:
    table = np.empty((1, pixels, pixels, 3), dtype=np.float32)
    table[:] = TABLE
    rows, columns = np.mgrid[:pixels, :pixels] + 0.5
    for goal, colour in zip(GOALS, ZONES, strict=True):
        distance = np.hypot(columns - goal[0] * pixels, rows - goal[1] * pixels) - ZONE_RADIUS * pixels
        cover = np.clip(0.5 - distance, 0, 1)[..., None]
        table[0] += cover * (np.array(colour) - table[0])
    return table[0]


@dataclass(frozen=True)
class _Window:
    """x and y of the pixel centres of a square window, relative to the shape, and their flat places."""

    x: Float32[np.ndarray, "n 1 p"]
    y: Float32[np.ndarray, "n p 1"]
    place: Int[np.ndarray, "n p p"]


class _Stamp:
    """Blends one shape per picture into a window of the canvas, in place."""

    def __init__(self, canvas: Canvas, pixels: int) -> None:
        self.flat = canvas.reshape(-1, 3)
        self.pixels = pixels
        self.first = np.arange(len(canvas))[:, None, None] * pixels**2

    def disc(self, centre: Float[np.ndarray, "n 2"], radius: Float[np.ndarray, "n"], colour: Colour) -> None:
        window = self._window(centre, radius.max())
        distance = np.sqrt(window.x**2 + window.y**2) - (self.pixels * radius).astype(np.float32)[:, None, None]
        self._blend(window, distance, colour)

    def box(self, centre: Float[np.ndarray, "n 2"], colour: Colour) -> None:
        window = self._window(centre, BLOCK_HALF)
        inner = self.pixels * (BLOCK_HALF - BLOCK_CORNER)
        x, y = np.abs(window.x) - inner, np.abs(window.y) - inner
        outside = np.sqrt(np.maximum(x, 0) ** 2 + np.maximum(y, 0) ** 2)
        distance = outside + np.minimum(np.maximum(x, y), 0) - self.pixels * BLOCK_CORNER
        self._blend(window, distance, colour)

    def bar(
        self,
        centre: Float[np.ndarray, "n 2"],
        angle: Float[np.ndarray, "n"],
        half: float,
        colour: Colour,
    ) -> None:
        window = self._window(centre, 1.1 * half)
        cosine = np.cos(angle).astype(np.float32)[:, None, None]
        sine = np.sin(angle).astype(np.float32)[:, None, None]
        along = np.abs(cosine * window.x + sine * window.y)
        across = np.abs(cosine * window.y - sine * window.x)
        distance = np.maximum(along - self.pixels * half, across - 0.25 * self.pixels * half)
        self._blend(window, distance, colour)

    def _window(self, centre: Float[np.ndarray, "n 2"], half: float) -> _Window:
        """The window that holds a shape reaching `half` frame widths from its centre, moved into the picture."""
        size = min(self.pixels, int(np.ceil(2 * half * self.pixels)) + 3)
        middle = centre * self.pixels
        corner = np.clip(np.floor(middle - size / 2).astype(int), 0, self.pixels - size)
        columns, lines = corner[:, :1] + np.arange(size), corner[:, 1:] + np.arange(size)
        return _Window(
            x=(columns + 0.5 - middle[:, :1]).astype(np.float32)[:, None, :],
            y=(lines + 0.5 - middle[:, 1:]).astype(np.float32)[:, :, None],
            place=self.first + self.pixels * lines[:, :, None] + columns[:, None, :],
        )

    def _blend(self, window: _Window, distance: Float32[np.ndarray, "n p p"], colour: Colour) -> None:
        cover = np.clip(0.5 - distance, 0, 1)[..., None]
        under = self.flat[window.place]
        self.flat[window.place] = under + cover * (np.array(colour, dtype=np.float32) - under)
