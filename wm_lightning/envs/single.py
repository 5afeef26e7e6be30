"""A world model as one gymnasium environment."""

from typing import Any

import gymnasium
import numpy as np

from wm_lightning.clip import Clip
from wm_lightning.envs.episodes import Episodes
from wm_lightning.envs.judges import Judge, no_judge
from wm_lightning.envs.world_model import WorldModel


class WorldModelEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """Frames of a world model as observations, the data's action columns as actions.

    A checkpoint that makes chunks of F frames takes F actions per decision, `[F, A]`, and gives F frames
    (`action_chunk`); one action at a time needs a framewise checkpoint or `action_repeat=F`, which gives the last
    frame and all of them in `info["frames"]`. `judge` makes reward and termination of pixels; an episode is truncated
    after `horizon` frames.

    `reset` takes `options={"start": number}` or `{"image": uint8 [h, w, 3]}`; a start is drawn otherwise. `info` has
    `frame` (made so far), `forwards` of the decision, `is_success`, and `latency_ms` unless `timed` is false: times
    differ where everything else is equal.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(
        self, world: WorldModel, starts: Clip, *, judge: Judge = no_judge, horizon: int,
        action_repeat: int | None = None, timed: bool = True, render_mode: str | None = None,
    ) -> None:  # fmt: skip
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"{render_mode=} is not rgb_array, which is the only one")
        self.episodes = Episodes(world, starts, judge, count=1, horizon=horizon, action_repeat=action_repeat)
        self.observation_space, self.action_space = self.episodes.observation_space, self.episodes.action_space
        self.render_mode, self.timed = render_mode, timed
        self._shown: np.ndarray | None = None

    @property
    def action_chunk(self) -> int:
        """Actions that a decision takes: the frames of a chunk, 1 where an action is repeated."""
        return 1 if self.episodes.single else self.episodes.world.chunk

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """What is seen at the start (of a chunk's length where observations have one), and its number as `start`."""
        super().reset(seed=seed)
        seen, [number] = self.episodes.reset([0], [self.np_random], options)
        self._shown = seen[0]
        return seen[0], {"start": number, "frame": 0}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One decision. Raises ValueError for an action of another shape or out of its bounds."""
        stepped = self.episodes.step([0], np.asarray(action)[None])
        info: dict[str, Any] = {
            "frame": int(self.episodes.made[0]), "forwards": self.episodes.world.forwards,
            "is_success": bool(stepped.success[0]),
        }  # fmt: skip
        if self.timed:
            info["latency_ms"] = stepped.latency_ms
        if self.episodes.repeats:
            info["frames"] = stepped.frames[0]
        self._shown = stepped.observations[0]
        ends = bool(stepped.terminated[0]), bool(stepped.truncated[0])
        return stepped.observations[0], float(stepped.rewards[0]), *ends, info

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """The newest frame, `h w 3`; None without a render mode or before the first reset."""
        if self.render_mode is None or self._shown is None:
            return None
        return (self._shown if self._shown.ndim == 3 else self._shown[-1]).copy()
