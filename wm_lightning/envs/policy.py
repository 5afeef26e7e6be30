"""What a policy is: it is told what to do, and turns the frames it sees into the actions it takes next.

The same policy acts in the true world and in a world model. It sees pixels alone, so that it cannot tell them apart.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, UInt8

from wm_lightning.clip import ActionSpec
from wm_lightning.envs.push_task import PushTask
from wm_lightning.envs.world_model import WorldModel
from wm_lightning.worlds.pusher import PusherWorld

# All frames since the last decision, at first the given ones.
Frames = UInt8[np.ndarray, "n f h w 3"]
# In the data's columns and units; of more than are executed the rest is dropped, and one alone is held.
Actions = Float[np.ndarray, "n k a"]
Actor = Callable[[Frames], Actions]


@dataclass(frozen=True, kw_only=True)
class Briefing:
    """What a policy is told of `n` episodes before they begin.

    `numbers` name the starts: all that a policy draws hangs on `seed` and these, so that it draws the same in every
    world. `targets` is the block of each episode, `instructions` the same in words. `rest` are the
    columns of the action of doing nothing that are not 0. `decision` actions are executed before it sees again,
    `horizon` in all. `world` gives the script its knowledge of pushing, `model` is what a
    planner imagines in.
    """

    numbers: tuple[int, ...]
    targets: Int[np.ndarray, "n"]
    task: PushTask
    spec: ActionSpec
    rest: Mapping[str, float | int]
    decision: int
    horizon: int
    seed: int
    world: PusherWorld
    model: WorldModel | None

    @property
    def instructions(self) -> list[str]:
        """In words."""
        return self.task.instructions(self.targets)


@runtime_checkable
class Policy(Protocol):
    """Begins episodes; what it returns acts in them, and may remember."""

    def __call__(self, briefing: Briefing, /) -> Actor: ...


def executed(actions: Actions, briefing: Briefing, name: str) -> Float[np.ndarray, "n m a"]:
    """The actions that are taken before the policy `name` sees again: its first ones, or a single one held.

    Raises ValueError where they are fewer, of other columns, or out of the data's bounds.
    """
    spec, wanted = briefing.spec, briefing.decision
    given = np.asarray(actions, np.float32)
    if given.shape[1] == 1:
        given = np.repeat(given, wanted, axis=1)
    if given.shape[0] != len(briefing.numbers) or given.shape[1] < wanted or given.shape[2] != spec.dim:
        raise ValueError(
            f"policy {name} gave actions {given.shape}; {len(briefing.numbers)} episodes of {wanted} actions or more "
            f"with the columns {list(spec.names)} are expected (a single action is held)"
        )
    given = given[:, :wanted]
    low, high = np.array(spec.low, np.float32), np.array(spec.high, np.float32)
    if not np.isfinite(given).all() or (given < low).any() or (given > high).any():
        raise ValueError(
            f"policy {name} gave an action that is not finite or out of bounds; clip it to {low} .. {high}"
        )
    return given
