"""A maze in the first person, with Counter-Strike's controls, in the layout of its published recordings."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Shaped, UInt8
from torch import Tensor

from wm_lightning.clip import Clip, Pixels
from wm_lightning.data.formats.atomic import atomic_file
from wm_lightning.data.formats.csgo import SPEC, write_csgo
from wm_lightning.data.formats.source import save_arrays
from wm_lightning.randomness import generator
from wm_lightning.worlds import maze_measure
from wm_lightning.worlds.maze_dynamics import Scene, advance, carve, first_scene
from wm_lightning.worlds.maze_policies import POLICIES, act, first_mood
from wm_lightning.worlds.maze_render import render
from wm_lightning.worlds.turning import sideways
from wm_lightning.worlds.world import Measures

# Raise it whenever the same settings would give other pixels or actions: it names the cached data.
VERSION = 2
TEST_SPLIT = "test_split.txt"
BATCH = 8
State = Mapping[str, Shaped[np.ndarray, "n ..."]]


class MazeWorld:
    """The simulator, its writer and its judge.

    `episodes` counts what train and test hold, `length` is that of an episode in frames, `height` and `width` those
    of pictures on disk. `cells` (odd) is the side of a maze, `wander` the bot's turning per frame in radians (standard
    deviation): the part of the future that no action explains. `policies` gives the share of each policy.
    """

    name = "maze"
    spec = SPEC
    chance: tuple[int, ...] = ()

    def __init__(
        self, *, seed: int, length: int, episodes: Mapping[str, int], height: int, width: int, cells: int,
        wander: float, policies: Mapping[str, float],
    ) -> None:  # fmt: skip
        if set(episodes) != {"train", "test"} or min(episodes.values()) < 1 or length < 2:
            raise ValueError(
                f"data.world.episodes={dict(episodes)} must count train and test, and {length=} be 2 or more"
            )
        if cells % 2 == 0 or cells < 5 or min(height, width) < 24:
            raise ValueError(f"data.world.{cells=} must be odd and at least 5, {height=} and {width=} at least 24")
        if set(policies) != set(POLICIES) or min(policies.values()) < 0 or abs(sum(policies.values()) - 1) > 1e-6:
            raise ValueError(f"data.world.policies={dict(policies)} must give {POLICIES} shares that sum to 1")
        self.seed, self.length, self.cells, self.wander = seed, length, cells, wander
        self.episodes = {split: int(episodes[split]) for split in ("train", "test")}
        self.height, self.width = height, width
        self.policies = {name: float(policies[name]) for name in POLICIES}

    @property
    def settings(self) -> dict[str, Any]:
        """All that the data depend on, as plain JSON values."""
        names = ("seed", "length", "episodes", "height", "width", "cells", "wander", "policies")
        return {**{name: getattr(self, name) for name in names}, "version": VERSION}

    @property
    def size(self) -> int:
        """An upper estimate of the data on disk, in bytes."""
        return sum(self.episodes.values()) * self.length * (3 * self.height * self.width + 4096)

    def simulate(
        self, split: str, episodes: range
    ) -> tuple[UInt8[np.ndarray, "n f h w 3"], Float32[np.ndarray, "n f 51"], State]:
        """Pictures, actions and state of the named episodes; each depends on the seed and its own number alone."""
        sources = [generator(self.seed, f"maze {split}", episode) for episode in episodes]
        grids = np.stack([carve(source, self.cells) for source in sources])
        scene, mood = first_scene(grids, sources), first_mood(sources, self.policies)
        pictures, actions, scenes = [], [], []
        for _ in range(self.length):
            action = act(scene, mood, grids, sources)
            pictures.append(render(scene, grids, self.height, self.width))
            actions.append(action)
            scenes.append(scene)
            turns = self.wander * np.array([source.normal() for source in sources])
            scene = advance(scene, grids, action, turns)
        return np.stack(pictures, 1), np.stack(actions, 1), _state(scenes, grids)

    def branch(
        self, state: State, actions: Float32[np.ndarray, "n f 51"], turns: Float[np.ndarray, "n f"]
    ) -> tuple[UInt8[np.ndarray, "n f1 h w 3"], State]:
        """What follows from one saved frame of `n` episodes under these actions: pictures and state from it on.

        `state` holds that frame's rows of `state.npz`; `turns` (radians) are the bot's, which no action explains: the
        same for two branches leaves their actions as the only difference.
        """
        grids = np.asarray(state["grid"])
        scene = Scene(**{field.name: np.asarray(state[field.name]) for field in fields(Scene)})
        scenes = [scene]
        for frame in range(actions.shape[1]):
            scenes.append(advance(scenes[-1], grids, actions[:, frame], turns[:, frame]))
        pictures = [render(scene, grids, self.height, self.width) for scene in scenes]
        return np.stack(pictures, 1), _state(scenes, grids)

    def write(self, folder: Path, report: Callable[[int], None]) -> None:
        """Writes `<folder>/maze/hdf5_dm_july2021_N.hdf5` and the list of test files; `report(n)` after n episodes."""
        place = folder / self.name
        place.mkdir(parents=True)
        first, held_out = 1, []
        for split, count in self.episodes.items():
            for start in range(0, count, BATCH):
                episodes = range(start, min(start + BATCH, count))
                videos, actions, state = self.simulate(split, episodes)
                for row, episode in enumerate(episodes):
                    name = f"hdf5_dm_july2021_{first + episode}"
                    write_csgo(place / f"{name}.hdf5", videos[row], actions[row])
                    save_arrays(place / f"{name}.state.npz", {key: value[row] for key, value in state.items()})
                    held_out += [f"{name}.hdf5"] if split == "test" else []
                report(len(episodes))
            first += count
        with atomic_file(place / TEST_SPLIT) as partial:
            partial.write_text("\n".join(held_out) + "\n")

    def measure(self, video: Pixels, clip: Clip, context: int) -> Measures:
        """Judges generated video by its pixels; context frames are NaN.

        `action_error`: the turn seen against that of the mouse, in picture widths; NaN where the player also walks, or
        pixels do not tell (see `turning`). Extra, by clip: `turns_told`, the share of turns alone that pixels tell.
        `object_error`: 1 where the display shows another weapon. `presence`: 1 where the bot is seen. Raises
        ValueError where shapes differ or nothing is left to judge.
        """
        return maze_measure.measure(video, clip, context)

    def motion(self, video: Pixels) -> Float[Tensor, "b f 2"]:
        """Sideways shift of the view since the frame before, in picture widths; nothing upright is measured."""
        return sideways(video)

    def compare(self, generated: Measures, true: Measures) -> dict[str, float]:
        """How far the share of frames with the bot is from the truth's, and how many turns less pixels tell."""
        told = true.extra["turns_told"].nanmean() - generated.extra["turns_told"].nanmean()
        bots = (generated.presence.nanmean() - true.presence.nanmean()).abs()
        return {"bot_gap": float(bots), "turns_lost": float(told)}


def _state(scenes: list[Scene], grids: UInt8[np.ndarray, "n rows columns"]) -> State:
    """Everything by frame, walls too, so that a window of it is cut like a window of the video."""
    found = {field.name: np.stack([getattr(scene, field.name) for scene in scenes], 1) for field in fields(Scene)}
    return found | {"grid": np.repeat(grids[:, None], len(scenes), axis=1)}
