"""Checkpoints with random weights, and the worlds they make, in a second: nothing is trained."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import nn

from tests.tiny_run import NETWORK, QUIET, TRAINING, WORLD
from wm_lightning.checkpoints import save_network
from wm_lightning.config import compose
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.envs.world_model import WorldModel
from wm_lightning.tasks.build import build_card, build_data, build_module
from wm_lightning.tasks.environments import world_model

FEW = ["module.sampler.steps.steps=2"]
CHUNK, CONTEXT = 3, 1
PUSHER = [
    "data=rt1", "data.world.length=12", "data.world.episodes={train: 4, val: 3, test: 4}", "data.world.pixels=32",
    "data.world.workers=1", "data.frames=7", "data.val_frames=7", "data.val_clips=4", "rollout.window=7",
]  # fmt: skip


def random_weights(network: nn.Module, seed: int) -> None:
    """A fresh network gives 0 whatever it is told."""
    source = torch.Generator().manual_seed(seed)
    for value in network.parameters():
        nn.init.normal_(value, std=0.2, generator=source)


def checkpoint(folder: Path, *words: str, data: Sequence[str] = WORLD, seed: int = 0) -> DictConfig:
    """The config of a teacher of tiny data with random weights, its file written to `folder`."""
    places = [f"run_dir={folder}/run", f"cache_dir={folder.parent}/cache"]
    config = compose([*NETWORK, *data, *TRAINING, *QUIET, *places, "experiment=teacher", *FEW, *words])
    return with_weights(config, folder, seed)


def with_weights(config: DictConfig, folder: Path, seed: int) -> DictConfig:
    """The config, its checkpoint a network with random weights."""
    made = build_data(config)
    card = build_card(config, made, "teacher")
    module = build_module(config, card, None)
    random_weights(module.deployed, seed)
    path = folder / "teacher.safetensors"
    save_network(path, module.deployed, replace(card, trained_for=module.trained_for()), torch.float32)
    config.ckpt_path = str(path)
    return config


def tiny_world(folder: Path, *words: str, data: Sequence[str] = WORLD) -> tuple[WorldModel, ClipDataModule]:
    """The same, ready to be stepped."""
    config = checkpoint(folder, *words, data=data)
    made = build_data(config)
    return world_model(config, made), made
