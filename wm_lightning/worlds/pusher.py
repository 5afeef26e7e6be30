"""A table-top pusher: a gripper pushes coloured blocks while a disc wanders as no action explains.

Simulated data in the layout of real robot data (mp4 beside npz), with RT-1's action fields and the
hidden state beside every episode, for evaluation only.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Shaped, UInt8
from torch import Tensor

from wm_lightning.clip import Clip, Pixels
from wm_lightning.data.formats.mp4_npz import ORDER, EpisodeFiles, write_episode
from wm_lightning.data.formats.robot_actions import spec_of
from wm_lightning.data.formats.video_files import Encoding
from wm_lightning.randomness import generator
from wm_lightning.worlds import pusher_measure
from wm_lightning.worlds.pusher_dynamics import Scene, advance, first_scene
from wm_lightning.worlds.pusher_policies import POLICIES, act, draw_temper
from wm_lightning.worlds.pusher_render import BLOCKS, DISTRACTOR, GRIPPER, render
from wm_lightning.worlds.world import Measures
from wm_lightning.worlds.writing import write_batches

# Raise it whenever the same settings would give other pixels or actions: it names the cached data.
VERSION = 1
SPLITS = ("train", "val", "test")
BATCH = 25
# Drawn at once: as many float pictures as stay in a processor's cache; twenty times more take twice as long.
PICTURES = 64
State = Mapping[str, Shaped[np.ndarray, "n ..."]]
# Raw RT-1: metres-like units within 1, radians within a quarter turn, fingers -1 (open) to +1 (close).
BOUNDS = {
    "world_vector": 1.0,
    "rotation_delta": np.pi / 2,
    "gripper_closedness_action": 1.0,
    "base_displacement_vector": 1.0,
    "base_displacement_vertical_rotation": np.pi,
}


@dataclass(frozen=True)
class Course:
    """What happened in `n` episodes of `f` frames; `actions[:, k]` leads from frame k to k+1."""

    actions: Float32[np.ndarray, "n f 10"]
    gripper: Float[np.ndarray, "n f 2"]
    look: Float[np.ndarray, "n f 3"]
    blocks: Float[np.ndarray, "n f k 2"]
    distractor: Float[np.ndarray, "n f 2"]


class PusherWorld:
    """The simulator, its writer and its judge.

    `episodes` counts what each split holds, `length` is that of an episode in frames. `pixels` is the side
    of the pictures on disk, `fps` what the container claims, `crf` the quality of H.264 (lower is better).
    `reach` and `jump` are, in frame widths, the gripper's motion at an action of 1 and the standard deviation
    of the distractor's per step and axis; `policies` the share of each policy. `workers` processes write.
    """

    name = "pusher"
    chance: tuple[int, ...] = (2,)

    def __init__(
        self,
        *,
        seed: int,
        length: int,
        episodes: Mapping[str, int],
        pixels: int,
        fps: int,
        crf: int,
        reach: float,
        jump: float,
        policies: Mapping[str, float],
        workers: int,
    ) -> None:
        if set(episodes) != set(SPLITS) or min(episodes.values()) < 1 or length < 2:
            raise ValueError(f"data.world.episodes={dict(episodes)} must count {SPLITS}, and {length=} be 2 or more")
        if pixels < 32 or pixels % 2:
            raise ValueError(f"data.world.{pixels=} must be even (H.264 4:2:0) and at least 32")
        if set(policies) != set(POLICIES) or min(policies.values()) < 0 or abs(sum(policies.values()) - 1) > 1e-6:
            raise ValueError(f"data.world.policies={dict(policies)} must give {POLICIES} shares that sum to 1")
        if not (0 < reach <= 0.2 and 0 <= jump <= 0.2) or workers < 1:
            raise ValueError(
                f"data.world: {reach=} and {jump=} must be at most 0.2 frame widths, {workers=} at least 1"
            )
        self.seed, self.length, self.episodes = seed, length, {split: int(episodes[split]) for split in SPLITS}
        self.pixels, self.reach, self.jump, self.workers = pixels, reach, jump, workers
        self.policies = {name: float(policies[name]) for name in POLICIES}
        self.encoding = Encoding(fps=fps, crf=crf, preset="veryfast")
        self.spec = spec_of(ORDER, BOUNDS)

    @property
    def settings(self) -> dict[str, Any]:
        """All that the data depend on, as plain JSON values."""
        names = ("seed", "length", "episodes", "pixels", "reach", "jump", "policies")
        own = {name: getattr(self, name) for name in names}
        return {**own, "encoding": asdict(self.encoding), "version": VERSION}

    @property
    def size(self) -> int:
        """An upper estimate of the data on disk, in bytes."""
        frame = self.pixels**2 // 10 + 256  # five times what crf 20 takes, with actions and hidden state
        return sum(self.episodes.values()) * (self.length * frame + 2**14)

    def simulate(self, split: str, episodes: range) -> Course:
        """The course of the named episodes of a split; each depends on the seed and its own number alone."""
        sources = [generator(self.seed, f"pusher {split}", episode) for episode in episodes]
        scene = first_scene(sources)
        temper = draw_temper(sources, self.policies, self.length)
        jumps = self.jump * np.stack([source.standard_normal((self.length, 2)) for source in sources])
        action = np.zeros((len(episodes), 7))
        scenes, actions = [], []
        for step in range(self.length):
            action = act(scene, temper, action, step)
            scenes.append(scene)
            actions.append(action)
            scene = advance(scene, action, jumps[:, step], self.reach)
        return _course(scenes, actions)

    def render(self, course: Course) -> UInt8[np.ndarray, "n f h w 3"]:
        """RGB pictures of every frame."""
        n, f = course.gripper.shape[:2]
        gripper, look = _flatten(course.gripper), _flatten(course.look)
        blocks, distractor = _flatten(course.blocks), _flatten(course.distractor)
        pictures = np.empty((n * f, self.pixels, self.pixels, 3), np.uint8)
        for start in range(0, n * f, PICTURES):
            part = slice(start, start + PICTURES)
            pictures[part] = render(gripper[part], look[part], blocks[part], distractor[part], self.pixels)
        return pictures.reshape(n, f, *pictures.shape[1:])

    def branch(
        self, state: State, actions: Float32[np.ndarray, "n f 10"], jumps: Float[np.ndarray, "n f 2"]
    ) -> tuple[UInt8[np.ndarray, "n f1 h w 3"], Course]:
        """What follows from one saved frame of `n` episodes under these actions: pictures and course from it on.

        `state` holds that frame's rows of `state.npz`; `jumps` (frame widths) are the distractor's, which no action
        explains. The last action of the course is a pause, since nothing follows it.
        """
        look = np.asarray(state["look"], np.float64)
        places = {name: np.asarray(state[name], np.float64) for name in ("gripper", "blocks", "distractor")}
        scenes = [Scene(**places, height=look[:, 0], angle=look[:, 1], opening=look[:, 2])]
        for frame in range(actions.shape[1]):
            scenes.append(advance(scenes[-1], actions[:, frame, :7].astype(np.float64), jumps[:, frame], self.reach))
        told = [actions[:, frame, :7] for frame in range(actions.shape[1])]
        course = _course(scenes, [*told, np.zeros_like(told[0])])
        return self.render(course), course

    def write(self, folder: Path, report: Callable[[int], None]) -> None:
        """Writes `<folder>/pusher/<split>/NNNNNNNNN.{mp4,npz,state.npz}`; numbers are unique across splits.

        `report(n)` is called after every n episodes. The bytes do not depend on `workers`.
        """
        for split in SPLITS:
            (folder / self.name / split).mkdir(parents=True)
        job = partial(self._write_batch, folder / self.name)
        write_batches(job, self._batches(), self.workers, report)

    def measure(self, video: Pixels, clip: Clip, context: int) -> Measures:
        """Judges generated video by its pixels; lengths are in frame widths, context frames are NaN.

        `action_error`: generated against true displacement of the gripper since the frame before (one that
        is not seen counts as standing still). `object_error`: distance of the blocks from their true places,
        mean over those seen. `presence`: 1 where the distractor is seen. Extra, by clip:
        `gripper_visible`, `blocks_visible`. Raises ValueError where shapes differ or nothing is left to judge.
        """
        return pusher_measure.measure(video, clip, context)

    def motion(self, video: Pixels) -> Float[Tensor, "b f 2"]:
        """The gripper's displacement since the frame before, in frame widths; 0 where it is not seen."""
        return pusher_measure.motion(video)

    def compare(self, generated: Measures, true: Measures) -> dict[str, float]:
        """Share of frames without gripper, and of blocks missing, beyond what is missing in the truth."""
        shares = {f"{name}_lost": f"{name}_visible" for name in ("gripper", "blocks")}
        return {new: float(true.extra[old].mean() - generated.extra[old].mean()) for new, old in shares.items()}

    def _batches(self) -> Iterator["_Batch"]:
        first = 0
        for split, count in self.episodes.items():
            for start in range(0, count, BATCH):
                yield _Batch(split, range(start, min(start + BATCH, count)), first)
            first += count

    def _write_batch(self, folder: Path, batch: "_Batch") -> int:
        course = self.simulate(batch.split, batch.episodes)
        videos = self.render(course)
        for row, episode in enumerate(batch.episodes):
            files = EpisodeFiles.of(folder / batch.split, f"{batch.first_number + episode:09d}")
            write_episode(files, videos[row], course.actions[row], _hidden_state(course, row), self.encoding)
        return len(batch.episodes)


