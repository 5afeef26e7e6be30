"""What a rover sees: a sky, ground with patches of grass and soil, posts, and the ball."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

FIELD, EYE = 1.4, 0.5  # radians across the picture; metres above the ground
HORIZON = 0.42  # share of the picture's height
SKY = np.array([(96, 142, 205), (176, 204, 232)], np.float32)  # at the top, at the horizon
GRASS, SOIL = np.array((92, 122, 58), np.float32), np.array((138, 112, 82), np.float32)
POSTS = np.array([(70, 60, 52), (180, 180, 172), (58, 84, 70), (150, 120, 60)], np.float32)
BALL = (214, 52, 40)
POST_WIDTH, POST_HEIGHT, BALL_SIZE = 0.35, 1.6, 0.7  # metres
CELL = 1.5  # metres of ground a value of its texture covers


@dataclass(frozen=True)
class Ground:
    """A texture that repeats, and posts with their colours."""

    texture: Float[np.ndarray, "cells cells"]
    posts: Float[np.ndarray, "posts 2"]
    colours: Float[np.ndarray, "posts 3"]

    @classmethod
    def drawn(cls, source: np.random.Generator, posts: int, area: float) -> "Ground":
        """A ground of `area` metres around the middle."""
        places = source.uniform(-1.3 * area, 1.3 * area, (posts, 2))
        return cls(source.random((32, 32)), places, POSTS[source.integers(len(POSTS), size=posts)])

    def at(self, x: Float[np.ndarray, "..."], y: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """The texture between its values, in [0, 1]."""
        u, v = x / CELL, y / CELL
        column, row = np.floor(u).astype(int), np.floor(v).astype(int)
        du, dv = u - column, v - row
        size = len(self.texture)
        value = lambda dr, dc: self.texture[(row + dr) % size, (column + dc) % size]  # noqa: E731
        upper, lower = value(0, 0) * (1 - du) + value(0, 1) * du, value(1, 0) * (1 - du) + value(1, 1) * du
        return upper * (1 - dv) + lower * dv


def render(
    ground: Ground, place: Float[np.ndarray, "2"], yaw: float, ball: Float[np.ndarray, "2"], height: int, width: int
) -> UInt8[np.ndarray, "h w 3"]:
    """The RGB picture from a pose (metres, radians)."""
    focus = 0.5 * width / np.tan(0.5 * FIELD)
    across = (np.arange(width) - 0.5 * (width - 1)) / focus
    down = (np.arange(height) + 0.5 - HORIZON * height) / focus
    picture = np.empty((height, width, 3), np.float32)
    above = down <= 0
    share = np.clip(1 + down[above] / max(-down[0], 1e-6), 0, 1)[:, None, None]
    picture[above] = SKY[0] * (1 - share) + SKY[1] * share
    depth = (EYE / down[~above])[:, None]
    x = place[0] + depth * (np.cos(yaw) - across * np.sin(yaw))
    y = place[1] + depth * (np.sin(yaw) + across * np.cos(yaw))
    mix = np.clip(1.6 * ground.at(x, y) - 0.3, 0, 1)[..., None]
    haze = np.clip(depth / 25, 0, 0.75)[..., None]
    picture[~above] = (GRASS * (1 - mix) + SOIL * mix) * (1 - haze) + SKY[1] * haze
    things = [
        (post, POST_WIDTH, POST_HEIGHT, colour) for post, colour in zip(ground.posts, ground.colours, strict=True)
    ]
    things.append((ball, BALL_SIZE, BALL_SIZE, np.array(BALL, np.float32)))
    offsets = np.array([thing[0] for thing in things]) - place
    ahead = offsets @ np.array([np.cos(yaw), np.sin(yaw)])
    right = offsets @ np.array([-np.sin(yaw), np.cos(yaw)])
    for number in np.argsort(-ahead):
        if ahead[number] > 0.4:
            _, wide, tall, colour = things[number]
            _stand(picture, float(ahead[number]), float(right[number]), wide, tall, colour, focus)
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


def _stand(
    picture: Float[np.ndarray, "h w 3"], ahead: float, right: float, wide: float, tall: float,
    colour: Float[np.ndarray, "3"], focus: float,
) -> None:  # fmt: skip
    """Draws an upright rectangle on the ground."""
    height, width = picture.shape[:2]
    middle, half = 0.5 * width + focus * right / ahead, 0.5 * focus * wide / ahead
    feet = HORIZON * height + focus * EYE / ahead
    rows = slice(max(0, round(feet - focus * tall / ahead)), max(0, round(feet)))
    columns = slice(max(0, round(middle - half)), max(0, round(middle + half)))
    haze = min(ahead / 25, 0.75)
    picture[rows, columns] = colour * (1 - haze) + SKY[1] * haze
