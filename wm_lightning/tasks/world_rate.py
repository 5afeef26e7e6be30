"""task=world_rate: how fast a world makes data, written to disk, and how fast a training consumes them."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from wm_lightning.data import cache
from wm_lightning.data.datamodule import SPLITS, ClipDataModule
from wm_lightning.results.results import write_whole
from wm_lightning.tasks import terminal
from wm_lightning.tasks.bench import describe
from wm_lightning.tasks.bench_training import Training
from wm_lightning.tasks.build import declare_actions, device_of


@dataclass(frozen=True, kw_only=True)
class WorldRate:
    """The task. The world of `data` is simulated `repeats` times into a folder of its own; the fastest time counts.

    `train_steps` steps of the config's training (the last of its stages) are timed on these data after `warmup` ones,
    with random weights; 0 leaves that out. `save_dir` gets a second copy of the file, named by the world.
    """

    repeats: int
    warmup: int
    train_steps: int
    save_dir: str | None

    def __call__(self, config: DictConfig) -> dict[str, float]:
        """Prints, writes into world_rate.json and returns `frames` and `clips` (of `data.frames`) a second.

        With `train_steps` also `consumed`, clips a second of training, and `ratio`, the world's clips to one of these.
        Raises ValueError for data on disk.
        """
        if config.data.root is not None:
            raise ValueError(f"task=world_rate times a simulator, and data.root={config.data.root} names recordings")
        seconds, found, report = [], {}, {}
        for repeat in range(self.repeats):
            with TemporaryDirectory() as folder:
                data = _data(config, folder)
                start = time.perf_counter()
                cache.simulate(folder, data.recipe())
                seconds.append(time.perf_counter() - start)
                if repeat == self.repeats - 1:
                    readers = [data.reader(split) for split in SPLITS]
                    frames = sum(reader.length(episode) for reader in readers for episode in range(len(reader)))
                    found = {"frames": frames / min(seconds), "clips": frames / data.frames / min(seconds)}
                    found |= self._consumed(config, data, found["clips"])
                    report = {**describe(config, data, device_of(config)), "cores": os.cpu_count()}
                    report |= {"written": frames, "seconds": seconds, "clip": data.frames, **found}
        self._tell(report, Path(config.run_dir))
        return found

    def _consumed(self, config: DictConfig, data: ClipDataModule, clips: float) -> dict[str, float]:
        if not self.train_steps:
            return {}
        own = config.copy()
        declare_actions(own, data)
        data.setup("fit")
        data.train_batches = self.warmup + self.train_steps
        training = Training(own, data, device_of(own), self.warmup, self.train_steps, repeats=1)
        [*_, make] = training.makers().values()
        consumed = self.train_steps * data.batch_size / training.by_lightning(make(), list(data.train_dataloader()))
        return {"consumed": consumed, "ratio": clips / consumed}

    def _tell(self, report: dict[str, Any], folder: Path) -> None:
        content = json.dumps(report, indent=2, allow_nan=False) + "\n"
        write_whole(folder / "world_rate.json", content)
        if self.save_dir is not None:
            write_whole(Path(self.save_dir) / f"world-rate-{report['world']}.json", content)
        text = (
            f"{report['world']}: {report['written']} frames in {min(report['seconds']):.2f} s, "
            f"{report['frames']:.0f} frames/s, {report['clips']:.0f} clips/s of {report['clip']} frames"
        )
        if "ratio" in report:
            text += f"; training takes {report['consumed']:.1f} clips/s: {report['ratio']:.3g} times faster than that"
        terminal.console().print(text)


def _data(config: DictConfig, folder: str) -> ClipDataModule:
    # Within a copy of the whole config: some settings of `data` point to others by their full names.
    own = config.copy()
    own.data.cache_dir = folder
    return instantiate(own.data, _convert_="all")
