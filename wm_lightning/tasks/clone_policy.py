"""task=clone_policy: small policies learned from the pusher's successes, for protocol=policy."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lightning import Trainer, seed_everything
from omegaconf import DictConfig
from torch.utils.data import DataLoader, TensorDataset

from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.environment import revision
from wm_lightning.envs.cloned import VERSION, PolicyCard, load_policy, save_policy
from wm_lightning.envs.demonstrations import Demonstrations, demonstrations
from wm_lightning.modules.cloning import CloningModule, loss_on
from wm_lightning.networks.cloned_policy import ClonedPolicy
from wm_lightning.randomness import generator
from wm_lightning.tasks.build import plain_node
from wm_lightning.worlds.pusher import PusherWorld
from wm_lightning.worlds.pusher_dynamics import GOALS

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Cloning:
    """Behaviour cloning of `clips` training episodes' successes; every one of the `lengths` (iterations) is a policy.

    A policy gives `chunk` actions at a time. `width` is that of its network, `seed` that of weights and batches.
    """

    lengths: Sequence[int]
    chunk: int
    width: int
    batch_size: int
    lr: float
    weight_decay: float
    clips: int
    seed: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", tuple(sorted(set(self.lengths))))
        if not self.lengths or self.lengths[0] < 1 or self.chunk < 1:
            raise ValueError(f"lengths={self.lengths} and chunk={self.chunk}: numbers of 1 and more are expected")

    def __call__(self, config: DictConfig) -> dict[str, float]:
        """Trains policies into `run_dir/policies`; returns the loss of each on the validation episodes."""
        data: ClipDataModule = instantiate(config.data, _convert_="all")
        data.prepare_data()
        found = self.train(config, data, Path(config.run_dir) / "policies")
        cards = {length: load_policy(path)[1] for length, path in found.items()}
        for length, path in found.items():
            log.info("Written: %s, loss on held-out successes %s", path, cards[length].loss)
        return {f"loss_{length}": card.loss for length, card in cards.items() if card.loss is not None}

    def prepared(self, config: DictConfig, data: ClipDataModule) -> dict[int, Path]:
        """The policies by length, trained into the cache unless they are there."""
        key = json.dumps([VERSION, data.manifest["hash"], data.frame_shape, data.spec.to_dict(), asdict(self)])
        name = f"{data.name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
        folder = Path(config.cache_dir) / "policies" / name
        found = {length: _place(folder, length) for length in self.lengths}
        if not all(path.is_file() for path in found.values()):
            log.info("Training small policies on the successes of %s, %d iterations", data.name, self.lengths[-1])
            self.train(config, data, folder)
        return found

    def train(self, config: DictConfig, data: ClipDataModule, folder: Path) -> dict[int, Path]:
        """Trains and writes all of them. Raises ValueError for data that are not the pusher's, or without successes."""
        if not isinstance(data.world, PusherWorld):
            raise ValueError(f"policies are cloned from the simulated pusher, this is {data.name}; give data=rt1")
        shown = demonstrations(data, "train", clips=self.clips, chunk=self.chunk)
        if not len(shown.goal):
            raise ValueError(
                f"no block reaches its zone in the training episodes of {data.name}; make more of them or longer ones "
                f"(data.world.episodes, data.world.length)"
            )
        held_out = demonstrations(data, "val", clips=self.clips, chunk=self.chunk)
        log.info("%d frames lead to a block in its zone, and %d held-out ones", len(shown.goal), len(held_out.goal))
        module = self._trained(config, data, shown)
        card = PolicyCard(
            network=self._arguments(data), data=data.name, frame_shape=(3, *data.pixels), iterations=0, loss=None,
            action_spec=data.spec.to_dict(), demonstrations=len(shown.goal), seed=self.seed,
            content=data.manifest["hash"], revision=revision(),
        )  # fmt: skip
        for length, weights in module.kept.items():
            module.network.load_state_dict(weights)
            loss = loss_on(module.network, held_out, self.batch_size)
            save_policy(_place(folder, length), module.network, replace(card, iterations=length, loss=loss))
        return {length: _place(folder, length) for length in self.lengths}

    def _trained(self, config: DictConfig, data: ClipDataModule, shown: Demonstrations) -> CloningModule:
        seed_everything(self.seed, workers=True, verbose=False)
        network = ClonedPolicy(**self._arguments(data))
        standardise(network, shown)
        make = partial(torch.optim.AdamW, lr=self.lr, weight_decay=self.weight_decay)
        module = CloningModule(network=network, optimizer=make, lengths=self.lengths)
        # In full precision: a place in the picture, rounded to bfloat16, is no place for a gripper.
        own = {"val_check_interval": None, "check_val_every_n_epoch": 1, "precision": "32-true"}
        trainer: Trainer = instantiate({**plain_node(config, "trainer"), **own, "_partial_": True}, _convert_="all")(
            logger=False, enable_checkpointing=False
        )
        trainer.fit(module, train_dataloaders=self._batches(shown))
        module.cpu()
        return module

    def _arguments(self, data: ClipDataModule) -> dict[str, int]:
        return {"actions": data.spec.dim, "chunk": self.chunk, "goals": len(GOALS), "width": self.width}

    def _batches(self, shown: Demonstrations) -> DataLoader[Any]:
        """Demonstrations drawn with repetition, the same on every run."""
        source = generator(self.seed, "cloning")
        drawn = source.integers(len(shown.goal), size=(self.lengths[-1], self.batch_size))
        dataset = TensorDataset(shown.frame, shown.goal, shown.actions)
        return DataLoader(dataset, sampler=list(torch.from_numpy(drawn)), batch_size=None)


def standardise(network: ClonedPolicy, shown: Demonstrations) -> None:
    """Mean and spread of the demonstrated actions; columns that do not vary are left out."""
    scale, mean = torch.std_mean(shown.actions.flatten(0, 1), dim=0)
    network.mean.copy_(mean)
    network.scale.copy_(torch.where(scale > 1e-6, scale, 0.0))


def _place(folder: Path, length: int) -> Path:
    return folder / f"policy_{length}.safetensors"
