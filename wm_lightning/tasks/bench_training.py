"""Training steps by Lightning held against the same by hand, and the time that a training waits for its loader."""

import statistics
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import SimpleProfiler
from omegaconf import DictConfig

from wm_lightning.card import Card
from wm_lightning.checkpoints import NetworkFile, weights_hash
from wm_lightning.clip import Clip
from wm_lightning.compute import now, precise
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.modules.base import WorldModelModule
from wm_lightning.modules.dmd import DMDModule
from wm_lightning.modules.teacher import TeacherModule
from wm_lightning.tasks.bench_entries import Comparison, Waiting
from wm_lightning.tasks.build import build_card, build_module, without
from wm_lightning.tasks.plain_loops import Step, dmd_step, teacher_step

# What Lightning's profiler calls the time in which the loop asks its loader for a batch.
NEXT = "[_TrainingEpochLoop].train_dataloader_next"


@dataclass(frozen=True)
class Training:
    """The trainings of a config with random weights: `steps` steps are timed after `warmup` ones, `repeats` times.

    They run without loggers, bars and checkpoints.
    """

    config: DictConfig
    data: ClipDataModule
    device: torch.device
    warmup: int
    steps: int
    repeats: int

    def makers(self) -> dict[str, Callable[[], WorldModelModule]]:
        """What makes the teacher's module, and the distillation's where the config has one."""
        distils = "teacher" in self.config.module
        recipe = without(self.config, {"module": self.config.module.teacher.recipe} if distils else {})
        recipe.module.micro_batches = 1
        card = build_card(self.config, self.data, "teacher")
        makers = {"teacher": lambda: build_module(recipe, card, None)}
        if distils:
            student, file = without(self.config, {}), random_teacher(recipe, card)
            student.module.critic_warmup = student.module.init.iterations = 0
            makers["distillation"] = lambda: build_module(student, build_card(self.config, self.data, "student"), file)
        return makers

    def steps_by_hand(self) -> Iterator[Comparison]:
        """The same steps on the same clips by Lightning and by hand, in turns; also whether the weights agree."""
        loader = iter(self.data.train_dataloader())
        clips = [next(loader) for _ in range(self.warmup + self.steps)]
        ways = {"Lightning": self.by_lightning, "plain loop": self.by_hand}
        for name, make in self.makers().items():
            times: dict[str, list[float]] = {way: [] for way in ways}
            ends: dict[str, WorldModelModule] = {}
            for repeat in range(self.repeats):
                for way in ways if repeat % 2 == 0 else reversed(ways):
                    ends[way] = module = make()
                    times[way].append(ways[way](module, clips))
            ours, other = ways
            speeds = [self.steps / statistics.median(times[way]) for way in ways]
            weights = [ends[way].deployed.state_dict() for way in ways]
            same = all(torch.equal(value.cpu(), weights[1][key].cpu()) for key, value in weights[0].items())
            yield Comparison(f"{name} step", "steps/s", ours, other, speeds[0], speeds[1], same)

    def by_lightning(self, module: WorldModelModule, clips: Sequence[Clip]) -> float:
        """Seconds of the timed steps in a Trainer."""
        clock = Clock(self.warmup, self.device)
        self.trainer(clock).fit(module, train_dataloaders=Batches(clips))
        return clock.seconds

    def by_hand(self, module: WorldModelModule, clips: Sequence[Clip]) -> float:
        """Seconds of the timed steps in a loop."""
        module.to(self.device).train()
        step: Step = dmd_step(module) if isinstance(module, DMDModule) else teacher_step(_teacher(module))
        start = 0.0
        with warnings.catch_warnings():
            # What a module logs goes nowhere without a Trainer, which it says with every call.
            warnings.filterwarnings("ignore", message="You are trying to `self.log")
            for number, clip in enumerate(clips):
                if number == self.warmup:
                    start = now(self.device)
                with precise(self.device, str(self.config.trainer.precision)):
                    step(clip.to(self.device))
            return now(self.device) - start

    def waiting(self, steps: int, most: float) -> Waiting:
        """The last of the modules trained on its own loader for `steps` steps after `warmup` ones."""
        [*_, (name, make)] = self.makers().items()
        clock, profiler = Clock(self.warmup, self.device), Durations()
        trainer = self.trainer(clock, profiler=profiler, limit_train_batches=self.warmup + steps)
        trainer.fit(make(), train_dataloaders=self.data.train_dataloader())
        # The clock starts when the first timed step has its batch, so the waits for all the others are counted. On a
        # GPU they are an upper bound, since it may still be busy meanwhile.
        waits = profiler.recorded_durations[NEXT][self.warmup + 1 : self.warmup + steps]
        return Waiting(f"{name}, waiting", steps, clock.seconds, sum(waits) * steps / len(waits), most)

    def trainer(self, clock: "Clock", **settings: Any) -> Trainer:
        """A Trainer that leaves nothing behind."""
        warnings.filterwarnings("ignore", message="You defined a `validation_step` but have no")
        return Trainer(
            max_epochs=1, accelerator=self.config.trainer.accelerator, devices=1, callbacks=[clock], logger=False,
            precision=self.config.trainer.precision, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, limit_val_batches=0, default_root_dir=self.config.run_dir, **settings,
        )  # fmt: skip


class Durations(SimpleProfiler):
    """Keeps how long every part of the loop took, and prints no table of a hundred lines."""

    def describe(self) -> None:
        """Nothing."""


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


def _teacher(module: WorldModelModule) -> TeacherModule:
    assert isinstance(module, TeacherModule)
    return module
