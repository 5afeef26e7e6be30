"""Several episodes of one world model, advanced by one batched rollout."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from jaxtyping import Shaped

from wm_lightning.clip import Clip
from wm_lightning.envs.episodes import Episodes
from wm_lightning.envs.judges import Judge, no_judge
from wm_lightning.envs.world_model import WorldModel

Seeds = int | np.integer | Sequence[int | np.integer | None] | Shaped[np.ndarray, "n"] | None


class WorldModelVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """`num_envs` slots with generators and caches of their own: see `WorldModelEnv` for everything else.

    Slot i under `reset(seed=s)` is a single environment under `seed=s + i`. An episode that ended begins anew with the
    next step, whose action for it is not used (`AutoresetMode.NEXT_STEP`). `reset` also takes
    `options={"reset_mask": bool [num_envs]}`, which leaves the other slots as they are.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(
        self, world: WorldModel, starts: Clip, *, num_envs: int, judge: Judge = no_judge, horizon: int,
        action_repeat: int | None = None,
    ) -> None:  # fmt: skip
        if num_envs < 1:
            raise ValueError(f"{num_envs=}: at least 1 is expected")
        self.num_envs = num_envs
        self.episodes = Episodes(world, starts, judge, count=num_envs, horizon=horizon, action_repeat=action_repeat)
        self.single_observation_space = self.episodes.observation_space
        self.single_action_space = self.episodes.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._sources = [np_random()[0] for _ in range(num_envs)]
        self._seen = np.zeros((num_envs, *(self.single_observation_space.shape or ())), np.uint8)
        self._over = np.zeros(num_envs, bool)

    @property
    def action_chunk(self) -> int:
        """Actions that a decision takes: the frames of a chunk, 1 where an action is repeated."""
        return 1 if self.episodes.single else self.episodes.world.chunk

    def reset(self, *, seed: Seeds = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:  # type: ignore[override]
        """Begins all slots, or those of the mask, anew. Raises ValueError for another mask, or other seeds."""
        options = dict(options or {})
        mask = np.asarray(options.pop("reset_mask", np.ones(self.num_envs, bool)))
        if mask.shape != (self.num_envs,) or mask.dtype != bool or not mask.any():
            raise ValueError(f"reset_mask={mask.tolist()}: {self.num_envs} booleans are expected, one at least true")
        seeds = _seeds(seed, self.num_envs)
        if len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds for {self.num_envs} slots; give one each, or a single number")
        rows = np.flatnonzero(mask).tolist()
        for row in rows:
            if seeds[row] is not None:
                self._sources[row] = np_random(seeds[row])[0]
        starts = self._begin(rows, options)
        return self._seen.copy(), {"start": starts, "frame": self.episodes.made.copy()}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One decision for every slot; one whose episode is over begins anew instead."""
        given = np.asarray(actions)
        if len(given) != self.num_envs:
            raise ValueError(f"actions for {len(given)} slots, {self.num_envs} are expected")
        over, going = np.flatnonzero(self._over).tolist(), np.flatnonzero(~self._over).tolist()
        rewards = np.zeros(self.num_envs)
        terminated, truncated, success = (np.zeros(self.num_envs, bool) for _ in range(3))
        forwards, latency = np.zeros(self.num_envs, np.int64), np.zeros(self.num_envs)
        if over:
            self._begin(over, {})
        if going:
            stepped = self.episodes.step(going, given[going])
            self._seen[going], rewards[going] = stepped.observations, stepped.rewards
            terminated[going], truncated[going] = stepped.terminated, stepped.truncated
            success[going], forwards[going] = stepped.success, self.episodes.world.forwards
            latency[going] = stepped.latency_ms
        self._over = terminated | truncated
        info = {"frame": self.episodes.made.copy(), "forwards": forwards, "latency_ms": latency, "is_success": success}
        return self._seen.copy(), rewards, terminated, truncated, info

    def _begin(self, rows: list[int], options: dict[str, Any]) -> np.ndarray:
        seen, numbers = self.episodes.reset(rows, [self._sources[row] for row in rows], options)
        self._seen[rows], self._over[rows] = seen, False
        starts = np.full(self.num_envs, -1)
        starts[rows] = numbers
        return starts


def _seeds(seed: Seeds, count: int) -> list[int | None]:
    """One a slot: those that are given, or numbers that follow one another; None leaves a slot its generator."""
    if seed is None:
        return [None] * count
    if isinstance(seed, int | np.integer):
        return [int(seed) + row for row in range(count)]
    seeds = np.asarray(seed, object).ravel().tolist()
    if not all(one is None or isinstance(one, int | np.integer) for one in seeds):
        raise ValueError(f"{seed=}: a whole number, one for each slot, or None is expected")
    # gymnasium knows no whole numbers but Python's.
    return [None if one is None else int(one) for one in seeds]
