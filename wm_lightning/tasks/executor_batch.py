"""An executor's module and a batch of its tasks, before there is a training: to be measured, or looked at."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn

from wm_lightning.checkpoints import NetworkFile, weights_hash
from wm_lightning.clip import Clip, Condition
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.modules.wmsd import WMSDModule
from wm_lightning.modules.wmsd_rollouts import repeated
from wm_lightning.tasks.build import build_card, build_module, plain_node


class Batch(NamedTuple):
    """A module whose base has random weights, its first tasks, and what executor and demonstrator are told of every
    copy."""

    module: WMSDModule
    clip: Clip
    asked: Condition
    told: Condition


def first_batch(
    config: DictConfig, data: ClipDataModule, device: torch.device, change: Callable[[nn.Module], object] | None = None
) -> Batch:
    """Of a config; `change` is done to the weights that all roles begin with. Raises ValueError for another module."""
    card = build_card(config, data, "executor")
    network = instantiate(plain_node(config, "network"), _convert_="all")()
    if change is not None:
        change(network)
    weights = dict(network.state_dict())
    module = build_module(config, card, NetworkFile(weights, card, weights_hash(weights)))
    if not isinstance(module, WMSDModule):
        raise ValueError(f"the part executor is of an executor's module, not of {type(module).__name__}; leave it out")
    module.to(device).train()
    clip = next(iter(data.train_dataloader())).to(device)
    asked, told = (
        repeated(say(clip, module.frames).to(device), module.copies)
        for say in (data.asked, data.solved)  # type: ignore[attr-defined]
    )
    return Batch(module, clip, asked, told)
