"""A first-person maze: walls on a grid, a player with Counter-Strike's controls, and a bot that no action explains."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from wm_lightning.data.formats.csgo import CLICKS, KEYS, MOUSE, MOUSE_X, MOUSE_Y

RATE = 16  # frames a second, as in Counter-Strike's recordings: the speeds below are those of a sixteenth of a second
KINDS = 4  # of walls
RADIUS = 0.2  # of player and bot, in cells
RUN, BOT_SPEED = 0.09, 0.05  # cells a frame
WALK, CROUCH = 0.5, 0.35  # of the running speed
TURN, TILT = 0.0009, 0.0015  # radians a count of the mouse
STEEPEST = 0.25
JUMP, GRAVITY = 0.055, 0.009  # wall heights a frame, and a frame squared
MAGAZINE, RELOAD = 12, 8
KEY = {name: place for place, name in enumerate((*KEYS, *CLICKS))}


@dataclass(frozen=True)
class Scene:
    """What holds at one frame of `n` episodes. Places are in cells, angles in radians, heights in wall heights."""

    place: Float[np.ndarray, "n 2"]
    yaw: Float[np.ndarray, "n"]
    pitch: Float[np.ndarray, "n"]
    height: Float[np.ndarray, "n"]
    lift: Float[np.ndarray, "n"]
    crouched: Bool[np.ndarray, "n"]
    weapon: Int[np.ndarray, "n"]
    ammunition: Int[np.ndarray, "n"]
    reloading: Int[np.ndarray, "n"]
    flash: Bool[np.ndarray, "n"]
    bot: Float[np.ndarray, "n 2"]
    bot_yaw: Float[np.ndarray, "n"]


def carve(source: np.random.Generator, cells: int) -> UInt8[np.ndarray, "cells cells"]:
    """A maze of odd size: 0 is free, 1.. a kind of wall; loops and small rooms are opened."""
    grid = source.integers(1, KINDS + 1, (cells, cells)).astype(np.uint8)
    stack: list[tuple[int, int]] = [(1, 1)]
    grid[1, 1] = 0
    while stack:
        row, column = stack[-1]
        steps = [(row + 2 * a, column + 2 * b, row + a, column + b) for a, b in ((0, 1), (1, 0), (0, -1), (-1, 0))]
        inside = [s for s in steps if 0 < s[0] < cells - 1 and 0 < s[1] < cells - 1 and grid[s[0], s[1]]]
        if not inside:
            stack.pop()
            continue
        far_row, far_column, wall_row, wall_column = inside[source.integers(len(inside))]
        grid[far_row, far_column] = grid[wall_row, wall_column] = 0
        stack.append((far_row, far_column))
    opened = source.random((cells, cells)) < 0.25
    opened[[0, -1]] = opened[:, [0, -1]] = False
    grid[opened] = 0
    return grid


def first_scene(grids: UInt8[np.ndarray, "n rows columns"], sources: list[np.random.Generator]) -> Scene:
    """Player and bot in the middle of free cells."""
    places, bots = [], []
    for grid, source in zip(grids, sources, strict=True):
        free = np.argwhere(grid == 0)
        player, bot = source.choice(len(free), 2, replace=False)
        places.append(free[player][::-1] + 0.5)  # x is the column
        bots.append(free[bot][::-1] + 0.5)
    n = len(grids)
    angles = np.array([source.uniform(-np.pi, np.pi, 2) for source in sources])
    zeros, none = np.zeros(n), np.zeros(n, bool)
    return Scene(
        place=np.array(places), yaw=angles[:, 0], pitch=zeros, height=zeros, lift=zeros, crouched=none,
        weapon=np.zeros(n, int), ammunition=np.full(n, MAGAZINE), reloading=np.zeros(n, int), flash=none,
        bot=np.array(bots), bot_yaw=angles[:, 1],
    )  # fmt: skip


def advance(
    scene: Scene,
    grids: UInt8[np.ndarray, "n rows columns"],
    action: Float[np.ndarray, "n 51"],
    turns: Float[np.ndarray, "n"],
) -> Scene:
    """The next frame. `turns` (radians) turn the bot: they are drawn, and in no action.

    A right click does nothing: no weapon here has a second use.
    """
    pressed = {name: action[:, place] > 0.5 for name, place in KEY.items()}
    yaw = wrapped(scene.yaw + TURN * np.array(MOUSE_X)[action[:, MOUSE["x"]].argmax(1)])
    pitch = np.clip(scene.pitch - TILT * np.array(MOUSE_Y)[action[:, MOUSE["y"]].argmax(1)], -STEEPEST, STEEPEST)
    lift = np.where(pressed["space"] & (scene.height == 0), JUMP, scene.lift)
    height = np.maximum(0.0, scene.height + lift)
    lift = np.where(height > 0, lift - GRAVITY, 0.0)
    bot_yaw = wrapped(scene.bot_yaw + turns)
    ahead = BOT_SPEED * np.stack([np.cos(bot_yaw), np.sin(bot_yaw)], 1)
    bot = moved(scene.bot, ahead, grids)
    stuck = np.abs(bot - scene.bot).sum(1) < 0.5 * BOT_SPEED
    place = moved(scene.place, _stride(pressed, yaw), grids)
    scene = replace(scene, place=place, yaw=yaw, pitch=pitch, height=height, lift=lift, crouched=pressed["ctrl"])
    return _armed(replace(scene, bot=bot, bot_yaw=np.where(stuck, wrapped(bot_yaw + 2.0), bot_yaw)), pressed)


def moved(
    place: Float[np.ndarray, "n 2"], step: Float[np.ndarray, "n 2"], grids: UInt8[np.ndarray, "n rows columns"]
) -> Float[np.ndarray, "n 2"]:
    """The place after a step, each axis by itself, so that walls are slid along."""
    for axis in range(2):
        tried = place.copy()
        tried[:, axis] += step[:, axis]
        place = np.where(_blocked(tried, grids)[:, None], place, tried)
    return place


def wrapped(angle: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """The same angles in [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _stride(pressed: dict[str, Bool[np.ndarray, "n"]], yaw: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n 2"]:
    forward = pressed["w"].astype(float) - pressed["s"]
    right = pressed["d"].astype(float) - pressed["a"]
    length = np.maximum(1.0, np.hypot(forward, right))
    speed = RUN * np.where(pressed["shift"], WALK, 1.0) * np.where(pressed["ctrl"], CROUCH, 1.0) / length
    # The picture's right is a positive turn.
    x = forward * np.cos(yaw) - right * np.sin(yaw)
    y = forward * np.sin(yaw) + right * np.cos(yaw)
    return speed[:, None] * np.stack([x, y], 1)


def _armed(scene: Scene, pressed: dict[str, Bool[np.ndarray, "n"]]) -> Scene:
    weapon = scene.weapon
    for number in range(3):
        weapon = np.where(pressed[str(number + 1)], number, weapon)
    reloading = np.maximum(0, scene.reloading - 1)
    full = np.where((scene.reloading == 1), MAGAZINE, scene.ammunition)
    reloading = np.where(pressed["r"] & (reloading == 0) & (full < MAGAZINE), RELOAD, reloading)
    flash = pressed["left_click"] & (full > 0) & (reloading == 0)
    return replace(scene, weapon=weapon, reloading=reloading, ammunition=full - flash, flash=flash)


def _blocked(place: Float[np.ndarray, "n 2"], grids: UInt8[np.ndarray, "n rows columns"]) -> Bool[np.ndarray, "n"]:
    rows = np.arange(len(place))
    found = np.zeros(len(place), bool)
    for dx in (-RADIUS, RADIUS):
        for dy in (-RADIUS, RADIUS):
            x, y = (place[:, 0] + dx).astype(int), (place[:, 1] + dy).astype(int)
            found |= grids[rows, y, x] > 0
    return found
