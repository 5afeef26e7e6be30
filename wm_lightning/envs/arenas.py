"""Where policies act: in the true simulator, or in a world model. Both begin with the same frames."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8

from wm_lightning.clip import Clip, Pixels
from wm_lightning.data.formats.resize import Resize
from wm_lightning.envs.policy import Briefing, Frames, Policy, executed
from wm_lightning.envs.world_model import WorldModel, advance, begin
from wm_lightning.randomness import generator
from wm_lightning.worlds.pusher import PusherWorld

# The actions of a decision -> the frames that they lead to.
Advance = Callable[[Float[np.ndarray, "n m a"]], Frames]


@runtime_checkable
class Arena(Protocol):
    """Begins episodes at the last frame of every clip; what it returns goes on from there."""

    def begin(self, start: Clip, briefing: Briefing, /) -> Advance: ...


@dataclass(frozen=True)
class Played:
    """What came of the episodes of one policy: given frames and all that followed, and the actions that led there.

    `world_seconds` is what the arena took, `policy_seconds` what the policy did.
    """

    video: Pixels
    actions: Float[np.ndarray, "n made a"]
    world_seconds: float
    policy_seconds: float

    @staticmethod
    def cat(parts: "list[Played]") -> "Played":
        """Joins batches of episodes."""
        return Played(
            torch.cat([part.video for part in parts]), np.concatenate([part.actions for part in parts]),
            sum(part.world_seconds for part in parts), sum(part.policy_seconds for part in parts),
        )  # fmt: skip


@dataclass(frozen=True)
class Simulator:
    """The true world. The distractor's way, which no action explains, is the same for every policy."""

    world: PusherWorld
    resize: Resize

    def begin(self, start: Clip, briefing: Briefing) -> Advance:
        """Goes on from the hidden state of each clip's last frame."""
        state = _hidden(start)
        jumps, made = self._jumps(briefing), 0

        def further(actions: Float[np.ndarray, "n m a"]) -> Frames:
            nonlocal state, made
            part = jumps[:, made : made + actions.shape[1]]
            pictures, course = self.world.branch(state, actions.astype(np.float32), part)
            state = {name: getattr(course, name)[:, -1] for name in state}
            made += actions.shape[1]
            return self._sized(pictures[:, 1:])

        return further

    def blocks(
        self, start: Clip, briefing: Briefing, actions: Float[np.ndarray, "n f a"]
    ) -> Float[np.ndarray, "n f k 2"]:
        """Where the blocks are after each of these actions, in frame widths."""
        _, course = self.world.branch(_hidden(start), actions.astype(np.float32), self._jumps(briefing))
        return course.blocks[:, 1:]

    def _jumps(self, briefing: Briefing) -> Float[np.ndarray, "n f 2"]:
        sources = [generator(briefing.seed, "policy chance", number) for number in briefing.numbers]
        return self.world.jump * np.stack([source.standard_normal((briefing.horizon, 2)) for source in sources])

    def _sized(self, pictures: UInt8[np.ndarray, "n f h w 3"]) -> Frames:
        flat = self.resize(pictures.reshape(-1, *pictures.shape[2:]))
        return np.ascontiguousarray(np.moveaxis(flat.reshape(*pictures.shape[:2], *flat.shape[1:]), 2, -1))


@dataclass(frozen=True)
class Imagined:
    """A world model, which draws the same noise for every policy."""

    model: WorldModel

    def begin(self, start: Clip, briefing: Briefing) -> Advance:
        """Remembers as many of each clip's last frames as the model was trained to begin with."""
        frames, chunk = start.video.shape[1], self.model.chunk
        given = start.frames(frames - self.model.context, frames)
        slots = begin(self.model, given, [_seed(briefing.seed, number) for number in briefing.numbers])

        def further(actions: Float[np.ndarray, "n m a"]) -> Frames:
            nonlocal slots
            made = []
            for part in torch.from_numpy(actions.copy()).split(chunk, dim=1):
                video, slots = advance(self.model, slots, part)
                made.append(video)
            return channels_last(torch.cat(made, dim=1))

        return further


def play(arena: Arena, policy: Policy, name: str, start: Clip, briefing: Briefing) -> Played:
    """Episodes of `briefing.horizon` actions from the last frame of every clip."""
    seen, videos, actions = channels_last(start.video), [start.video.cpu()], []
    clock = time.perf_counter()
    actor = policy(briefing)
    policy_seconds = time.perf_counter() - clock
    clock = time.perf_counter()
    further = arena.begin(start, briefing)
    world_seconds = time.perf_counter() - clock
    for _ in range(briefing.horizon // briefing.decision):
        clock = time.perf_counter()
        chosen = executed(actor(seen), briefing, name)
        policy_seconds, clock = policy_seconds + time.perf_counter() - clock, time.perf_counter()
        seen = further(chosen)
        world_seconds += time.perf_counter() - clock
        actions.append(chosen)
        videos.append(torch.from_numpy(seen).permute(0, 1, 4, 2, 3))
    return Played(torch.cat(videos, dim=1), np.concatenate(actions, axis=1), world_seconds, policy_seconds)


def channels_last(video: Pixels) -> Frames:
    """As policies see it."""
    return video.permute(0, 1, 3, 4, 2).contiguous().cpu().numpy()


def _hidden(start: Clip) -> dict[str, np.ndarray]:
    """The simulator's state at the last frame. Raises ValueError for clips that carry none."""
    names = ("gripper", "look", "blocks", "distractor")
    if any(name not in start.truth for name in names):
        raise ValueError(f"the starts carry no hidden state ({', '.join(names)}); use simulated data, data.root=null")
    return {name: start.truth[name][:, -1].cpu().numpy() for name in names}


def _seed(seed: int, number: int) -> int:
    return int(generator(seed, "policy imagination", number).integers(2**63 - 1))
