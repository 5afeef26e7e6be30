"""Overrides with which a training that is too large would fit, each of them tried."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig

from wm_lightning.tasks.needs import Needs, needs_of
from wm_lightning.tasks.planned import Planned, plan_unread, rebuilt

Changes = Mapping[str, Any]
SMALLER = {"paper": "small", "small": "debug"}


def fitting(planned: Planned, needs: Needs, allowed: float) -> list[str]:
    """Overrides with which this training would stay within `allowed` bytes; empty where none is known.

    A smaller size is tried where nothing else helps, and where a command line says what the config is made of.
    """
    ways = [] if needs.unavoidable > allowed else [*_gentler(planned, allowed)]
    words = [" ".join(f"{_word(planned, key)}={str(value).lower()}" for key, value in way.items()) for way in ways]
    return words or _smaller_size(allowed)


def _gentler(planned: Planned, allowed: float) -> list[Changes]:
    """Recomputed activations, more micro-batches and smaller batches, the mildest of each."""
    module, network = planned.config.module, planned.config.network
    halves = _halves(module.batch_size)
    series = {"module.batch_size": halves}
    if "micro_batches" in module:
        split = [-(-module.batch_size // size) for size in halves]
        series = {"module.micro_batches": [n for n in split if n > module.micro_batches], **series}
    again = {"network.gradient_checkpointing": True} if network.get("gradient_checkpointing") is False else {}
    ways: list[Changes] = [again] if again and _fits(planned, again, allowed) else []
    for key, values in series.items():
        found = _first(planned, [{key: value} for value in values], allowed)
        if found is None and again:
            found = _first(planned, [{**again, key: value} for value in values], allowed)
        ways += [] if found is None else [found]
    return ways


def _halves(batch: int) -> list[int]:
    sizes = []
    while batch > 1:
        sizes.append(batch := batch // 2)
    return sizes


def _first(planned: Planned, ways: Sequence[Changes], allowed: float) -> Changes | None:
    """The mildest that fits; None where the strongest, the last, does not."""
    if not ways or not _fits(planned, ways[-1], allowed):
        return None
    return next(way for way in ways if _fits(planned, way, allowed))


def _fits(planned: Planned, changes: Changes, allowed: float) -> bool:
    return needs_of(rebuilt(planned, changes)).most <= allowed


def _word(planned: Planned, key: str) -> str:
    """The key as the command line has it: a training that comes first has its module elsewhere."""
    return key.replace("module", planned.place, 1) if key.startswith("module.") else key


def _smaller_size(allowed: float) -> list[str]:
    """The next smaller size, where all trainings of this command line would fit at that."""
    if not HydraConfig.initialized():
        return []
    hydra = HydraConfig.get()
    size = SMALLER.get(str(hydra.runtime.choices.get("size")))
    if size is None:
        return []
    words = [word for word in hydra.overrides.task if not word.startswith(("size=", "run_dir="))]
    config = compose("config", [*words, f"size={size}"])
    needs = [needs_of(planned) for planned in plan_unread(config).trainings]
    return [f"size={size}"] if all(need.most <= allowed for need in needs) else []