@dataclass(frozen=True)
class _Batch:
    split: str
    episodes: range
    first_number: int  # what the first episode of the split is called


def _course(scenes: list[Scene], actions: list[np.ndarray]) -> Course:
    columns = np.zeros((len(scenes[0].gripper), len(actions), 10), np.float32)
    columns[..., :7] = np.stack(actions, axis=1)
    looks = [np.stack([s.height, s.angle, s.opening], axis=-1) for s in scenes]
    return Course(
        actions=columns,
        gripper=np.stack([s.gripper for s in scenes], axis=1),
        look=np.stack(looks, axis=1),
        blocks=np.stack([s.blocks for s in scenes], axis=1),
        distractor=np.stack([s.distractor for s in scenes], axis=1),
    )


def _hidden_state(course: Course, row: int) -> dict[str, np.ndarray]:
    """Everything by frame, colours too, so that a window of it is cut like a window of the video."""
    colours = np.array([GRIPPER, *BLOCKS, DISTRACTOR], np.uint8)
    return {
        "gripper": course.gripper[row].astype(np.float32),
        "look": course.look[row].astype(np.float32),
        "blocks": course.blocks[row].astype(np.float32),
        "distractor": course.distractor[row].astype(np.float32),
        "colours": np.repeat(colours[None], course.gripper.shape[1], axis=0),
    }


def _flatten(values: Float[np.ndarray, "n f ..."]) -> Float[np.ndarray, "n_f ..."]:
    return values.reshape(-1, *values.shape[2:])
