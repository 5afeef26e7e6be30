"""The rover's ground: smooth hills, patches of grass and soil that the sun shades, and posts that stand on it."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Float32, Shaped

CELL, CELLS = 1.5, 32  # metres of ground a value of its texture covers, and values until it repeats
WAVES, LONGEST, SHORTEST = 7, 2, 7  # hills are so many waves, with this many to as many crests until they repeat
SUN, SHADE = np.array([0.8, 0.6]), 2.5  # whence light comes, and how much lighter a slope of 1 towards it is
POSTS = np.array([(70, 60, 52), (180, 180, 172), (58, 84, 70), (150, 120, 60)], np.float32)


@dataclass(frozen=True)
class Ground:
    """Hills as waves (radians a metre along x and y, metres high, radians), a texture, and posts with their colours.

    Hills and texture repeat every CELL * CELLS metres.
    """

    waves: Float[np.ndarray, "waves 4"]
    texture: Float[np.ndarray, "cells cells"]
    posts: Float[np.ndarray, "posts 2"]
    colours: Float[np.ndarray, "posts 3"]

    @classmethod
    def drawn(cls, source: np.random.Generator, posts: int, area: float, hills: float) -> "Ground":
        """A ground of `area` metres around the middle; `hills` is the standard deviation of its slope any one way."""
        places = source.uniform(-1.3 * area, 1.3 * area, (posts, 2))
        texture, colours = source.random((CELLS, CELLS)), POSTS[source.integers(len(POSTS), size=posts)]
        angle, phase = source.uniform(0, 2 * np.pi, (2, WAVES))
        crests = source.uniform(LONGEST, SHORTEST, WAVES)
        # Whole numbers of crests along both axes, so that hills repeat where the texture does.
        along = np.round(crests * [np.cos(angle), np.sin(angle)]) * 2 * np.pi / (CELL * CELLS)
        high = 2 * hills / np.sqrt(WAVES) / np.linalg.norm(along, axis=0)
        return cls(np.column_stack([*along, high, phase]), texture, places, colours)

    def height(self, place: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n"]:
        """Metres above the mean."""
        return (self.waves[:, 2] * np.sin(self._phase(place))).sum(-1)

    def slope(self, place: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n 2"]:
        """How far the ground rises a metre along x and along y."""
        steep = self.waves[:, 2] * np.cos(self._phase(place))
        return np.stack([(steep * self.waves[:, axis]).sum(-1) for axis in range(2)], -1)

    def pitch(self, place: Float[np.ndarray, "*n 2"], yaw: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """Radians by which a rover that looks along `yaw` is tilted up."""
        slope = self.slope(place)
        return np.arctan(slope[..., 0] * np.cos(yaw) + slope[..., 1] * np.sin(yaw))

    def _phase(self, place: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n waves"]:
        # Not as a matrix product: its last bits hang on how many places are asked for at once.
        return place[..., :1] * self.waves[:, 0] + place[..., 1:] * self.waves[:, 1] + self.waves[:, 3]

    @cached_property
    def looks(self) -> Float32[np.ndarray, "2 4 cells_cells"]:
        """Soil's share and light by cell, as a + b u + c v + d u v of the place (u, v) in the cell."""
        corners = CELL * np.stack(np.meshgrid(np.arange(CELLS), np.arange(CELLS)), -1)
        light = np.clip(1 - SHADE * (self.slope(corners) * SUN).sum(-1), 0.6, 1.4)
        return np.stack([_bilinear(1.6 * self.texture - 0.3), _bilinear(light)]).astype(np.float32)


def _bilinear(corner: Shaped[np.ndarray, "cells cells"]) -> Shaped[np.ndarray, "4 cells_cells"]:
    right, below = np.roll(corner, -1, 1), np.roll(corner, -1, 0)
    both = np.roll(right, -1, 0)
    parts = [corner, right - corner, below - corner, both - right - below + corner]
    return np.stack(parts).reshape(4, -1)
