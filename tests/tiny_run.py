"""Whole runs in seconds: a tiny network on a tiny world map, through the same config and tasks as real ones."""

from pathlib import Path

from omegaconf import DictConfig

from wm_lightning.config import compose
from wm_lightning.config_record import save_record
from wm_lightning.modules.base import WorldModelModule
from wm_lightning.tasks.build import build_card, build_data
from wm_lightning.tasks.fit import fit

NETWORK = ["network.dim=24", "network.depth=1", "network.heads=2", "network.frequencies=16"]
WORLD = [
    "data.world.map_tiles=16", "data.world.length=20", "data.world.maps={train: 3, val: 2, test: 2}",
    "data.world.walks={train: 20, val: 8, test: 8}", "data.frames=7", "data.val_frames=7", "data.val_clips=4",
    "rollout.window=7",
]  # fmt: skip
TRAINING = ["module.iterations=2", "module.validate_every=2", "module.batch_size=2", "trainer.log_every_n_steps=1"]
QUIET = ["trainer.precision=32-true", "+trainer.enable_progress_bar=false", "callbacks.progress=null"]
DMD = ["module.rollout.scored=6", "module.critic_warmup=0", "sampler.steps.steps=2"]


def tiny(folder: Path, *words: str, cache: Path | None = None) -> DictConfig:
    """The config of a tiny run in `folder`/run, with data in `cache` (else `folder`/cache); `words` are overrides."""
    places = [f"run_dir={folder}/run", f"cache_dir={cache or folder / 'cache'}"]
    return compose([*NETWORK, *WORLD, *TRAINING, *QUIET, *places, *words])


def tiny_teacher(folder: Path, *words: str, cache: Path | None = None) -> tuple[DictConfig, WorldModelModule]:
    """The config of a tiny teacher and its trained module."""
    config = tiny(folder, "experiment=teacher", *words, cache=cache)
    save_record(config, list(words), Path(config.run_dir))
    data = build_data(config)
    module = fit(config, data, build_card(config, data, "teacher"), None).lightning_module
    assert isinstance(module, WorldModelModule)
    return config, module
