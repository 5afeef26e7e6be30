"""Settings of WMSD that would train something else than they say."""

from collections.abc import Callable

import torch

from wm_lightning.modules.wmsd_algorithm import Algorithm
from wm_lightning.modules.wmsd_surrogates import Surrogate
from wm_lightning.noising import GaussianPath, RectifiedFlow
from wm_lightning.sampling.rollout import Plan
from wm_lightning.sampling.samplers import Sampler


def check_settings(
    algorithm: Algorithm, surrogate: Surrogate | None, advantage: Callable | None, copies: int, sampler: Sampler,
    plan: Plan, path: GaussianPath,
) -> None:  # fmt: skip
    """Raises ValueError where losses would be taken of other passes than rollouts make, or a part is missing."""
    if copies < 2 and algorithm.rl:
        raise ValueError(f"module.copies={copies}: a rollout is held against the others of its task, so 2 or more")
    if not isinstance(path, RectifiedFlow):
        raise ValueError(f"the velocities of {type(path).__name__} are no straight line's; set noising=rectified_flow")
    with torch.device("cpu"):  # a module may be built without memory, where no value can be looked at
        times = sampler.levels(path, 2)
    if bool((times[:, :1] != times).any()):
        raise ValueError(f"{type(sampler).__name__} gives every frame times of its own; set sampler=euler or an SDE")
    if plan.guidance is not None and plan.guidance.scale != 1:
        raise ValueError("rollout.guidance steers rollouts and no loss knows of it; set rollout.guidance=null")
    if plan.commit.mode != "clean" or not (plan.rerun or plan.mask.chunk is not None):
        raise ValueError(
            f"losses see given frames clean and together with the video: set rollout.commit.mode=clean, not "
            f"{plan.commit.mode}, and for a bidirectional network rollout.rerun=true"
        )
    if algorithm.rl:
        _check_rewarded(algorithm, surrogate, advantage, sampler)


def check_start(trained: str | None, own: str) -> None:
    """Raises ValueError where a checkpoint was `trained` from another base, by its hash, than a run's `own`."""
    if trained != own:
        raise ValueError(
            f"the checkpoint's executor began as the base {str(trained)[:12]}, this run's is {own[:12]}, and its "
            f"demonstrator would be another; name that base's file by module.start"
        )


def _check_rewarded(
    algorithm: Algorithm, surrogate: Surrogate | None, advantage: Callable | None, sampler: Sampler
) -> None:
    if surrogate is None or advantage is None:
        raise ValueError("rewards move nothing without surrogate= and advantage=; choose both")
    able = len(surrogate.eligible(sampler))
    if not 1 <= surrogate.draws <= able:
        raise ValueError(
            f"surrogate.draws={surrogate.draws} of the {able} steps of a rollout that can be learned at; raise "
            f"sampler.steps.steps or lower it"
        )
    if algorithm.distill_reward == "per_step" and getattr(surrogate, "aggregation", None) == "sum_first":
        raise ValueError(
            "surrogate.aggregation=sum_first takes one ratio per rollout, and algorithm.distill_reward=per_step gives "
            "every step an advantage of its own; set surrogate.aggregation=exp_first"
        )
    for name, of in (("trust", "executor's average"), ("hold", "base")):
        if getattr(surrogate, name, 0.0) > 0 and algorithm.moves_demonstrator:
            raise ValueError(
                f"surrogate.{name} holds to the {of}, which a demonstrator that rewards move has not; set it to 0 "
                f"(algorithm.hold holds such a demonstrator to the base)"
            )


def check_old(algorithm: Algorithm, updates: int, decay: float | None, rise: float) -> None:
    """Raises ValueError where an old policy would be of nobody, or no policy's."""
    if updates < 1:
        raise ValueError(f"module.updates={updates}: an iteration makes 1 update of its rollouts, or more")
    if decay is not None and not 0 <= decay < 1:
        raise ValueError(f"module.old_decay={decay} must be null, or at least 0 and below 1")
    if rise < 0 or (rise and decay is None):
        raise ValueError(f"module.old_rise={rise} is 0 or more, and of a module.old_decay, to which it rises; set both")
    if (updates > 1 or decay is not None) and (algorithm.moves_demonstrator or algorithm.states != "executor"):
        raise ValueError(
            f"module.updates={updates} and module.old_decay={decay} are of an executor that learns from its own "
            f"rollouts, with algorithm.states=executor and a demonstrator that rewards do not move; set updates=1 and "
            f"old_decay=null"
        )
