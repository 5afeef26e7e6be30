"""Builds what a config names: data, card, module, trainer. Nothing here trains or measures."""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lightning import Trainer, seed_everything
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from wm_lightning.card import Card
from wm_lightning.checkpoints import NetworkFile, load_into
from wm_lightning.config_record import config_hash, plain, redact
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.environment import revision
from wm_lightning.modules.base import WorldModelModule
from wm_lightning.networks.video_unet import TOKENS_ADVICE

log = logging.getLogger(__name__)


def build_data(config: DictConfig) -> ClipDataModule:
    """The DataModule, its data checked or simulated; the network learns how many actions there are.

    Raises ValueError where the data cannot be read, or where the network expects other actions.
    """
    data: ClipDataModule = instantiate(config.data, _convert_="all")
    declare_actions(config, data)
    data.prepare_data()
    kind = "simulated" if data.simulated else "real"
    log.info("Data: %s (%s), %s", data.name, kind, data.folder)
    return data


def declare_actions(config: DictConfig, data: ClipDataModule) -> None:
    """Tells the network of `config` how many actions there are. Raises ValueError where it expects other data."""
    actions = config.network.actions
    frame = (config.network.channels, config.network.height, config.network.width)
    if frame != data.frame_shape:
        raise ValueError(
            f"network.channels, height, width={frame}, but the data have frames of {data.frame_shape}: a network of "
            "latents needs data that were encoded; encode them with task=encode, name the folder with "
            "data.latents=FOLDER, and the autoencoder with autoencoder="
        )
    if actions not in (None, data.spec.dim):
        raise ValueError(f"network.actions={actions}, but the data have {data.spec.dim}: {list(data.spec.names)}")
    config.network.actions = data.spec.dim


def device_of(config: DictConfig) -> torch.device:
    """Where networks run."""
    return torch.device("cuda" if config.trainer.accelerator == "gpu" else "cpu")


def kind_of(config: DictConfig) -> str:
    """What the module makes: `student`, `executor` or `teacher`."""
    if "teacher" in config.module:
        return "student"
    return "executor" if "algorithm" in config.module else "teacher"


def build_card(config: DictConfig, data: ClipDataModule, kind: str) -> Card:
    """The card of a network of this run, except for what its module says it was trained for."""
    return Card(
        kind=kind, network=_declared_network(config), path=plain_node(config, "noising"),
        action_spec=data.spec.to_dict(),
        action_shift=data.action_shift, first_action=data.first_action, frame_shape=data.frame_shape,
        autoencoder=data.autoencoder_identity,
        trained_for={}, data=data.name,
        revision=revision(), config_hash=config_hash(plain(config)), command=shown_command(),
    )  # fmt: skip


def _declared_network(config: DictConfig) -> dict[str, Any]:
    """The network as cards declare it: frozen encoders by what they are, and not by where they lie."""
    network = plain_node(config, "network")
    network.pop("_partial_")
    if network.get("start_tokens") is not None:
        network["start_tokens"] = instantiate(network["start_tokens"], _convert_="all").identity
    elif network.get("tokens") is not None:
        raise ValueError(f"network.tokens={network['tokens']}, and nothing makes them; {TOKENS_ADVICE}")
    return network


def plain_node(config: DictConfig, key: str) -> dict[str, Any]:
    """A node of the config as plain containers, resolved."""
    node = OmegaConf.to_container(config[key], resolve=True)
    assert isinstance(node, dict)
    return {str(name): value for name, value in node.items()}


def shown_command() -> str:
    """The command as the user typed it, without keys and without this machine's places, which change no number."""
    words = [redact(word) for word in sys.argv[1:] if word.split("=")[0] not in ("run_dir", "cache_dir")]
    return " ".join(["python run.py", *words])


def build_module(config: DictConfig, card: Card, file: NetworkFile | None) -> WorldModelModule:
    """The LightningModule with its card, and the weights of `file`: a distillation's teacher, a teacher's start."""
    settings = plain_node(config, "module")
    given = "teacher" if "teacher" in settings else "start"
    settings.pop(given)
    # Building consumes random numbers, so it starts from the seed whatever came before.
    seed_everything(config.seed, workers=True, verbose=False)
    # Called by hand: given to Hydra, the teacher's weights would be merged into the config.
    build = instantiate({**settings, "_partial_": True}, _convert_="all")
    module: WorldModelModule = build(**{given: file})
    module.card = card.to_dict()
    return module


def network_of(config: DictConfig, file: NetworkFile, device: torch.device) -> nn.Module:
    """The config's network with the file's weights, ready to generate."""
    network = instantiate(plain_node(config, "network"), _convert_="all")()
    load_into(network, file, "the checkpoint")
    return network.to(device).eval().requires_grad_(False)


def build_trainer(config: DictConfig) -> Trainer:
    """The Trainer with callbacks, logger and atomic checkpoints."""
    if str(config.trainer.precision).startswith("16"):
        raise ValueError(
            f"trainer.precision={config.trainer.precision} scales its losses, and the modules clip gradients without "
            "knowing the scale; use bf16-mixed or 32-true"
        )
    _check_wandb(config)
    callbacks = [instantiate(node, _convert_="all") for node in (config.callbacks or {}).values() if node is not None]
    logger = [instantiate(node, _convert_="all") for node in (config.logger or {}).values()]
    build = instantiate({**plain_node(config, "trainer"), "_partial_": True}, _convert_="all")
    try:
        return build(callbacks=callbacks, logger=logger)
    except MisconfigurationException as error:
        raise ValueError(f"trainer: {error} Change trainer= or the key it names") from error


def _check_wandb(config: DictConfig) -> None:
    settings = (config.logger or {}).get("wandb")
    if settings is None or settings.offline or os.environ.get("WANDB_MODE", "online") != "online":
        return
    import wandb  # noqa: PLC0415  takes a second that other loggers need not wait

    if not wandb.login(prompt=False, verify=False):
        raise ValueError(
            "logger=wandb finds no key: set WANDB_API_KEY or run `wandb login`, or log into the run folder alone with "
            "WANDB_MODE=offline"
        )


def resume_path(config: DictConfig) -> str | None:
    """The checkpoint to continue from: for `last`, that of the run folder where there is one."""
    if config.ckpt_path != "last":
        return config.ckpt_path
    last = Path(config.run_dir) / "checkpoints" / "last.ckpt"
    return str(last) if last.is_file() else None


def without(config: DictConfig, changes: dict[str, Any], dropped: Sequence[str] = ()) -> DictConfig:
    """A copy of the config with top-level nodes replaced or dropped."""
    copied = OmegaConf.create(OmegaConf.to_container(config, resolve=False))
    assert isinstance(copied, DictConfig)
    with open_dict(copied):
        for key, value in changes.items():
            copied[key] = value
        for key in dropped:
            copied[key] = None
    return copied
