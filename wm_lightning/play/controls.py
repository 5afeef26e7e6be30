"""From keys that are held to an action in the data's columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from wm_lightning.clip import ActionSpec
from wm_lightning.data.start_images import neutral

# By group and key: the columns that it sets.
Groups = Mapping[str, Mapping[str, Mapping[str, float | int]]]
PAIRS = (
    ("ArrowRight", "ArrowLeft"), ("ArrowUp", "ArrowDown"), ("d", "a"), ("w", "s"), ("e", "q"), ("l", "j"), ("i", "k"),
    ("o", "u"),
)  # fmt: skip
SINGLE = "1234567890qwertyuiopasdfghjklzxcvbnm"


@dataclass(frozen=True)
class Key:
    """A key by the name that browsers give it, the group it belongs to, and the columns it sets."""

    name: str
    group: str
    columns: Mapping[int, float]
    label: str


@dataclass(frozen=True)
class Controls:
    """What keys do. Of the keys of a group that are held the one pressed last counts; without any it is `rest`.

    Where it `waits`, nothing moves on while no key is held.
    """

    rest: Float32[np.ndarray, "a"]
    keys: tuple[Key, ...]
    waits: bool

    def action(self, held: Sequence[str]) -> Float32[np.ndarray, "a"]:
        """The action of keys in the order in which they were pressed. Raises ValueError for a key that is none."""
        known = {key.name: key for key in self.keys}
        counts: dict[str, Key] = {}
        for name in held:
            if name not in known:
                raise ValueError(f"the key {name[:20]!r} does nothing here; one of {', '.join(known)} is expected")
            counts[known[name].group] = known[name]
        action = self.rest.copy()
        for key in counts.values():
            for column, value in key.columns.items():
                action[column] = value
        return action


def controls_of(
    spec: ActionSpec, *, groups: Groups, rest: Mapping[str, float | int], waits: bool
) -> Controls:  # fmt: skip
    """The keys of `groups`, or where it is empty two for every column that has two sides and one for a choice.

    Values are brought to the data's bounds; columns that the data lack are left out, with keys that are left with none.
    Raises ValueError for a key that stands in two groups, or where no key is left.
    """
    low, high = np.array(spec.low, np.float32), np.array(spec.high, np.float32)
    place = {name: number for number, name in enumerate(spec.names)}
    still = neutral(spec, rest).numpy()
    keys = []
    for group, own in (groups or made_groups(spec)).items():
        for name, columns in own.items():
            there = {place[column]: value for column, value in columns.items() if column in place}
            found = {column: float(np.clip(value, low[column], high[column])) for column, value in there.items()}
            if found:
                keys.append(Key(str(name), group, found, _label(spec, found, still)))
    names = [key.name for key in keys]
    if not keys or len(set(names)) < len(names):
        raise ValueError(
            f"task.controls has the keys {names} for the columns {list(spec.names)}; every key belongs to one group, "
            f"and one at least names a column of the data"
        )
    return Controls(still, tuple(keys), waits)


def made_groups(spec: ActionSpec) -> dict[str, dict[str, dict[str, float]]]:
    """Keys for any columns. What is beyond the keyboard is named by its column, for buttons on the page."""
    groups: dict[str, dict[str, dict[str, float]]] = {}
    for number, (name, low, high) in enumerate(zip(spec.names, spec.low, spec.high, strict=True)):
        if spec.kind == "discrete" or low >= 0:
            key = SINGLE[number] if number < len(SINGLE) else name
            groups[name] = {key: {name: high}}
        else:
            more, less = PAIRS[number] if number < len(PAIRS) else (f"{name} +", f"{name} -")
            groups[name] = {more: {name: high}, less: {name: low}}
    return groups


def _label(spec: ActionSpec, columns: Mapping[int, float], rest: Float32[np.ndarray, "a"]) -> str:
    """What a key does, in the data's words: the columns that it does not put to 0."""
    said: list[Any] = []
    for column, value in columns.items():
        if value or not rest[column]:
            said.append(spec.names[column] if spec.kind == "discrete" else f"{spec.names[column]} {value:+.2g}")
    return ", ".join(said)
