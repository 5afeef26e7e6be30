"""The command that `task=doctor` ends with: it trains on what was looked at, with the settings that it needs."""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

# Words of a command line that are about the look itself, or about one run.
OWN = ("task", "run_dir", "ckpt_path", "hydra", "name")


def given_words() -> list[str]:
    """The words of this command line; none where the task was called from Python."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def clip_words(config: DictConfig, longest: int) -> dict[str, Any]:
    """Settings that make clips as long as the longest episode has whole chunks, where it is shorter than they are."""
    if longest >= max(config.data.frames, config.data.val_frames):
        return {}
    context, chunk = config.module.context, config.rollout.chunk
    frames = context + max(1, (longest - context) // chunk) * chunk
    return {"data.frames": frames, "data.val_frames": frames, "metrics.horizon": frames - context}


def share_words(shares: Mapping[str, float], stored: Sequence[str], episodes: int) -> dict[str, float]:
    """Shares that leave two episodes to every split that is not stored, where there are enough."""
    small = [name for name in shares if name not in stored and round(shares[name] * episodes) < 2]
    return {f"data.{name}_share": math.ceil(200 / episodes) / 100 for name in small if episodes >= 6}


def command(
    words: Sequence[str], root: str | None, added: Mapping[str, Any], *, experiment: str = "experiment=teacher"
) -> str:
    """The command with all words that were given, `added` in the place of those of the same key.

    The root is made absolute; `experiment` is trained where none was given.
    """
    replaced = {key.lstrip("+") for key in added} | ({"data.root"} if root is not None else set())
    kept = [word for word in words if _group(word) not in OWN and _key(word) not in replaced]
    start = [] if any(_key(word) == "experiment" for word in kept) else [experiment]
    place = next((number + 1 for number, word in enumerate(kept) if _key(word) == "data"), 0)
    where = [] if root is None else [f"data.root={Path(root).resolve()}"]
    more = [f"{key}={json.dumps(value)}".replace('"', "") for key, value in added.items()]
    return shlex.join(["python", "run.py", *start, *kept[:place], *where, *kept[place:], *more])


def _key(word: str) -> str:
    return word.split("=", 1)[0].lstrip("+~")


def _group(word: str) -> str:
    return _key(word).replace("/", ".").split(".")[0]
