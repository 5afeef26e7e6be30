"""task=bench: what the suite costs against the plainest code that does the same, as ratios of one run."""

import json
import logging
import platform
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from wm_lightning.compute import precise
from wm_lightning.config_record import config_hash, plain
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.environment import revision
from wm_lightning.networks.denoiser import Denoiser
from wm_lightning.networks.rerun import Rerun
from wm_lightning.results.results import write_whole
from wm_lightning.tasks import terminal
from wm_lightning.tasks.bench_entries import Comparison, Entry, page, shown
from wm_lightning.tasks.bench_history import history
from wm_lightning.tasks.bench_loading import cache_of, loading
from wm_lightning.tasks.bench_products import of_products
from wm_lightning.tasks.bench_training import Training
from wm_lightning.tasks.build import build_data, device_of, kind_of, plain_node
from wm_lightning.tasks.speed import measure_speed, sixteen
from wm_lightning.tasks.subjects import CLEAN, Subject

log = logging.getLogger(__name__)

PARTS = ("training", "products", "rollout", "history", "loading", "waiting")
# What loading alone is measured by: other changes make its numbers no older.
LOADING = ("wm_lightning/data", "wm_lightning/tasks/bench_loading.py", "conf/data", "conf/task/bench.yaml")


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The task. `steps` training steps are timed after `warmup` ones, `batches` are loaded, all `repeats` times.

    The median counts. Networks have random weights; training runs without loggers, bars and checkpoints. `frames` are
    those of the rollout; a training on its own loader takes `waiting_steps`. `parts` are those of `PARTS` to measure;
    of an executor an iteration is, whatever they are, in which the share `without_advantage` of the rollouts is assumed
    to be as good as the others of its task.
    On recordings the loader is to be `least_loading` times as fast as a reader by hand where decoded frames are kept,
    `least_direct` times where they are read from the recordings, and training to wait for less
    than the share `most_waiting` of its time; its steps are to reach the share `least_of_products` of the rate of their
    own products. `save_dir` gets a second copy of the file, named by the device.
    """

    parts: Sequence[str]
    warmup: int
    steps: int
    repeats: int
    batches: int
    frames: int
    waiting_steps: int
    least_loading: float
    least_direct: float
    most_waiting: float
    least_of_products: float
    without_advantage: float
    save_dir: str | None

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.parts) - set(PARTS)):
            raise ValueError(f"task.parts names {', '.join(unknown)}; known are {', '.join(PARTS)}")
        if not 0 <= self.without_advantage < 1:
            raise ValueError(
                f"task.without_advantage={self.without_advantage} is a share of rollouts, from 0 to below 1: where "
                f"none has an advantage, nothing is learned"
            )

    def __call__(self, config: DictConfig) -> dict[str, float]:
        """Writes bench.json and bench.md into the run folder and returns ratios and shares."""
        data = build_data(config)
        data.setup("fit")
        data.train_batches = max(self.batches, self.warmup + max(self.steps, self.waiting_steps))
        device = device_of(config)
        found = self.measured(config, data, device)
        report = {**describe(config, data, device), "settings": asdict(self), "cache": cache_of(data)}
        if set(self.parts) == {"loading"}:
            report["code"] = LOADING
        report["comparisons"] = [entry.plain() for entry in found if isinstance(entry, Comparison)]
        report["waiting"] = [entry.plain() for entry in found if not isinstance(entry, Comparison)]
        self.write(report, page(found, report), Path(config.run_dir))
        terminal.console().print(shown(found, f"{report['device']}, {report['data']} data"))
        return {entry.name: entry.ratio if isinstance(entry, Comparison) else entry.share for entry in found}

    def measured(self, config: DictConfig, data: ClipDataModule, device: torch.device) -> list[Entry]:
        """The entries of all parts asked for."""
        if kind_of(config) == "executor":
            # Here, for nothing else needs it.
            from wm_lightning.tasks.bench_executor import executor_iteration  # noqa: PLC0415

            return [*executor_iteration(config, data, device, self.repeats, self.without_advantage)]
        training = Training(config, data, device, self.warmup, self.steps, self.repeats)
        found: list[Entry] = []
        ways: dict[str, Callable[[], Iterable[Entry]]] = {
            "training": training.steps_by_hand,
            "products": lambda: of_products(training, self.least_of_products),
            "rollout": lambda: [self.rollout(config, data, device)],
            "history": lambda: history(config, data, device, self.repeats),
            "loading": lambda: loading(data, self.batches, self.repeats, self.least_loading, self.least_direct),
            "waiting": lambda: [training.waiting(self.waiting_steps, self.most_waiting)],
        }
        for part in (part for part in PARTS if part in self.parts):
            log.info("Measuring %s, which may take minutes (%d rounds of every way)", part, self.repeats)
            found += ways[part]()
        return found

    def rollout(self, config: DictConfig, data: ClipDataModule, device: torch.device) -> Comparison:
        """Frames per second at batch 1 with a cache, and with all of the window run again for every pass."""
        network = instantiate(plain_node(config, "network"), _convert_="all")().to(device).eval().requires_grad_(False)
        path = instantiate(plain_node(config, "noising"), _convert_="all")
        sampler = instantiate(plain_node(config, "module")["sampler"], _convert_="all")
        plan = replace(instantiate(plain_node(config, "rollout"), _convert_="all"), commit=CLEAN)
        steps = len(sampler.levels(path, plan.chunk)) - 1
        models = {"cached": Denoiser(network, path), "uncached": Denoiser(Rerun(network), path)}
        subjects = [
            Subject("teacher", name, model, sampler, plan, steps, cached=name == "cached", decode=data.decode)
            for name, model in models.items()
        ]
        clip = sixteen(list(data.clips("test", 16, self.frames, 16)))
        with precise(device, str(config.trainer.precision)):
            cached, uncached = measure_speed(
                subjects, clip, config.module.context, repeats=self.repeats, device=device, advance=log.debug
            )
        return Comparison("rollout", "frames/s", "cached", "uncached", cached.fps_b1, uncached.fps_b1)

    def write(self, report: dict[str, Any], text: str, folder: Path) -> None:
        """bench.json and bench.md in the run folder, and a copy of the first in `save_dir` under the device's name."""
        content = json.dumps(report, indent=2, allow_nan=False) + "\n"
        files = {folder / "bench.json": content, folder / "bench.md": text}
        if self.save_dir is not None:
            name = re.sub(r"[^a-z0-9]+", "-", f"{report['name']} {report['world']} {report['device']}".lower())
            files[Path(self.save_dir) / f"bench-{name.strip('-')}.json"] = content
        for path, written in files.items():
            write_whole(path, written)
            log.info("Written: %s", path)


def describe(config: DictConfig, data: ClipDataModule, device: torch.device) -> dict[str, Any]:
    """What was measured, and on what."""
    cuda = device.type == "cuda"
    return {
        "name": config.name,
        "data": "simulated" if data.simulated else "real",
        "world": data.name,
        "device": torch.cuda.get_device_name(device) if cuda else f"{platform.machine()} CPU",
        "threads": torch.get_num_threads(),
        "precision": str(config.trainer.precision),
        "torch": str(torch.__version__),
        "revision": revision(),
        "config_hash": config_hash(plain(config)),
    }
