"""What a single environment and a vector of them share: episodes in the slots of one world model."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Shaped, UInt8

from wm_lightning.clip import ActionSpec, Clip
from wm_lightning.data.start_images import StartImages, begun, held_action, image_clips
from wm_lightning.envs.judges import Judge
from wm_lightning.envs.world_model import Slot, WorldModel, advance, begin

Observations = UInt8[np.ndarray, "n ..."]
OPTIONS = ("start", "image")


@dataclass(frozen=True)
class Stepped:
    """What a decision led to, a row for every slot that was advanced. `frames` are all new ones, `n f h w 3`."""

    observations: Observations
    frames: UInt8[np.ndarray, "n f h w 3"]
    rewards: Float[np.ndarray, "n"]
    terminated: Bool[np.ndarray, "n"]
    truncated: Bool[np.ndarray, "n"]
    success: Bool[np.ndarray, "n"]
    latency_ms: float


class Episodes:
    """`count` episodes under way. They begin with `starts` (a batch of given frames) and last `horizon` frames.

    A chunk of F frames takes F actions, or one that is repeated F times where `action_repeat` says so.
    """

    def __init__(
        self, world: WorldModel, starts: Clip, judge: Judge, *, count: int, horizon: int, action_repeat: int | None
    ) -> None:
        if not len(starts):
            raise ValueError("an environment needs at least one start; raise `starts`")
        if action_repeat not in (None, world.chunk):
            raise ValueError(
                f"{action_repeat=}: {world.name} makes {world.chunk} frames per decision, so an action can be repeated "
                f"{world.chunk} times or not at all; give action_repeat={world.chunk}, or load a framewise checkpoint"
            )
        most = None if world.longest is None else world.longest - world.context
        if horizon < world.chunk or (most is not None and horizon > most):
            limit = "" if most is None else f" and at most {most}: it was trained on clips of {world.longest} frames"
            raise ValueError(f"{horizon=} frames: {world.name} needs at least its chunk of {world.chunk}{limit}")
        self.world, self.starts, self.judge, self.horizon = world, starts, judge, horizon
        self.repeats = action_repeat is not None
        self.single = self.repeats or world.chunk == 1  # one action a decision, and one frame to be observed
        self.slots: list[Slot | None] = [None] * count
        self.made = np.zeros(count, np.int64)

    @property
    def observation_space(self) -> spaces.Box:
        """RGB pixels `h w 3`, of a whole chunk `f h w 3`."""
        frame = (*self.world.data.pixels, 3)
        return spaces.Box(0, 255, frame if self.single else (self.world.chunk, *frame), np.uint8)

    @property
    def action_space(self) -> spaces.Space:
        """The data's columns `a`, of a whole chunk `f a`: bounded numbers, or choices that are made or not."""
        return action_space(self.world.spec, 1 if self.single else self.world.chunk)

    def reset(
        self, rows: Sequence[int], sources: Sequence[np.random.Generator], options: Mapping[str, Any] | None
    ) -> tuple[Observations, list[int]]:
        """Begins these slots anew; returns what they see and the numbers of their starts (-1: a given image).

        Everything that a slot will draw hangs on its own generator.
        """
        drawn = [(int(s.integers(len(self.starts))), int(s.integers(2**63 - 1))) for s in sources]
        chosen = _chosen(options or {}, len(self.starts))
        numbers = [drawn_number if chosen is None else chosen for drawn_number, _ in drawn]
        clip = self.starts[torch.tensor([max(number, 0) for number in numbers])]
        if chosen == -1 and options is not None:
            clip = given_image(self.world, options["image"], len(rows))
        for row, slot in zip(rows, begin(self.world, clip, [seed for _, seed in drawn]), strict=True):
            self.slots[row], self.made[row] = slot, 0
        return self._seen(_channels_last(clip)), numbers

    def step(self, rows: Sequence[int], actions: Shaped[np.ndarray, "n ..."]) -> Stepped:
        """Advances these slots by one decision each. Raises ValueError for actions that are none."""
        slots = [slot for row in rows if (slot := self.slots[row]) is not None]
        if len(slots) < len(rows):
            raise ValueError("step before reset; call reset() first")
        chunks = self._chunks(actions)
        begun_at = time.perf_counter()
        video, after = advance(self.world, slots, chunks)
        latency = 1000 * (time.perf_counter() - begun_at)
        for row, slot in zip(rows, after, strict=True):
            self.slots[row] = slot
        self.made[rows] += self.world.chunk
        judgement = self.judge(video)
        # What lies behind the first frame that shows the task done does not count.
        counted = judgement.done.cumsum(1) - judgement.done.long() == 0
        success = judgement.done.any(1).numpy()
        # The next decision would go beyond the horizon.
        truncated = self.made[rows] + self.world.chunk > self.horizon
        frames = video.permute(0, 1, 3, 4, 2).contiguous().numpy()
        rewards = (judgement.reward * counted).sum(1).double().numpy()
        return Stepped(self._seen(frames), frames, rewards, success.copy(), truncated, success, latency)

    def _seen(self, frames: UInt8[np.ndarray, "n f h w 3"]) -> Observations:
        """The newest frame, or a whole chunk: of given ones the newest, the first of them held where they are fewer."""
        if self.single:
            return frames[:, -1].copy()
        missing = max(self.world.chunk - frames.shape[1], 0)
        held = np.repeat(frames[:, :1], missing, axis=1)
        return np.concatenate([held, frames[:, -self.world.chunk :]], axis=1)

    def _chunks(self, actions: Shaped[np.ndarray, "n ..."]) -> torch.Tensor:
        world, given = self.world, np.asarray(actions, np.float32)
        columns = (world.spec.dim,) if self.single else (world.chunk, world.spec.dim)
        if given.shape[1:] != columns:
            one = f"; for one action at a time give action_repeat={world.chunk}, or load a framewise checkpoint"
            raise ValueError(
                f"an action of shape {given.shape[1:]}: {world.name} makes {world.chunk} frames per decision, and the "
                f"environment takes {columns}, the columns {list(world.spec.names)}{'' if self.single else one}"
            )
        low, high = np.array(world.spec.low, np.float32), np.array(world.spec.high, np.float32)
        if not np.isfinite(given).all() or (given < low).any() or (given > high).any():
            raise ValueError(f"an action holds {_worst(given, low, high)}, outside of its bounds; clip actions first")
        chunks = torch.from_numpy(given.copy())
        return chunks[:, None].expand(-1, world.chunk, -1).clone() if self.single else chunks


