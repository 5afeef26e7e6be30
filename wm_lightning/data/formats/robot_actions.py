"""RT-1's action fields and the three orders in which data sets store them; conversion goes by name.

"oxe10" is world-model-eval's order, "vid2world13" Vid2World's (alphabetical, with the termination one-hot),
"lerobot7" that of LeRobot, OpenVLA and the Bridge RLDS set.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32

from wm_lightning.clip import ActionSpec

FIELDS = {
    "world_vector": 3,
    "rotation_delta": 3,
    "gripper_closedness_action": 1,
    "base_displacement_vector": 2,
    "base_displacement_vertical_rotation": 1,
    "terminate_episode": 3,
}
_FIRST = tuple(FIELDS)
ORDERS: Mapping[str, tuple[str, ...]] = {
    "oxe10": _FIRST[:5],
    "vid2world13": tuple(sorted(FIELDS)),
    "lerobot7": _FIRST[:3],
}
# What a column holds where a data set does not store it: nothing moves, and the episode goes on.
NEUTRAL = {"terminate_episode_1": 1.0}


def columns(order: str) -> tuple[str, ...]:
    """The names of an order's columns. Raises ValueError for an order that is none."""
    if order not in ORDERS:
        raise ValueError(f"data.order={order} is not one of {', '.join(ORDERS)}")
    return tuple(name for field in ORDERS[order] for name in _names(field))


def order_of(names: Sequence[str]) -> str:
    """The order whose columns these are."""
    return next(order for order in ORDERS if columns(order) == tuple(names))


def spec_of(order: str, bounds: Mapping[str, float]) -> ActionSpec:
    """An order's columns with a symmetric bound per field. Raises ValueError where one is missing or not positive."""
    needed = [field for field in ORDERS[order] if field != "terminate_episode"]
    missing = [field for field in needed if not bounds.get(field, 0) > 0]
    unknown = set(bounds) - set(FIELDS)
    if missing or unknown:
        raise ValueError(
            f"action bounds {dict(bounds)}: a positive number is needed for each of {', '.join(needed)}"
            + (f"; {', '.join(sorted(unknown))} is no field" if unknown else "")
        )
    wide = {**{field: float(bounds[field]) for field in needed}, "terminate_episode": 1.0}
    high = [wide[field] for field in ORDERS[order] for _ in range(FIELDS[field])]
    low = [
        0.0 if field == "terminate_episode" else -wide[field] for field in ORDERS[order] for _ in range(FIELDS[field])
    ]
    return ActionSpec(columns(order), tuple(low), tuple(high))


def typical_bounds(names: Sequence[str], actions: Float32[np.ndarray, "f a"]) -> dict[str, float]:
    """A bound per field that 98 % of the moving values of each column respect; 1 where a field never moves."""
    bounds = {}
    for field in (field for field in FIELDS if field != "terminate_episode"):
        values = [np.abs(actions[:, number]) for number, name in enumerate(names) if name in _names(field)]
        moving = [column[column > 0] for column in values if column.any()]
        bounds[field] = max((_rounded_up(float(np.quantile(column, 0.98))) for column in moving), default=1.0)
    return bounds


def _rounded_up(value: float) -> float:
    """To two digits, never below the value."""
    digits = 1 - math.floor(math.log10(value))
    return math.ceil(value * 10**digits - 1e-9) / 10**digits


def convert(
    actions: Float32[np.ndarray, "f a"], source: Sequence[str], target: Sequence[str]
) -> Float32[np.ndarray, "f b"]:
    """The columns `target` of actions whose columns are `source`; what is not stored is neutral."""
    place = {name: number for number, name in enumerate(source)}
    found = np.empty((len(actions), len(target)), np.float32)
    for number, name in enumerate(target):
        found[:, number] = actions[:, place[name]] if name in place else NEUTRAL.get(name, 0.0)
    return found


def _names(field: str) -> list[str]:
    size = FIELDS[field]
    suffixes = (
        [""] if size == 1 else ["_0", "_1", "_2"][:size] if field == "terminate_episode" else ["_x", "_y", "_z"][:size]
    )
    return [field + suffix for suffix in suffixes]
