"""The trainings that a config asks for, first those that others start from, their modules built without memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor

from wm_lightning.card import Card
from wm_lightning.checkpoints import NetworkFile
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.modules.base import WorldModelModule
from wm_lightning.tasks.build import build_card, build_module, declare_actions, kind_of, plain_node, without
from wm_lightning.tasks.teachers import (
    given_teacher,
    must_adapt,
    pretraining_data,
    pretraining_of,
    recipe_of,
    start_file,
)


@dataclass(frozen=True)
class Planned:
    """A training that is to come: its config, its module on the meta device, and the card its network would have.

    `file` is what it begins from, None for random weights; `place` the key of the config where its module stands.
    """

    place: str
    config: DictConfig
    module: WorldModelModule
    card: Card
    file: NetworkFile | None


@dataclass(frozen=True)
class Plan:
    """The trainings in their order, the last of which is the config's own, and a distillation's teacher."""

    trainings: tuple[Planned, ...]
    teacher: NetworkFile | None

    @property
    def card(self) -> Card:
        """The card of the network that the config's own training makes."""
        return self.trainings[-1].card


def plan_training(config: DictConfig, data: ClipDataModule) -> Plan:
    """What `config` would train, in order. Raises ValueError where settings or files do not go together."""
    before: list[Planned] = []
    teacher = _teacher("module", config, data, before) if kind_of(config) == "student" else None
    own = _trained("module", config, data, teacher or _start(config, data, before))
    return Plan((*before, own), teacher)


def plan_unread(config: DictConfig) -> Plan:
    """The same without reading anything: neither data nor encoders nor an autoencoder's weights need be there.

    Frames are then of the size that the network has, and tokens of their shapes alone. `config` is changed to that.
    """
    tokens, resampler = config.network.get("tokens"), config.network.get("resampler")
    with open_dict(config):
        for key in ("autoencoder", "latents"):
            if key in config.data:
                config.data[key] = None
        if config.data.get("encoders") is not None:
            config.data.encoders.folder = None
        if tokens is not None:
            # OpenCLIP's, one of them of the whole image; or groups of 16 as they enter the network.
            image, width = (16 * 16, tokens) if resampler is None else (16 * 16 + 1, resampler.features)
            shapes = {"image": image, "width": width, "states": tokens}
            config.network.start_tokens = {"_target_": "wm_lightning.networks.start_tokens.TokenShapes", **shapes}
    data: ClipDataModule = instantiate(config.data, _convert_="all")
    data.frame_shape = (config.network.channels, config.network.height, config.network.width)
    declare_actions(config, data)
    return plan_training(config, data)


def _teacher(place: str, config: DictConfig, data: ClipDataModule, before: list[Planned]) -> NetworkFile:
    """The teacher that is there, else the card of the one that would be trained, with weights that have no values."""
    if (file := given_teacher(config, data)) is not None and not must_adapt(config, file.card):
        return file
    recipe = recipe_of(config, fine_tuned=file is not None)
    before.append(_trained(f"{place}.teacher.recipe", recipe, data, file))
    card = before[-1].card
    card.require_mask(recipe.rollout.mask.chunk, "module.teacher.rollout")
    return weightless(recipe, card)


def _start(config: DictConfig, data: ClipDataModule, before: list[Planned]) -> NetworkFile | None:
    """What the training starts from: a file, or the card of what would be trained first."""
    if (recipe := pretraining_of(config)) is None:
        return start_file(config, data)
    place = "module.start.module" if "module" in config.module.start else "module"
    first = pretraining_data(config, recipe, data)
    teacher = _teacher(place, recipe, first, before) if kind_of(recipe) == "student" else None
    before.append(_trained(place, recipe, first, teacher))
    return weightless(recipe, before[-1].card)


def _trained(place: str, config: DictConfig, data: ClipDataModule, file: NetworkFile | None) -> Planned:
    card = build_card(config, data, kind_of(config))
    module = on_meta(lambda: build_module(config, card, file))
    module.configure_optimizers()
    return Planned(place, config, module, replace(card, trained_for=module.trained_for()), file)


def rebuilt(planned: Planned, changes: Mapping[str, Any]) -> Planned:
    """The same training with other values of its config, by their dotted keys."""
    config = without(planned.config, {})
    for key, value in changes.items():
        OmegaConf.update(config, key, value)
    module = on_meta(lambda: build_module(config, planned.card, planned.file))
    return replace(planned, config=config, module=module)


def weightless(config: DictConfig, card: Card) -> NetworkFile:
    """A network's file whose weights have no values."""
    network = on_meta(instantiate(plain_node(config, "network"), _convert_="all"))
    weights: dict[str, Tensor] = network.state_dict()
    return NetworkFile(weights, card, "")


def on_meta(make: Callable[[], Any]) -> Any:
    """What is made, its tensors without memory."""
    with torch.device("meta"):
        return make()
