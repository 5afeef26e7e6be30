"""A rover on open ground, in the layout of RECON's recordings: pictures and poses, from which actions are derived.

A ball rolls about as no action explains; posts stand where they stand, and the rover slides along them. Frames are
those of a camera of `rover_dynamics.RATE` a second.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped, UInt8
from torch import Tensor

from wm_lightning.clip import Clip, Pixels
from wm_lightning.data.formats.atomic import atomic_file
from wm_lightning.data.formats.recon import COLUMNS, SPEC, metres_of, wrapped, write_recon_file
from wm_lightning.data.formats.source import save_arrays
from wm_lightning.randomness import generator
from wm_lightning.worlds.rover_dynamics import cleared, driven, touching
from wm_lightning.worlds.rover_render import BALL, FIELD, Ground, render
from wm_lightning.worlds.turning import sideways, turned
from wm_lightning.worlds.world import Measures

# Raise it whenever the same settings would give other pixels or poses: it names the cached data.
VERSION = 3
SPLITS = ("train", "val", "test")
FASTEST, SHARPEST = 0.4, 0.35  # metres and radians a frame
AREA = 12.0  # metres from the middle at which a rover turns back
BAND, WIDEST = (0.2, 0.5), 0.45  # rows about the horizon, where things are far; radians a frame that are looked for
State = Mapping[str, Shaped[np.ndarray, "n ..."]]


@dataclass(frozen=True)
class Drive:
    """Poses and the ball's place of one episode."""

    position: Float[np.ndarray, "f 2"]
    yaw: Float[np.ndarray, "f"]
    ball: Float[np.ndarray, "f 2"]


class RoverWorld:
    """The simulator, its writer and its judge.

    `episodes` counts what each split holds, `length` is that of an episode in frames, `height` and `width` those of
    pictures on disk, `posts` how many landmarks stand about, `roll` the ball's step per frame and axis in metres
    (standard deviation).
    """

    name = "rover"
    spec = SPEC
    chance: tuple[int, ...] = (2,)

    def __init__(
        self, *, seed: int, length: int, episodes: Mapping[str, int], height: int, width: int, posts: int, roll: float
    ) -> None:
        if set(episodes) != set(SPLITS) or min(episodes.values()) < 1 or length < 2:
            raise ValueError(f"data.world.episodes={dict(episodes)} must count {SPLITS}, and {length=} be 2 or more")
        if min(height, width) < 24 or posts < 1 or roll < 0:
            raise ValueError(f"data.world: {height=}, {width=} at least 24, {posts=} at least 1, {roll=} not negative")
        self.seed, self.length, self.height, self.width, self.posts, self.roll = (
            seed,
            length,
            height,
            width,
            posts,
            roll,
        )
        self.episodes = {split: int(episodes[split]) for split in SPLITS}

    @property
    def settings(self) -> dict[str, Any]:
        """All that the data depend on, as plain JSON values."""
        names = ("seed", "length", "episodes", "height", "width", "posts", "roll")
        return {**{name: getattr(self, name) for name in names}, "version": VERSION}

    @property
    def size(self) -> int:
        """An upper estimate of the data on disk, in bytes."""
        return sum(self.episodes.values()) * self.length * (self.height * self.width + 1024)

    def simulate(self, split: str, episode: int) -> tuple[UInt8[np.ndarray, "f h w 3"], Drive]:
        """Pictures and poses of one episode, which depends on the seed and its own number alone."""
        source = generator(self.seed, f"rover {split}", episode)
        ground = Ground.drawn(source, self.posts, AREA)
        drive = _drive(source, self.length, self.roll, ground.posts)
        return self._filmed(ground, drive), drive

    def branch(
        self, state: State, actions: Float[np.ndarray, "n f 3"], rolls: Float[np.ndarray, "n f 2"]
    ) -> tuple[UInt8[np.ndarray, "n f1 h w 3"], State]:
        """What follows from one saved frame of `n` episodes under these actions: pictures and state from it on.

        `state` holds that frame's rows of `state.npz`; its ground is drawn again, by split and number. `rolls` (metres)
        are the ball's steps, which no action explains.
        """
        grounds = [self._ground(split, episode) for split, episode in np.asarray(state["ground"]).tolist()]
        posts = np.stack([ground.posts for ground in grounds])
        position, yaw, ball = [state["position"]], [state["yaw"]], [state["ball"]]
        for frame in range(actions.shape[1]):
            metres = metres_of(actions[:, frame, :2])
            cos, sin = np.cos(yaw[-1]), np.sin(yaw[-1])
            ahead = np.stack([cos * metres[:, 0] - sin * metres[:, 1], sin * metres[:, 0] + cos * metres[:, 1]], 1)
            position.append(driven(position[-1], position[-1] + ahead, posts))
            yaw.append(wrapped(yaw[-1] + actions[:, frame, 2]))
            ball.append(ball[-1] + rolls[:, frame])
        found = {"position": np.stack(position, 1), "yaw": np.stack(yaw, 1), "ball": np.stack(ball, 1)}
        drives = [Drive(*(found[key][row] for key in ("position", "yaw", "ball"))) for row in range(len(grounds))]
        videos = [self._filmed(ground, drive) for ground, drive in zip(grounds, drives, strict=True)]
        found |= {"contact": touching(found["position"], posts)}
        return np.stack(videos), found | {"ground": np.repeat(state["ground"][:, None], len(position), axis=1)}

    def _ground(self, split: int, episode: int) -> Ground:
        """The first thing that an episode draws."""
        return Ground.drawn(generator(self.seed, f"rover {SPLITS[split]}", episode), self.posts, AREA)

    def _filmed(self, ground: Ground, drive: Drive) -> UInt8[np.ndarray, "f h w 3"]:
        poses = zip(drive.position, drive.yaw, drive.ball, strict=True)
        return np.stack(
            [render(ground, place, float(yaw), ball, self.height, self.width) for place, yaw, ball in poses]
        )

    def write(self, folder: Path, report: Callable[[int], None]) -> None:
        """Writes `<folder>/rover/*.hdf5` and the splits' lists `<folder>/rover/{train,val,test}.txt`."""
        place = folder / self.name
        place.mkdir(parents=True)
        number = 0
        for split, count in self.episodes.items():
            names = []
            for episode in range(count):
                video, drive = self.simulate(split, episode)
                names.append(f"jackal_{number:06d}")
                write_recon_file(place / f"{names[-1]}.hdf5", video, drive.position, drive.yaw)
                ground = np.tile([SPLITS.index(split), episode], (self.length, 1))
                posts = self._ground(SPLITS.index(split), episode).posts
                state = {"position": drive.position, "yaw": drive.yaw, "ball": drive.ball, "ground": ground}
                state |= {"contact": touching(drive.position[None], posts[None])[0]}
                save_arrays(place / f"{names[-1]}.state.npz", state)
                number += 1
                report(1)
            with atomic_file(place / f"{split}.txt") as partial:
                partial.write_text("\n".join(names) + "\n")

    def measure(self, video: Pixels, clip: Clip, context: int) -> Measures:
        """Judges generated video by its pixels; context frames are NaN.

        `action_error`: the turn seen against that of the action, in picture widths; NaN where pixels do not tell (see
        `turning`). Extra, by clip: `turns_told`, the share of frames whose turn they tell.
        `object_error`: difference of the share of the picture that is sky, which posts and slope cut. `presence`: 1
        where the ball is seen. Raises ValueError where shapes differ or nothing is left to judge.
        """
        if video.shape != clip.video.shape:
            raise ValueError(
                f"{tuple(video.shape)=} differs from {tuple(clip.video.shape)=}; judge the clip's own frames"
            )
        if not 1 <= context < video.shape[1]:
            raise ValueError(f"{context=} must be at least 1 and below the clip's {video.shape[1]} frames")
        told = clip.condition.actions[:, : video.shape[1], COLUMNS.index("dyaw")]
        action_error = (turned(video, field=FIELD, most=WIDEST, band=BAND) - told).abs() / FIELD
        sky = (_sky(video) - _sky(clip.video)).abs()
        presence = ball_seen(video).float()
        for values in (action_error, sky, presence):
            values[:, :context] = torch.nan
        clear = (~action_error[:, context:].isnan()).float().mean(1)
        return Measures(action_error, sky, presence, {"turns_told": clear})

    def motion(self, video: Pixels) -> Float[Tensor, "b f 2"]:
        """Sideways shift of the view since the frame before, in picture widths; nothing upright is measured."""
        return sideways(video)

    def compare(self, generated: Measures, true: Measures) -> dict[str, float]:
        """How far the share of frames with the ball is from the truth's, and how many turns less pixels tell."""
        told = true.extra["turns_told"].mean() - generated.extra["turns_told"].mean()
        balls = (generated.presence.nanmean() - true.presence.nanmean()).abs()
        return {"ball_gap": float(balls), "turns_lost": float(told)}


