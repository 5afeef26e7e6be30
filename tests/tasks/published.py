"""Checkpoints in the published layout, small and random, taken apart, with recordings encoded by their own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from tests.data.encoding import encode
from tests.data.making import SIDE
from tests.networks.tiny_dynamicrafter import IMAGE, TEXT, whole
from wm_lightning.config import compose
from wm_lightning.config_check import check

ARCHITECTURE = {
    "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4,
}  # fmt: skip
SIDES = [f"network.height={SIDE // 2}", f"network.width={SIDE // 2}"]
NETWORK = [
    "network.patch=1", "network.dim=32", "network.multipliers=[1,2]", "network.blocks=1", "network.attention_at=[1,2]",
    "network.head_dim=16", "network.opening_heads=8", "network.groups=32", "network.rate=3.0",
    "network.bypass=false", "network.action_scales=false",
]  # fmt: skip
RESAMPLER = [f"network.resampler.{word}" for word in ("features=32", "groups=4", "dim=48", "depth=2", "heads=2")]
TRAINING = [
    "module.iterations=2", "module.validate_every=2", "module.batch_size=2", "module.sampler.steps.steps=2",
    "trainer.precision=32-true", "+trainer.enable_progress_bar=false", "callbacks.progress=null",
    "callbacks.rollout_video=null", "callbacks.action_fidelity=null", "trainer.log_every_n_steps=1",
    "data.frames=5", "data.val_frames=5", "data.val_clips=4", "data.val_share=0.25", "data.decode_workers=2",
    "module.distance.scale_clips=4", "metrics.horizon=4", "metrics.teacher_steps=[2]",
]  # fmt: skip


def unpacked(clip: Any, place: Path, actions: int | None = None) -> Path:
    """The folder that task=unpack makes of a whole checkpoint; with `actions`, of Vid2World's."""
    torch.save({"state_dict": whole(clip.state_dict(), actions=actions)}, place / "model.ckpt")
    words = [f"task.checkpoint={place / 'model.ckpt'}", f"task.into={place / 'parts'}", "task.empty_text=true"]
    config = compose(["task=unpack", *words, *(f"task.text.{key}={value}" for key, value in TEXT.items())])
    instantiate(config.task, _convert_="all")(config)
    return place / "parts"


@dataclass(frozen=True)
class Published:
    """Recordings, and folders of the parts of DynamiCrafter and of Vid2World; runs use the first one's autoencoder."""

    root: Path
    latents: Path
    dynamicrafter: Path
    vid2world: Path

    def config(self, place: Path, *words: str, encoders: bool = True) -> DictConfig:
        """The config of experiment=vid2world on the latents, with networks as wide as the files' ones."""
        data = [f"data.root={self.root}", "data.subset=bridge", f"data.height={SIDE}", f"data.width={SIDE}"]
        data += [f"data.latents={self.latents}", f"cache_dir={place / 'cache'}", f"run_dir={place / 'run'}"]
        seen = [f"network.start_tokens.folder={self.dynamicrafter}", "network.tokens=24", *RESAMPLER]
        seen += [f"network.start_tokens.architecture.{key}={value}" for key, value in IMAGE.items()]
        seen = ["encoders=openclip", *seen] if encoders else []
        config = compose([
            "experiment=vid2world", "data=rt1", *autoencoder(self.dynamicrafter), *NETWORK, *data, *TRAINING, *seen,
            *words,
        ])  # fmt: skip
        check(config)
        return config


def autoencoder(parts: Path) -> list[str]:
    """The words that choose it."""
    own = [f"autoencoder.architecture.{key}={value}".replace("'", "") for key, value in ARCHITECTURE.items()]
    return ["autoencoder=sd", f"autoencoder.weights={parts / 'autoencoder.safetensors'}", *own, *SIDES]


def publish(clip: Any, root: Path, place: Path, actions: int) -> Published:
    """Both checkpoints taken apart, and the recordings in `root` encoded."""
    folders = []
    for name, count in (("dynamicrafter", None), ("vid2world", actions)):
        (place / name).mkdir()
        folders.append(unpacked(clip, place / name, count))
    encode(root, place, place / "latents", *autoencoder(folders[0]))
    return Published(root, place / "latents", *folders)
