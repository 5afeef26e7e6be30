"""The pusher's own policies, acting by what they see: the same on a true picture and on a generated one."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float

from wm_lightning.data.start_images import neutral
from wm_lightning.envs.policy import Actions, Actor, Briefing, Frames
from wm_lightning.randomness import generator
from wm_lightning.worlds.pusher_dynamics import Scene, advance
from wm_lightning.worlds.pusher_measure import look
from wm_lightning.worlds.pusher_policies import NOISE, POLICIES, Temper, act, draw_temper

COLUMNS = 7  # that the script fills: motion, rotation and fingers; the base stands still


@dataclass(frozen=True, kw_only=True)
class Scripted:
    """One of the pusher's habits by sight: it looks for gripper and blocks, then thinks `decision` actions ahead.

    `noise` is the standard deviation of its motion (null: that of the data's own policy), `speed` the share of full
    speed. What is not seen is where it was last.
    """

    habit: Literal["scripted", "failing", "random"]
    noise: float | None
    speed: float

    def __post_init__(self) -> None:
        if self.habit == "random" and self.noise is not None:
            raise ValueError(f"a random policy takes no noise, got {self.noise}; give noise=null")
        if not 0 < self.speed <= 1 or (self.noise is not None and self.noise < 0):
            raise ValueError(f"speed={self.speed} must be in 0..1 and noise={self.noise} null or 0 and more")

    def __call__(self, briefing: Briefing) -> Actor:
        """The actor of these episodes. Raises ValueError where the data have other columns than the simulator."""
        if briefing.spec.names != briefing.world.spec.names:
            raise ValueError(
                f"the script acts in the columns {list(briefing.world.spec.names)}, the data have "
                f"{list(briefing.spec.names)}; leave data.order=null"
            )
        return _Herder(self._temper(briefing), briefing)

    def _temper(self, briefing: Briefing) -> Temper:
        sources = [generator(briefing.seed, "policy", number) for number in briefing.numbers]
        shares = {name: float(name == self.habit) for name in POLICIES}
        drawn = draw_temper(sources, shares, briefing.horizon)
        noise = drawn.noise.copy()
        if self.noise is not None:
            noise[..., :2] *= self.noise / NOISE[self.habit]
        return replace(drawn, favourite=briefing.targets, speed=np.full(len(sources), self.speed), noise=noise)


@dataclass(frozen=True)
class Still:
    """Does nothing, as the data have it: see `start_images.neutral`."""

    def __call__(self, briefing: Briefing) -> Actor:
        nothing = neutral(briefing.spec, briefing.rest).numpy()
        return lambda frames: np.tile(nothing, (len(frames), 1, 1))


class _Herder:
    """Remembers where everything was last, its last action, and how many it has taken."""

    def __init__(self, temper: Temper, briefing: Briefing) -> None:
        self.temper, self.briefing, self.step = temper, briefing, 0
        self.last = np.zeros((len(briefing.numbers), COLUMNS))
        self.places: Float[np.ndarray, "n k 2"] = np.full((len(briefing.numbers), 4, 2), 0.5)

    def __call__(self, frames: Frames) -> Actions:
        scene, count = self._scene(frames), len(frames)
        actions = np.zeros((count, self.briefing.decision, self.briefing.spec.dim), np.float32)
        for place in range(self.briefing.decision):
            self.last = act(scene, self.temper, self.last, self.step)
            actions[:, place, :COLUMNS] = self.last
            scene = advance(scene, self.last, np.zeros((count, 2)), self.briefing.world.reach)
            self.step += 1
        return np.clip(actions, self.briefing.spec.low, self.briefing.spec.high).astype(np.float32)

    def _scene(self, frames: Frames) -> Scene:
        """The newest frame, by the world's own measure of pixels."""
        sights = look(torch.from_numpy(frames[:, -1:].copy()).permute(0, 1, 4, 2, 3))
        seen = [sights.gripper, *sights.blocks, sights.distractor]
        found = np.stack([sight.place[:, 0].numpy() for sight in seen], axis=1).astype(np.float64)
        self.places = np.where(np.isnan(found), self.places, found)
        still = np.zeros(len(frames))
        return Scene(
            gripper=self.places[:, 0], height=still, angle=still, opening=still, blocks=self.places[:, 1:3],
            distractor=self.places[:, 3],
        )  # fmt: skip