def ball_seen(video: Pixels) -> Bool[Tensor, "b f"]:
    """Whether enough pixels have the ball's colour: red, and neither green nor blue."""
    red, green, blue = video.float().unbind(2)
    own = red - torch.maximum(green, blue) > 0.45 * (BALL[0] - max(BALL[1:]))
    return own.float().mean((-2, -1)) > 0.002


def _sky(video: Pixels) -> Float[Tensor, "b f"]:
    red, _, blue = video.float().unbind(2)
    return (blue - red > 20).float().mean((-2, -1))


def _drive(source: np.random.Generator, frames: int, roll: float, posts: Float[np.ndarray, "posts 2"]) -> Drive:
    position, yaw = np.zeros((frames, 2)), np.zeros(frames)
    ball = np.zeros((frames, 2))
    position[0], yaw[0] = source.uniform(-AREA / 2, AREA / 2, 2), source.uniform(-np.pi, np.pi)
    position[0] = cleared(position[:1], posts[None])[0]
    ahead = np.array([np.cos(yaw[0]), np.sin(yaw[0])])
    ball[0] = position[0] + source.uniform(2, 5) * ahead + source.normal(size=2)
    speed, turn = source.uniform(0.1, FASTEST), 0.0
    for frame in range(1, frames):
        speed = np.clip(speed + 0.08 * source.normal(), 0.0, FASTEST)
        turn = np.clip(0.8 * turn + 0.12 * source.normal(), -SHARPEST, SHARPEST)
        if np.linalg.norm(position[frame - 1]) > AREA:  # back towards the middle
            home = np.arctan2(-position[frame - 1, 1], -position[frame - 1, 0])
            turn = np.clip((home - yaw[frame - 1] + np.pi) % (2 * np.pi) - np.pi, -SHARPEST, SHARPEST)
        yaw[frame] = yaw[frame - 1] + turn
        way = np.array([np.cos(yaw[frame - 1]), np.sin(yaw[frame - 1])])
        here = position[frame - 1 : frame]
        position[frame] = driven(here, here + speed * way, posts[None])[0]
        ball[frame] = ball[frame - 1] + roll * source.normal(size=2)
    return Drive(position, (yaw + np.pi) % (2 * np.pi) - np.pi, ball)
