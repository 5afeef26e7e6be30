"""task=world_rate: how fast a world makes data, in frames and training clips a second, written to disk."""

import time
from dataclasses import dataclass
from tempfile import TemporaryDirectory

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from wm_lightning.data import cache
from wm_lightning.data.datamodule import SPLITS, ClipDataModule


@dataclass(frozen=True, kw_only=True)
class WorldRate:
    """The task. The world of `data` is simulated `repeats` times into a folder of its own; the fastest time counts."""

    repeats: int

    def __call__(self, config: DictConfig) -> dict[str, float]:
        """Prints and returns frames and clips (of `data.frames`) a second. Raises ValueError for data on disk."""
        if config.data.root is not None:
            raise ValueError(f"task=world_rate times a simulator, and data.root={config.data.root} names recordings")
        seconds, frames = [], 0
        for _ in range(self.repeats):
            with TemporaryDirectory() as folder:
                data = _data(config, folder)
                start = time.perf_counter()
                cache.simulate(folder, data.recipe())
                seconds.append(time.perf_counter() - start)
                readers = [data.reader(split) for split in SPLITS]
                frames = sum(reader.length(episode) for reader in readers for episode in range(len(reader)))
        found = {"frames": frames / min(seconds), "clips": frames / data.frames / min(seconds)}
        Console().print(
            f"{data.name}: {frames} frames in {min(seconds):.2f} s, {found['frames']:.0f} frames/s, "
            f"{found['clips']:.0f} clips/s of {data.frames} frames"
        )
        return found


def _data(config: DictConfig, folder: str) -> ClipDataModule:
    # Within a copy of the whole config: some settings of `data` point to others by their full names.
    own = config.copy()
    own.data.cache_dir = folder
    return instantiate(own.data, _convert_="all")
