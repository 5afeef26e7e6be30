"""A policy that was learned from demonstrations, in a file: safetensors, its card in the header."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from wm_lightning.checkpoints import write_weights
from wm_lightning.envs.policy import Actions, Actor, Briefing, Frames
from wm_lightning.networks.cloned_policy import ClonedPolicy
from wm_lightning.plain_files import DAMAGED, why

VERSION = "cloned policy 1"  # what the network does with its weights; a change of it needs a new number


@dataclass(frozen=True, kw_only=True)
class PolicyCard:
    """What a policy was trained on: `demonstrations` frames of successes; `loss` on held-out ones, None without any.

    `network` are the arguments of `ClonedPolicy`, `content` is the hash of the data.
    """

    network: Mapping[str, int]
    data: str
    frame_shape: tuple[int, ...]
    action_spec: Mapping[str, Any]
    iterations: int
    demonstrations: int
    loss: float | None
    seed: int
    content: str
    revision: str
    version: str = field(default=VERSION)


def save_policy(path: Path, network: ClonedPolicy, card: PolicyCard) -> None:
    """Writes weights and card in one step."""
    write_weights(path, network.state_dict(), {"policy": json.dumps(asdict(card))})


def load_policy(path: Path) -> tuple[ClonedPolicy, PolicyCard]:
    """The policy of a file. Raises ValueError where it holds none."""
    if not path.is_file():
        raise ValueError(f"{path} is not there; task=clone_policy trains policies and says where they are")
    try:
        with safe_open(path, framework="pt") as file:
            values = json.loads((file.metadata() or {}).get("policy", "null"))
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is no safetensors file ({error}); give what task=clone_policy wrote") from error
    if not isinstance(values, dict) or values.get("version") != VERSION:
        raise ValueError(f"{path} is no policy of {VERSION!r}; make one with task=clone_policy")
    try:
        card = PolicyCard(**{**values, "frame_shape": tuple(values["frame_shape"])})
        network = ClonedPolicy(**card.network)
        network.load_state_dict(load_file(path))
    except DAMAGED as error:
        raise ValueError(f"{path} holds no sound policy ({why(error)}); give what task=clone_policy wrote") from error
    return network.eval().requires_grad_(False), card


@dataclass(frozen=True, kw_only=True)
class Cloned:
    """Behaviour cloning: the policy of `file`, or where that is null the one that was trained for `iterations`."""

    iterations: int | None
    file: str | None

    def __post_init__(self) -> None:
        if (self.iterations is None) == (self.file is None):
            raise ValueError(f"iterations={self.iterations} and file={self.file}: give one of them")

    def __call__(self, briefing: Briefing) -> Actor:
        """The actor of these episodes. Raises ValueError where the policy is for other actions."""
        if self.file is None:
            raise ValueError(
                f"no policy was trained for {self.iterations} iterations; task=evaluate trains it by itself"
            )
        network, card = load_policy(Path(self.file))
        if card.action_spec != briefing.spec.to_dict():
            raise ValueError(f"{self.file} acts in {card.action_spec['names']}, the data have {briefing.spec.names}")
        goals = torch.as_tensor(briefing.targets)

        @torch.no_grad()
        def act(frames: Frames) -> Actions:
            height, width = card.frame_shape[1:]
            if frames.shape[2:4] != (height, width):
                raise ValueError(f"{self.file} sees frames of {height} x {width}, these have {frames.shape[2:4]}")
            newest = torch.from_numpy(frames[:, -1].copy()).permute(0, 3, 1, 2)
            chosen = network.chosen(newest, goals).numpy()
            return np.clip(chosen, briefing.spec.low, briefing.spec.high).astype(np.float32)

        return act
