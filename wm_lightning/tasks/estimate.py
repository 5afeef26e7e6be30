"""What a training will take in memory and time, said before anything is loaded, and refused where it does not fit."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from wm_lightning.tasks.build import device_of, without
from wm_lightning.tasks.fitting import fitting
from wm_lightning.tasks.machine import free_memory, product_rate, timed
from wm_lightning.tasks.needs import Needs, needs_of, sized
from wm_lightning.tasks.planned import Plan, Planned, plan_unread
from wm_lightning.tasks.teachers import PRETRAINING

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """How much of the free memory a training may fill, and what share of the products' rate its steps should reach.

    Without `say` nothing is estimated before a training; with `refuse` one that does not fit is not begun.
    """

    say: bool
    refuse: bool
    usable: float
    efficiency: float

    def __post_init__(self) -> None:
        for name in ("usable", "efficiency"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"estimate.{name}={getattr(self, name)} is a share; give more than 0 and at most 1")


def say(config: DictConfig, needs: Needs, free: int | None, device: torch.device, *, comes_first: bool) -> None:
    """Logs what a training takes and how long it would run, validation and the table at the end apart.

    What comes first is trained once for all runs that share it, if the suite or the cache has it not.
    """
    limits: Limits = instantiate(config.estimate)
    there = "this machine does not say how much is free" if free is None else f"{sized(free)} are free"
    log.info("Memory of %s: %s; %s", needs.name, needs, there)
    dtype = torch.bfloat16 if "bf16" in str(config.trainer.precision) else torch.float32
    rate = product_rate(device, dtype)
    seconds = needs.flops / (rate * limits.efficiency)
    log.info(
        "Time of %s: %.3g GFLOP a step, %s at %.0f %% of the %.3g GFLOP/s of its own products; %d steps %s%s",
        needs.name, needs.flops / 1e9, timed(seconds), 100 * limits.efficiency, rate / 1e9,
        needs.iterations, timed(seconds * needs.iterations),
        "; once, and not where the suite or the cache has it" if comes_first else "",
    )  # fmt: skip


def say_and_check(config: DictConfig, plan: Plan) -> None:
    """Says what every training of the plan takes. Raises ValueError for one that this machine has no memory for."""
    limits: Limits = instantiate(config.estimate)
    for fault in faults(config, plan, limits) if limits.say else ():
        if limits.refuse:
            raise ValueError(fault)


def faults(config: DictConfig, plan: Plan, limits: Limits) -> Iterator[str]:
    """Says what every training takes; yields, in words, which do not fit and what would."""
    device = device_of(config)
    here = device.type != "cuda" or torch.cuda.is_available()
    if not here:
        log.info("No GPU here: the time is this CPU's, and the memory is compared with nothing")
    free, device = (free_memory(device), device) if here else (None, torch.device("cpu"))
    for planned in plan.trainings:
        needs = needs_of(planned)
        say(planned.config, needs, free, device, comes_first=planned is not plan.trainings[-1])
        if free is not None and needs.most > limits.usable * free:
            yield refusal(planned, needs, free, limits.usable)


def refusal(planned: Planned, needs: Needs, free: int, usable: float) -> str:
    """Why a training does not fit into `free` bytes of which a share is usable, by role, and overrides that help."""
    ways = fitting(planned, needs, usable * free)
    advice = f"what would fit: {' or '.join(ways)}" if ways else "no smaller batch or size= that is known would fit"
    spared = f"; {file} takes a network that is there, without this training" if (file := _in_place(planned)) else ""
    return (
        f"{needs.name} needs about {needs}, and {sized(free)} are free on this machine, of which "
        f"estimate.usable={usable:g} may be filled; {advice}{spared}; estimate.refuse=false begins all the same"
    )


def _in_place(planned: Planned) -> str:
    """The override that spares a training which comes first; empty for the config's own."""
    if planned.place.endswith(".recipe"):
        return f"{planned.place.removesuffix('recipe')}ckpt_path=FILE"
    return "module.start=FILE" if planned.config.name == PRETRAINING else ""


def estimate(config: DictConfig) -> dict[str, float]:
    """task=estimate: says what the trainings of this config take, and what does not fit.

    Neither data nor an autoencoder's weights need be there.
    """
    config = without(config, {"ckpt_path": None})
    for fault in faults(config, plan_unread(config), instantiate(config.estimate)):
        log.warning("%s", fault)
    return {}
