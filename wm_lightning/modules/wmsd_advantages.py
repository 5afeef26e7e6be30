"""From what judges and the demonstrator say of rollouts to advantages, over the rollouts of all ranks."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from wm_lightning.modules.wmsd_algorithm import Algorithm
from wm_lightning.modules.wmsd_rollouts import Rollouts, Steps
from wm_lightning.objectives.advantages import Advantages
from wm_lightning.objectives.denoising import frame_error
from wm_lightning.objectives.self_distillation import distillation_reward
from wm_lightning.rewards.bus import Scores

Gather = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Judged:
    """One advantage per rollout of this rank, and what to log of how it came about."""

    values: Float[Tensor, "b"]
    logged: dict[str, Tensor]


def judged(
    made: Rollouts, scores: Scores | None, taught: Steps | None, algorithm: Algorithm,
    advantage: Callable[..., Advantages], gather: Gather, rank: int,
) -> Judged:  # fmt: skip
    """How much better every rollout was than the others of its task, by judges and by the demonstrator.

    `gather` gives the rows of all ranks in their order, whose statistics count: what a rollout is worth must not hang
    on how many ranks there are.
    """
    columns: dict[str, Tensor] = {}
    valid, weights, logged = [], [], {}
    if scores is not None:
        columns |= {name: scores.of(name) for name in scores.names}
        valid, weights = list(scores.valid.unbind(1)), scores.weights.tolist()
        logged |= _said(scores)
    if taught is not None and algorithm.distill > 0:
        columns["distill"] = distilled(made, taught, algorithm).cpu()
        valid.append(torch.ones(len(made), dtype=torch.bool))
        weights.append(algorithm.distill)
        logged["distill"] = columns["distill"].mean()
    device = made.made.device
    # Ranks number their tasks alike; behind each other they are all different ones.
    task = made.task + rank * (int(made.task.max()) + 1)
    table = gather(torch.stack([*columns.values()], 1).to(device)).cpu()
    whole = gather(torch.stack(valid, 1).to(device)).cpu()
    found = advantage(table, weights, gather(task).cpu(), whole)
    own = slice(rank * len(made), (rank + 1) * len(made))
    logged |= {f"flat_{name}": flat.float() for name, flat in zip(columns, found.flat, strict=True)}
    return Judged(found.values[own].to(device), {**logged, "flat": found.flat_total.float(), "clipped": found.clipped})


def distilled(made: Rollouts, taught: Steps, algorithm: Algorithm) -> Float[Tensor, "b"]:
    """The distillation reward of every rollout (eq. 9), of velocities that are there already."""
    pairs = zip(made.velocities.unbind(1), taught.unbind(1), strict=True)
    gaps = torch.stack([frame_error(own, other) for own, other in pairs], dim=1)
    return distillation_reward(gaps, made.times, made.given, weighting=algorithm.weighting).sum(1)


def _said(scores: Scores) -> dict[str, Tensor]:
    """The mean of every reward and the share of yes, over valid judgements."""
    found: dict[str, Tensor] = {}
    for place, name in enumerate(scores.names):
        value = scores.value[:, place][scores.valid[:, place]]
        found |= {name: value.mean(), f"{name}_met": (value > 0).float().mean()} if len(value) else {}
    return found
