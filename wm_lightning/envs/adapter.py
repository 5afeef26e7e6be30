"""Policies made elsewhere: a callable of pictures and instructions, its outputs turned into the data's actions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from wm_lightning.clip import ActionSpec
from wm_lightning.data.start_images import neutral
from wm_lightning.envs.policy import Actions, Actor, Briefing, Frames

# The newest picture of every episode and what is asked of it -> an action each, or a chunk of them, in its own units.
Foreign = Callable[[UInt8[np.ndarray, "n h w 3"], Sequence[str]], Float[np.ndarray, "n ..."]]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What one output of a foreign policy is here: its range `low..high` becomes `to_low..to_high`, and is clipped.

    A range may be turned round (`to_low` above `to_high`), as where 1 opens a gripper there and closes it here. With
    `binary` only the two ends are given, whichever is nearer.
    """

    column: str
    low: float
    high: float
    to_low: float
    to_high: float
    binary: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(
                f"{self.column}: low={self.low} must lie below high={self.high}; exchange to_low and to_high"
            )

    def __call__(self, values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """The value here."""
        share = np.clip((values - self.low) / (self.high - self.low), 0.0, 1.0)
        share = np.where(share >= 0.5, 1.0, 0.0) if self.binary else share
        return self.to_low + share * (self.to_high - self.to_low)


@dataclass(frozen=True, kw_only=True)
class ActionAdapter:
    """Turns a foreign policy's outputs into the data's columns, by `rules`, one for each output in its order.

    Columns without a rule are those of the action of doing nothing.
    """

    rules: Sequence[Rule]

    def __call__(
        self, outputs: Float[np.ndarray, "n ..."], spec: ActionSpec, rest: Mapping[str, float | int]
    ) -> Actions:
        """Actions `n k a` of outputs `n d` or `n k d`; `rest` as in `Briefing`.

        Raises ValueError where outputs or columns do not fit.
        """
        given = np.asarray(outputs, np.float64)
        given = given[:, None] if given.ndim == 2 else given
        names = [rule.column for rule in self.rules]
        unknown = [name for name in names if name not in spec.names]
        if unknown or len(set(names)) < len(names):
            raise ValueError(f"the rules {names} must name columns once each, of {list(spec.names)}")
        if given.ndim != 3 or given.shape[-1] != len(names):
            raise ValueError(f"outputs {np.shape(outputs)}, but {len(names)} rules ({names}): one for each output")
        still = neutral(spec, rest).double().numpy()
        actions = np.broadcast_to(still, (*given.shape[:2], spec.dim)).copy()
        for place, rule in enumerate(self.rules):
            actions[..., spec.names.index(rule.column)] = rule(given[..., place])
        # A rule may reach beyond the bounds that the model was trained within.
        return np.clip(actions, spec.low, spec.high).astype(np.float32)


@dataclass(frozen=True)
class Adapted:
    """A foreign policy as one of the suite's; it sees the newest frame. Its chunk may be longer than is executed."""

    foreign: Foreign
    adapter: ActionAdapter

    def __call__(self, briefing: Briefing) -> Actor:
        """The actor of these episodes."""
        asked = briefing.instructions

        def act(frames: Frames) -> Actions:
            return self.adapter(self.foreign(frames[:, -1], asked), briefing.spec, briefing.rest)

        return act


def openvla_adapter(spec: ActionSpec, limits: Mapping[str, float]) -> ActionAdapter:
    """The rules of OpenVLA's seven outputs for RT-1's columns.

    Displacement x, y, z and rotation are in the units of the data that OpenVLA was un-normalised for: `limits` gives
    the size (`position`, `rotation`) that becomes a column's bound. Its gripper is 1 open and 0 closed, here +1 closes.
    Raises ValueError for data without these columns.
    """
    moves = {"world_vector": "position", "rotation_delta": "rotation"}
    rules = []
    for field, size in moves.items():
        for axis in "xyz":
            column = f"{field}_{axis}"
            if column not in spec.names:
                raise ValueError(f"the data have no column {column}, which OpenVLA commands: {list(spec.names)}")
            place, limit = spec.names.index(column), limits[size]
            rules.append(Rule(column=column, low=-limit, high=limit, to_low=spec.low[place], to_high=spec.high[place]))
    gripper = "gripper_closedness_action"
    rules.append(Rule(column=gripper, low=0.0, high=1.0, to_low=1.0, to_high=-1.0, binary=True))
    return ActionAdapter(rules=rules)
