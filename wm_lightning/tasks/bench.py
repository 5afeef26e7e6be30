"""task=bench: what the suite costs against the plainest code that does the same, as ratios of one run."""

import json
import logging
import platform
import re
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from wm_lightning.card import Card
from wm_lightning.checkpoints import NetworkFile, weights_hash
from wm_lightning.clip import Clip
from wm_lightning.compute import now, precise
from wm_lightning.config_record import config_hash, plain
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.data.windows import collate
from wm_lightning.environment import revision
from wm_lightning.modules.base import WorldModelModule
from wm_lightning.modules.dmd import DMDModule
from wm_lightning.modules.teacher import TeacherModule
from wm_lightning.networks.denoiser import Denoiser
from wm_lightning.networks.rerun import Rerun
from wm_lightning.results.results import write_whole
from wm_lightning.tasks.build import build_card, build_data, build_module, plain_node, without
from wm_lightning.tasks.plain_loops import Step, dmd_step, teacher_step
from wm_lightning.tasks.speed import measure_speed, sixteen
from wm_lightning.tasks.subjects import CLEAN, Subject

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Comparison:
    """Two ways to do the same, in units per second (more is better); `same` says whether they ended equal."""

    name: str
    unit: str
    ours: str
    other: str
    ours_value: float
    other_value: float
    same: bool | None = None

    @property
    def ratio(self) -> float:
        """Ours against the other."""
        return self.ours_value / self.other_value


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The task. `steps` training steps are timed after `warmup` ones, `batches` are loaded, all `repeats` times.

    The median counts. Networks have random weights; training runs without loggers, bars and checkpoints.
    `frames` are those of the rollout, `save_dir` gets a second copy of the file, named by the device.
    """

    warmup: int
    steps: int
    repeats: int
    batches: int
    frames: int
    save_dir: str | None

    def __call__(self, config: DictConfig) -> dict[str, float]:
        """Writes bench.json into the run folder and returns the ratios."""
        data = build_data(config)
        data.setup("fit")
        data.train_batches = max(self.batches, self.warmup + self.steps)
        device = torch.device("cuda" if config.trainer.accelerator == "gpu" else "cpu")
        found = [*self.training(config, data, device), self.rollout(config, data, device), self.loading(data)]
        report = {**describe(config, data, device), "settings": asdict(self)}
        report["comparisons"] = [{**asdict(entry), "ratio": entry.ratio} for entry in found]
        self.write(report, Path(config.run_dir))
        Console().print(shown(found, f"{report['device']}, {report['data']} data"))
        return {entry.name: entry.ratio for entry in found}

    def training(self, config: DictConfig, data: ClipDataModule, device: torch.device) -> Iterator[Comparison]:
        """The teacher's step, and the distillation's where the config has one."""
        distils = "teacher" in config.module
        recipe = without(config, {"module": config.module.teacher.recipe}) if distils else without(config, {})
        recipe.module.micro_batches = 1
        card = build_card(config, data, "teacher")
        yield self.step("teacher step", lambda: build_module(recipe, card, None), config, data, device)
        if distils:
            student, file = without(config, {}), random_teacher(recipe, card)
            student.module.critic_warmup = student.module.init.iterations = 0
            make = lambda: build_module(student, build_card(config, data, "student"), file)  # noqa: E731
            yield self.step("distillation step", make, config, data, device)

    def step(
        self, name: str, make: Callable[[], WorldModelModule], config: DictConfig, data: ClipDataModule,
        device: torch.device,
    ) -> Comparison:  # fmt: skip
        """The same steps on the same clips by Lightning and by hand, in turns; also whether the weights agree."""
        loader = iter(data.train_dataloader())
        clips = [next(loader) for _ in range(self.warmup + self.steps)]
        times: dict[str, list[float]] = {"Lightning": [], "plain loop": []}
        ends: dict[str, WorldModelModule] = {}
        for repeat in range(self.repeats):
            order = list(times) if repeat % 2 == 0 else list(reversed(times))
            for way in order:
                ends[way] = module = make()
                run = self.by_lightning if way == "Lightning" else self.by_hand
                times[way].append(run(module, clips, config, device))
        ours, other = (self.steps / statistics.median(times[way]) for way in times)
        weights = [ends[way].deployed.state_dict() for way in times]
        same = all(torch.equal(value.cpu(), weights[1][key].cpu()) for key, value in weights[0].items())
        return Comparison(name, "steps/s", "Lightning", "plain loop", ours, other, same)

    def by_lightning(
        self, module: WorldModelModule, clips: Sequence[Clip], config: DictConfig, device: torch.device
    ) -> float:
        """Seconds of the timed steps in a Trainer."""
        clock = Clock(self.warmup, device)
        trainer = Trainer(
            max_epochs=1, accelerator=config.trainer.accelerator, devices=1, precision=config.trainer.precision,
            logger=False, callbacks=[clock], enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, limit_val_batches=0, default_root_dir=config.run_dir,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="You defined a `validation_step` but have no")
            trainer.fit(module, train_dataloaders=Batches(clips))
        return clock.seconds

    def by_hand(
        self, module: WorldModelModule, clips: Sequence[Clip], config: DictConfig, device: torch.device
    ) -> float:
        """Seconds of the timed steps in a loop."""
        module.to(device).train()
        step: Step = dmd_step(module) if isinstance(module, DMDModule) else teacher_step(_teacher(module))
        start = 0.0
        with warnings.catch_warnings():
            # What a module logs goes nowhere without a Trainer, which it says with every call.
            warnings.filterwarnings("ignore", message="You are trying to `self.log")
            for number, clip in enumerate(clips):
                if number == self.warmup:
                    start = now(device)
                with precise(device, str(config.trainer.precision)):
                    step(clip.to(device))
            return now(device) - start

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

    def loading(self, data: ClipDataModule) -> Comparison:
        """Clips per second of the training loader, and of reading one episode after the other without one."""
        reader, times = data.reader("train"), {"loader": [], "sequential reader": []}
        long = [episode for episode in range(len(reader)) if reader.length(episode) >= data.frames]

        def loaded() -> None:
            loader = iter(data.train_dataloader())
            for _ in range(self.batches):
                next(loader)

        def read() -> None:
            for batch in range(self.batches):
                first = batch * data.batch_size
                places = [long[number % len(long)] for number in range(first, first + data.batch_size)]
                collate([reader.read(place, 0, data.frames) for place in places], places, truth=False)

        for repeat in range(self.repeats + 1):
            for name, work in zip(times, (loaded, read), strict=True):
                start = time.perf_counter()
                work()
                # The first round fills the readers' caches.
                times[name] += [time.perf_counter() - start] if repeat else []
        clips = self.batches * data.batch_size
        ours, other = (clips / statistics.median(values) for values in times.values())
        return Comparison("loading", "clips/s", "loader", "sequential reader", ours, other)

    def write(self, report: dict[str, Any], folder: Path) -> None:
        """bench.json in the run folder, and a copy in `save_dir` under the device's name."""
        text = json.dumps(report, indent=2, allow_nan=False) + "\n"
        paths = [folder / "bench.json"]
        if self.save_dir is not None:
            name = re.sub(r"[^a-z0-9]+", "-", f"{report['name']} {report['world']} {report['device']}".lower())
            paths.append(Path(self.save_dir) / f"bench-{name.strip('-')}.json")
        for path in paths:
            write_whole(path, text)
            log.info("Written: %s", path)


