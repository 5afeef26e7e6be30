"""From what judges and the demonstrator say of rollouts to advantages, over the rollouts of all ranks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from wm_lightning.modules.wmsd_algorithm import Algorithm
from wm_lightning.modules.wmsd_rollouts import Rollouts, Steps
from wm_lightning.objectives.advantages import Advantages
from wm_lightning.objectives.denoising import frame_error
from wm_lightning.objectives.self_distillation import distillation_reward, reward_to_go, step_rewards
from wm_lightning.rewards.bus import Scores

Gather = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Judged:
    """One advantage per rollout of this rank, or one for each of its steps, and what to log of how it came about."""

    values: Float[Tensor, "b *k"]
    logged: dict[str, Tensor]


def judged(
    made: Rollouts, scores: Scores | None, taught: Steps | None, algorithm: Algorithm,
    advantage: Callable[..., Advantages], gather: Gather, rank: int,
) -> Judged:  # fmt: skip
    """How much better every rollout was than the others of its task, by judges and by the demonstrator.

    Where the distillation reward is of steps, every step is held against the same step of the others, with the judges'
    words on the whole. `gather` gives the rows of all ranks in their order, whose statistics count: what a rollout is
    worth must not hang on how many ranks there are.
    """
    device, logged = made.made.device, {}
    table = torch.zeros(len(made), 0)
    valid, names, weights = table.bool(), [], []
    if scores is not None:
        table, valid = torch.stack([scores.of(name) for name in scores.names], 1), scores.valid
        names, weights, logged = list(scores.names), scores.weights.tolist(), _said(scores)
    parts = [range(table.shape[1])]
    if taught is not None and algorithm.distill > 0:
        whole, credit = (value.cpu() for value in distilled(made, taught, algorithm))
        logged["distill"] = whole.mean()
        parts = [(*parts[0], len(names) + step) for step in range(credit.shape[1])]
        table, valid = torch.cat([table, credit], 1), torch.cat([valid, torch.ones_like(credit, dtype=torch.bool)], 1)
        names, weights = [*names, "distill"], [*weights, algorithm.distill]
    # Ranks number their tasks alike; behind each other they are all different ones.
    task = gather(made.task + rank * (int(made.task.max()) + 1)).cpu()
    table, valid = gather(table.to(device)).cpu(), gather(valid.to(device)).cpu()
    found = [advantage(table[:, part], weights, task, valid[:, part]) for part in map(list, parts)]
    values = torch.stack([one.values[rank * len(made) : (rank + 1) * len(made)] for one in found], 1).to(device)
    return Judged(values[:, 0] if len(found) == 1 else values, logged | _shares(found, names))


def distilled(
    made: Rollouts, taught: Steps, algorithm: Algorithm
) -> tuple[Float[Tensor, "b"], Float[Tensor, "b credited"]]:
    """The distillation reward of every rollout (eq. 9), of velocities that are there already, and what is credited:
    that to the rollout, or to every step what lies behind it."""
    pairs = zip(made.velocities.unbind(1), taught.unbind(1), strict=True)
    gaps = torch.stack([frame_error(own, other) for own, other in pairs], dim=1)
    whole = distillation_reward(gaps, made.times, made.given, weighting=algorithm.weighting)
    if algorithm.distill_reward == "trajectory":
        return whole, whole[:, None]
    return whole, reward_to_go(step_rewards(gaps, made.times, made.given, weighting=algorithm.weighting))


def _shares(found: Sequence[Advantages], names: Sequence[str]) -> dict[str, Tensor]:
    """How much told nothing and was clipped, a mean over the steps that had an advantage of their own."""
    flat = torch.stack([one.flat.float() for one in found]).mean(0)
    total, clipped = (
        torch.stack([getattr(one, name).float() for one in found]).mean() for name in ("flat_total", "clipped")
    )
    return {
        **{f"flat_{name}": value for name, value in zip(names, flat, strict=True)},
        "flat": total,
        "clipped": clipped,
    }


def _said(scores: Scores) -> dict[str, Tensor]:
    """The mean of every reward and the share of yes, over valid judgements."""
    found: dict[str, Tensor] = {}
    for place, name in enumerate(scores.names):
        value = scores.value[:, place][scores.valid[:, place]]
        found |= {name: value.mean(), f"{name}_met": (value > 0).float().mean()} if len(value) else {}
    return found
