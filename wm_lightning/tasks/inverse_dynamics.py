"""task=inverse_dynamics: the network that reads actions off videos, with its ceiling on real clips."""

import logging
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from hydra.utils import instantiate
from lightning import Trainer, seed_everything
from omegaconf import DictConfig

from wm_lightning.clip import ActionState
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.metrics.inverse_dynamics import READABLE, Trained, save_reader
from wm_lightning.modules.inverse_dynamics import InverseDynamicsModule
from wm_lightning.networks.inverse_dynamics import InverseDynamics
from wm_lightning.tasks.build import plain_node, without

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Train:
    """The task: `iterations` steps of AdamW on batches of training clips; R2 on `val_clips` validation clips."""

    width: int
    iterations: int
    batch_size: int
    lr: float
    weight_decay: float
    val_clips: int
    into: str | None

    def __call__(self, config: DictConfig) -> dict[str, float]:
        """Writes `inverse_dynamics.safetensors`; logs its SHA-256 and returns the ceiling."""
        data = self.data_of(config)
        seed_everything(config.seed, workers=True, verbose=False)
        network = InverseDynamics(actions=data.spec.dim, width=self.width)
        standardise(network, data)
        make = partial(torch.optim.AdamW, lr=self.lr, weight_decay=self.weight_decay)
        module = InverseDynamicsModule(
            network=network, optimizer=make, names=data.spec.names, horizon=data.val_frames - 1
        )
        settings = plain_node(config, "trainer") | {"val_check_interval": None, "check_val_every_n_epoch": 1}
        trainer: Trainer = instantiate({**settings, "_partial_": True}, _convert_="all")(
            logger=False, enable_checkpointing=False
        )
        trainer.fit(module, datamodule=data)
        ceiling = {name: round(value, 4) for name, value in module.ceiling.items() if math.isfinite(value)}
        trained = Trained(
            data=data.name, frame_shape=data.frame_shape, action_spec=data.spec.to_dict(),
            action_shift=data.action_shift, width=self.width, iterations=self.iterations, ceiling=ceiling,
            content=data.manifest["hash"],
        )  # fmt: skip
        path = Path(config.run_dir) / "inverse_dynamics.safetensors" if self.into is None else Path(self.into)
        found = save_reader(path, network, trained)
        shown = ", ".join(f"{name} {value:.3f}" for name, value in ceiling.items())
        log.info("R2 on real validation clips (1: the action is told from the pictures): %s", shown)
        log.info("What has %.1f and more counts in val/recovery", READABLE)
        if not any(value >= READABLE for value in ceiling.values()):
            log.warning(
                "Nothing can be read off real clips of these data: the ceiling is %.3f at most, on %d clips, so this "
                "network gives no val/recovery. Give it more clips, larger frames or task.iterations",
                max(ceiling.values(), default=math.nan), module.clips,
            )  # fmt: skip
        log.info(
            "Written: %s. Name it with callbacks.action_fidelity.inverse_dynamics="
            "'{_target_: wm_lightning.metrics.pinned.Pinned, path: %s, sha256: %s}'", path, path, found,
        )  # fmt: skip
        return {"recovery": float(trainer.callback_metrics["val/recovery"])}

    def data_of(self, config: DictConfig) -> ClipDataModule:
        """The DataModule with this task's batches and length."""
        changed = without(config, {})
        changed.data.batch_size, changed.data.train_batches = self.batch_size, self.iterations
        changed.data.val_clips = self.val_clips
        data: ClipDataModule = instantiate(changed.data, _convert_="all")
        data.prepare_data()
        return data


def standardise(network: InverseDynamics, data: ClipDataModule) -> None:
    """Mean and spread of the training actions, from 256 clips; columns that do not vary are left out."""
    actions = [
        clip.condition.actions[clip.condition.state == ActionState.GIVEN]
        for clip in data.clips("train", 256, data.frames, 64, learned=True)
    ]
    scale, mean = torch.std_mean(torch.cat(actions), dim=0)
    network.mean.copy_(mean)
    network.scale.copy_(torch.where(scale > 1e-6, scale, 0.0))
