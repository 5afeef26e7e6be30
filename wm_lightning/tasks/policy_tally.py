"""What an evaluation of policies adds up to, as plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from wm_lightning.envs.push_task import COLOURS
from wm_lightning.metrics.ranking import (
    Confusion,
    Correlation,
    confusion,
    correlation,
    mean_gap,
    mmrv,
    pearson,
    spearman,
)
from wm_lightning.metrics.rates import Rate

Success = Bool[np.ndarray, "n"]
# By policy.
Successes = Mapping[str, Success]


def shares(successes: Successes, targets: Int[np.ndarray, "n"]) -> dict[str, dict[str, Any]]:
    """Of every policy the success rate with Wilson's interval, also by block."""
    found = {}
    for name, success in successes.items():
        by_block = {colour: _share(success[targets == block]) for block, colour in enumerate(COLOURS)}
        found[name] = {**_share(success), "by_block": by_block}
    return found


def against_truth(
    real: Successes, model: Successes, targets: Int[np.ndarray, "n"], *, draws: int, seed: int
) -> dict[str, Any]:
    """How a world's success rates go with those of another one, over policies, and over policies and blocks."""
    truth, seen = ([float(success.mean()) for success in one.values()] for one in (real, model))
    chance = {"draws": draws, "seed": seed}
    points = (_by_block(one, targets) for one in (real, model))
    first, second = points
    return {
        "pearson": _told(correlation(truth, seen, pearson, **chance)),
        "spearman": _told(correlation(truth, seen, spearman, **chance)),
        "mmrv": mmrv(real=truth, model=seen), "mean_gap": mean_gap(truth, seen),
        "points": {
            "pearson": _told(correlation(first, second, pearson, **chance)),
            "spearman": _told(correlation(first, second, spearman, **chance)),
        },
    }  # fmt: skip


def judged(words: Successes, truth: Successes) -> dict[str, Any]:
    """What a judge says against what is true, of all episodes of all policies."""
    found = confusion(np.concatenate(list(words.values())), np.concatenate([truth[name] for name in words]))
    return confusion_values(found)


def confusion_values(found: Confusion) -> dict[str, Any]:
    """Counts, and the shares that they make."""
    shares_of = {name: getattr(found, name).value for name in ("agreement", "precision", "recall")}
    return {**asdict(found), "n": found.n, **shares_of, "kappa": found.kappa}


def _share(success: Success) -> dict[str, Any]:
    rate = Rate(int(success.sum()), len(success))
    low, high = rate.interval or (None, None)
    return {"successes": rate.met, "n": rate.n, "rate": rate.value, "low": low, "high": high}


def _by_block(successes: Successes, targets: Int[np.ndarray, "n"]) -> Sequence[float]:
    blocks = [block for block in range(len(COLOURS)) if (targets == block).any()]
    return [float(success[targets == block].mean()) for success in successes.values() for block in blocks]


def _told(found: Correlation) -> dict[str, Any]:
    return asdict(found)
