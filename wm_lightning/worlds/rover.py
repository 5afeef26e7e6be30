"""A rover on hilly ground, in the layout of RECON's recordings: pictures and poses, from which actions are derived.

A ball rolls about as no action explains; posts stand where they stand, and the rover slides along them. Places and
actions are those of a map; height and tilt follow from the ground. Frames are those of a camera of
`rover_dynamics.RATE` a second.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor

from wm_lightning.clip import Clip, Pixels
from wm_lightning.data.formats.atomic import atomic_file
from wm_lightning.data.formats.recon import COLUMNS, SPEC, metres_of, wrapped, write_recon_file
from wm_lightning.data.formats.source import save_arrays
from wm_lightning.randomness import generator
from wm_lightning.worlds.rover_dynamics import Chance, driven, roam, touching
from wm_lightning.worlds.rover_ground import Ground
from wm_lightning.worlds.rover_render import BALL, FIELD, Poses, render
from wm_lightning.worlds.turning import sideways, turned
from wm_lightning.worlds.world import Measures
from wm_lightning.worlds.writing import write_batches

# Raise it whenever the same settings would give other pixels or poses: it names the cached data.
VERSION = 4
SPLITS = ("train", "val", "test")
BATCH = 32  # episodes driven together
SMALL = 6000  # frames that are written before another process has started
STEEPEST = 0.2  # steeper ground would fill the picture or leave it
AREA = 12.0  # metres from the middle at which a rover turns back
BAND, WIDEST = (0.2, 0.5), 0.45  # rows about the horizon, where things are far; radians a frame that are looked for
NOD = 0.035  # share of the picture's height by which hills move the horizon from frame to frame, mostly
State = Mapping[str, Shaped[np.ndarray, "n ..."]]


@dataclass(frozen=True)
class Drive:
    """Where the rover and the ball are on the map (metres) and how it is turned (radians), in one episode."""

    position: Float[np.ndarray, "f 2"]
    yaw: Float[np.ndarray, "f"]
    ball: Float[np.ndarray, "f 2"]

    def on(self, ground: Ground) -> Poses:
        """The same with the rover's height and tilt."""
        height, pitch = ground.height(self.position), ground.pitch(self.position, self.yaw)
        return Poses(self.position, self.yaw, height, pitch, self.ball)