class Clock(Callback):
    """Measures from the start of batch `warmup` to the end of the last."""

    def __init__(self, warmup: int, device: torch.device) -> None:
        self.warmup, self.device = warmup, device
        self.start = self.seconds = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Starts."""
        if batch_idx == self.warmup:
            self.start = now(self.device)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops."""
        self.seconds = now(self.device) - self.start


class Batches:
    """Clips read beforehand, so that no loader is timed with the step."""

    def __init__(self, clips: Sequence[Clip]) -> None:
        self.clips = clips

    def __iter__(self) -> Iterator[Clip]:
        return iter(self.clips)

    def __len__(self) -> int:
        return len(self.clips)


def random_teacher(recipe: DictConfig, card: Card) -> NetworkFile:
    """An untrained teacher that declares what its recipe would train it for: a step costs the same."""
    module = build_module(recipe, card, None)
    weights = dict(module.deployed.state_dict())
    return NetworkFile(weights, replace(card, trained_for=module.trained_for()), weights_hash(weights))


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


def shown(found: Sequence[Comparison], caption: str) -> Table:
    """The comparisons as a table for a rich console."""
    table = Table(title=f"Benchmark: {caption}", title_justify="left")
    for heading in ("", "ours", "other", "unit", "ratio"):
        table.add_column(heading)
    for entry in found:
        ours, other = f"{entry.ours}: {entry.ours_value:.3g}", f"{entry.other}: {entry.other_value:.3g}"
        same = {True: " (same weights)", False: " (other weights)", None: ""}[entry.same]
        table.add_row(entry.name, ours, other, entry.unit, f"{entry.ratio:.2f}{same}")
    return table


def _teacher(module: WorldModelModule) -> TeacherModule:
    assert isinstance(module, TeacherModule)
    return module