def action_space(spec: ActionSpec, frames: int) -> spaces.Space:
    """Of one frame's columns `a`, or of several frames' `f a`."""
    if not spec.dim:
        raise ValueError("these data have no actions to choose from; load a checkpoint of data that have some")
    shape = (spec.dim,) if frames == 1 else (frames, spec.dim)
    if spec.kind == "discrete":
        return spaces.MultiBinary(shape)
    low, high = (np.broadcast_to(np.array(bound, np.float32), shape).copy() for bound in (spec.low, spec.high))
    return spaces.Box(low, high, dtype=np.float32)


def given_image(world: WorldModel, image: Any, count: int) -> Clip:
    """A picture of any size as the given frames of `count` slots, held where there are several.

    Raises ValueError unless it is RGB uint8 [h, w, 3].
    """
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] != 3 or not pixels.size:
        raise ValueError(f"options['image'] is {pixels.dtype} {list(pixels.shape)}; RGB uint8 [h, w, 3] is expected")
    resized = world.data.picture_size(np.repeat(pixels[None], count, axis=0))
    held = held_action(world.spec, {}, count, world.context, rest=world.rest)
    condition = begun(held, world.spec, world.context, rest=world.rest)
    [clip] = image_clips(world.data, StartImages(("given",) * count, resized), condition, world.context, count)
    return clip


def _chosen(options: Mapping[str, Any], starts: int) -> int | None:
    """The start that options name, -1 for an image of their own, None where it is drawn."""
    unknown = set(options) - set(OPTIONS)
    if unknown or len(options) > 1:
        raise ValueError(f"options={sorted(options)}: one of {', '.join(OPTIONS)} is expected, or none")
    if "image" in options:
        return -1
    if "start" not in options:
        return None
    start = options["start"]
    if isinstance(start, bool) or not isinstance(start, int | np.integer) or not 0 <= start < starts:
        raise ValueError(f"options['start']={start!r}: a number from 0 to {starts - 1} is expected")
    return int(start)


def _worst(given: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    bad = ~np.isfinite(given) | (given < low) | (given > high)
    return float(given[bad][0])


def _channels_last(clip: Clip) -> UInt8[np.ndarray, "n f h w 3"]:
    return clip.video.permute(0, 1, 3, 4, 2).contiguous().numpy()