class RoverWorld:
    """The simulator, its writer and its judge.

    `episodes` counts what each split holds, `length` is that of an episode in frames, `height` and `width` those of
    pictures on disk, `posts` how many landmarks stand about, `roll` the ball's step per frame and axis in metres and
    `hills` the ground's slope along any line in metres a metre (standard deviations both; 0 is level ground).
    `workers` processes write, where there is enough to write.
    """

    name = "rover"
    spec = SPEC
    chance: tuple[int, ...] = (2,)

    def __init__(
        self, *, seed: int, length: int, episodes: Mapping[str, int], height: int, width: int, posts: int, roll: float,
        hills: float, workers: int,
    ) -> None:  # fmt: skip
        if set(episodes) != set(SPLITS) or min(episodes.values()) < 1 or length < 2:
            raise ValueError(f"data.world.episodes={dict(episodes)} must count {SPLITS}, and {length=} be 2 or more")
        if min(height, width) < 24 or posts < 1 or roll < 0:
            raise ValueError(f"data.world: {height=}, {width=} at least 24, {posts=} at least 1, {roll=} not negative")
        if not 0 <= hills <= STEEPEST:
            raise ValueError(f"data.world.{hills=} must be from 0 (level ground) to {STEEPEST}")
        self.seed, self.length, self.height, self.width = seed, length, height, width
        if workers < 1:
            raise ValueError(f"data.world.{workers=} must be at least 1")
        self.posts, self.roll, self.hills, self.workers = posts, roll, hills, workers
        self.episodes = {split: int(episodes[split]) for split in SPLITS}

    @property
    def settings(self) -> dict[str, Any]:
        """All that the data depend on, as plain JSON values."""
        names = ("seed", "length", "episodes", "height", "width", "posts", "roll", "hills")
        return {**{name: getattr(self, name) for name in names}, "version": VERSION}

    @property
    def size(self) -> int:
        """An upper estimate of the data on disk, in bytes."""
        return sum(self.episodes.values()) * self.length * (self.height * self.width + 1024)

    def simulate(self, split: str, episodes: range) -> tuple[UInt8[np.ndarray, "n f h w 3"], list[Drive]]:
        """Pictures and poses of episodes, each of which depends on the seed and its own number alone."""
        made = self._driven(split, episodes)
        return np.stack([self._filmed(*one) for one in made]), [drive for _, drive in made]

    def _driven(self, split: str, episodes: range) -> list[tuple[Ground, Drive]]:
        sources = [generator(self.seed, f"rover {split}", episode) for episode in episodes]
        grounds = [Ground.drawn(source, self.posts, AREA, self.hills) for source in sources]
        chances = [Chance.drawn(source, self.length, AREA) for source in sources]
        position, yaw = roam(chances, np.stack([ground.posts for ground in grounds]), AREA)
        balls = [chance.ball(self.roll) for chance in chances]
        return [(ground, Drive(*course)) for ground, *course in zip(grounds, position, yaw, balls, strict=True)]

    def _filmed(self, ground: Ground, drive: Drive) -> UInt8[np.ndarray, "f h w 3"]:
        return render(ground, drive.on(ground), self.height, self.width)

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
        courses = [np.stack(steps, 1) for steps in (position, yaw, ball)]
        videos, states = [], []
        for row, (ground, origin) in enumerate(zip(grounds, np.asarray(state["ground"]), strict=True)):
            drive = Drive(*(course[row] for course in courses))
            videos.append(self._filmed(ground, drive))
            states.append(_hidden(ground, drive, origin))
        return np.stack(videos), {key: np.stack([one[key] for one in states]) for key in states[0]}

    def _ground(self, split: int, episode: int) -> Ground:
        """The first thing that an episode draws."""
        return Ground.drawn(generator(self.seed, f"rover {SPLITS[split]}", episode), self.posts, AREA, self.hills)

    def write(self, folder: Path, report: Callable[[int], None]) -> None:
        """Writes `<folder>/rover/*.hdf5` and the splits' lists `<folder>/rover/{train,val,test}.txt`.

        `report(n)` is called after every n episodes. The bytes do not depend on `workers`.
        """
        place = folder / self.name
        place.mkdir(parents=True)
        job = partial(self._write_batch, place)
        few = sum(self.episodes.values()) * self.length < SMALL
        write_batches(job, self._batches(), 1 if few else self.workers, report)
        first = 0
        for split, count in self.episodes.items():
            with atomic_file(place / f"{split}.txt") as partial_list:
                partial_list.write_text("\n".join(_name(first + episode) for episode in range(count)) + "\n")
            first += count

    def _batches(self) -> Iterator["_Batch"]:
        first = 0
        for split, count in self.episodes.items():
            for start in range(0, count, BATCH):
                yield _Batch(split, range(start, min(start + BATCH, count)), first)
            first += count

    def _write_batch(self, place: Path, batch: "_Batch") -> int:
        made = self._driven(batch.split, batch.episodes)
        for episode, (ground, drive) in zip(batch.episodes, made, strict=True):
            path = place / _name(batch.first + episode)
            state = _hidden(ground, drive, np.array([SPLITS.index(batch.split), episode]))
            position = np.column_stack([drive.position, state["height"]])
            write_recon_file(path.with_suffix(".hdf5"), self._filmed(ground, drive), position, drive.yaw)
            save_arrays(path.with_suffix(".state.npz"), state)
        return len(batch.episodes)

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
        action_error = (turned(video, field=FIELD, most=WIDEST, band=BAND, nod=NOD) - told).abs() / FIELD
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


@dataclass(frozen=True)
class _Batch:
    split: str
    episodes: range
    first: int  # how many episodes the splits before hold


def _name(number: int) -> str:
    return f"jackal_{number:06d}"


def _hidden(ground: Ground, drive: Drive, origin: Int[np.ndarray, "2"]) -> dict[str, np.ndarray]:
    """State by name and frame; `ground` (split, number) tells which ground it was."""
    poses = drive.on(ground)
    return {
        "position": drive.position,
        "yaw": drive.yaw,
        "height": poses.height,
        "pitch": poses.pitch,
        "ball": drive.ball,
        "ground": np.tile(origin, (len(drive.yaw), 1)),
        "contact": touching(drive.position[None], ground.posts[None])[0],
    }


def ball_seen(video: Pixels) -> Bool[Tensor, "b f"]:
    """Whether enough pixels have the ball's colour: red, and neither green nor blue."""
    red, green, blue = video.float().unbind(2)
    own = red - torch.maximum(green, blue) > 0.45 * (BALL[0] - max(BALL[1:]))
    return own.float().mean((-2, -1)) > 0.002


def _sky(video: Pixels) -> Float[Tensor, "b f"]:
    red, _, blue = video.float().unbind(2)
    return (blue - red > 20).float().mean((-2, -1))
