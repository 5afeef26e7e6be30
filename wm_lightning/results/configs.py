"""In what the configs of several runs differ, and which of it is the axis that their numbers are drawn over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from wm_lightning.config_record import flat
from wm_lightning.results.seeds import Group, Run

_LABELS = ("name", "tags", "seed")  # say which run it is, not what it computes


@dataclass(frozen=True)
class Difference:
    """A key of the config with its value in every group, and how many other keys have the very same values."""

    key: str
    values: tuple[Any, ...]
    others: int


@dataclass(frozen=True)
class Axis:
    """What numbers are drawn over: a number per group, in which case its places are numbers, or a name."""

    label: str
    values: tuple[float | str, ...]

    @property
    def numeric(self) -> bool:
        """Whether every value is a number."""
        return all(isinstance(value, float) for value in self.values)


def config_of(run: Run) -> Mapping[str, Any] | None:
    """The leaves of the config that lies beside a run's results, by dotted key; None where there is none."""
    path = run.path.parent / "config.yaml"
    if not path.is_file():
        return None
    return {key: value for key, value in flat(yaml.safe_load(path.read_text())).items() if key not in _LABELS}


def differences(found: Sequence[Group]) -> tuple[Difference, ...]:
    """Keys whose values differ between groups, the shortest of those that always agree; none without all configs."""
    configs = [config_of(group.runs[0]) for group in found]
    known = [config for config in configs if config is not None]
    if len(known) < len(configs):
        return ()
    by_values: dict[str, list[tuple[str, tuple[Any, ...]]]] = {}
    for key in sorted({key for config in known for key in config}, key=lambda key: (key.count("."), len(key), key)):
        values = tuple(config.get(key) for config in known)
        if any(value != values[0] for value in values):
            by_values.setdefault(repr(values), []).append((key, values))
    return tuple(Difference(*same[0], others=len(same) - 1) for same in by_values.values())


def axis_of(found: Sequence[Group], key: str | None) -> Axis:
    """The axis of several groups: `key` of their configs, else the one number in which they differ, else their names.

    Raises ValueError where `key` is in none of the configs or equal in several groups, or configs are not beside the
    results.
    """
    if key is not None:
        values = tuple(_value_of(group, key) for group in found)
        if len(set(values)) < len(found):
            raise ValueError(f"task.axis={key} has values that several groups share, {list(values)}; name another key")
        return Axis(key, values)
    numbers = {entry.key: entry.values for entry in differences(found) if _all_distinct_numbers(entry.values)}
    numbers = numbers or _of_results(found)
    if len(numbers) == 1:
        [(name, values)] = numbers.items()
        return Axis(name, tuple(float(value) for value in values))
    return Axis("", tuple(group.label for group in found))


def _value_of(group: Group, key: str) -> float | str:
    config = config_of(group.runs[0])
    if config is None or key not in config:
        where = group.runs[0].path.parent / "config.yaml"
        raise ValueError(f"task.axis={key} is not in {where}; name a key of the runs' configs, or null")
    return float(config[key]) if _is_number(config[key]) else str(config[key])


def _of_results(found: Sequence[Group]) -> dict[str, tuple[float, ...]]:
    """Steps and chunks as the results themselves tell them, where they differ."""
    uses = [group.first.deployed for group in found]
    told = {"chunk": tuple(float(group.first.chunk) for group in found)}
    if all(use is not None for use in uses):
        told["steps"] = tuple(float(use.steps) for use in uses if use is not None)
    return {name: values for name, values in told.items() if len(set(values)) == len(found) > 1}


def _all_distinct_numbers(values: Sequence[Any]) -> bool:
    return all(map(_is_number, values)) and len(set(values)) == len(values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
