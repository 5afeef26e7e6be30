"""A tiny WMSD: pictures of 12 x 12 pixels of the grid, a network that reads words, the grid's own judges."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning import Trainer

from tests.modules.making import CONSTANT, PATH, adamw, network, shared, teacher_file, trainer
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.data.labelled_films import LabelledFilmsDataModule
from wm_lightning.data.world_tasks import WorldTasksDataModule
from wm_lightning.modules.wmsd import WMSDModule
from wm_lightning.modules.wmsd_algorithm import Algorithm
from wm_lightning.modules.wmsd_surrogates import AWM
from wm_lightning.networks.masks import FrameMask
from wm_lightning.networks.prompt import HashedWords, PromptReader
from wm_lightning.networks.video_dit import VideoDiT
from wm_lightning.objectives.advantages import gdpo
from wm_lightning.rewards.bus import RewardBus, Weighted
from wm_lightning.sampling.rollout import Commit, Plan
from wm_lightning.sampling.samplers import DDIMSampler, StepList
from wm_lightning.worlds.grid_films import FilmLaw
from wm_lightning.worlds.grid_labeller import grid_labeller
from wm_lightning.worlds.grid_reward import GridReward
from wm_lightning.worlds.grid_world import GridWorld

Data = TypeVar("Data", bound=WorldTasksDataModule)
SIDE, FRAMES = 12, 5
WORDS = HashedWords(buckets=64, length=96)
PLAN = Plan(chunk=100, mask=FrameMask(None), window=None, sink=0, commit=Commit("clean", 0.0), rerun=True)
STEPS = DDIMSampler(StepList(kind="matched", steps=3, shift=2.0), eta=0.0)
FULL: dict[str, Any] = dict(states="executor", rl=True, judged=True, distill=0.1, anchor=0.1, weighting="dt")


def reader() -> VideoDiT:
    """Reads words; every parameter noisy."""
    prompt = partial(PromptReader, buckets=WORDS.buckets, depth=1, heads=2)
    return network(seed=4, height=SIDE, width=SIDE, actions=0, prompt=prompt)


def judges(data: WorldTasksDataModule) -> RewardBus:
    rewards = {name: Weighted(GridReward(criterion=name, row=data.row), 0.5) for name in ("task", "consistency")}  # type: ignore[arg-type]
    return RewardBus(rewards=rewards, max_invalid=0.2)


def wmsd(**changes: Any) -> WMSDModule:
    """Two tasks a batch, three copies of each, three steps a rollout."""
    settings: dict[str, Any] = shared(sampler=STEPS, plan=PLAN, iterations=4) | dict(
        network=reader, start=teacher_file(reader()), algorithm=Algorithm(**FULL),
        surrogate=AWM(draws=2, weighting="ghuber", p=0.25, aggregation="exp_first", clip=0.2), anchor_draws=2,
        judges=judges, advantage=partial(gdpo, min_group_std=1e-6, clip=5.0), copies=3, frames=FRAMES, micro_batch=6,
        sweep_batch=7, optimizer=adamw(0.001), schedule=CONSTANT, ema_decay=0.9, ema_start=0, batch_size=2,
    )  # fmt: skip
    assert settings["path"] is PATH
    return WMSDModule(**(settings | changes))


def algorithm(**changes: Any) -> Algorithm:
    """The full one but for what is changed."""
    return Algorithm(**(FULL | changes))


def tasks(cache: Path, kind: type[Data] = WorldTasksDataModule, **changes: Any) -> Data:
    world = GridWorld(
        seed=0,
        frames=FRAMES,
        most_walls=4,
        tasks_per_scene=2,
        slack=0,
        scenes=dict(train=12, val=4, test=4),
        cell=2,
        looks=0.0,
        wrong=0.0,
    )
    settings: dict[str, Any] = dict(
        world=world, subset="grid_tasks", resize="crop", val_share=0.1, test_share=0.1, on_error="raise",
        max_bad_share=0.0, decode_workers=1, prompter=WORDS, root=None, cache_dir=str(cache), frames=1, height=SIDE,
        width=SIDE, batch_size=2, train_batches=8, val_clips=4, val_frames=1, num_workers=0, seed=0, action_shift=0,
        augment=None, latents=None, autoencoder=None, encoders=None,
    )  # fmt: skip
    return kind(**(settings | changes))


def films(cache: Path, **changes: Any) -> LabelledFilmsDataModule:
    """Films of the same tasks, labelled by the grid's program."""
    law = FilmLaw(told=0.8, spoilt=0.3, obeyed=0.3, idle=0.5)
    settings: dict[str, Any] = dict(frames=FRAMES, law=law, variants=2, labeller=grid_labeller, max_failed=0.2)
    return tasks(cache, kind=LabelledFilmsDataModule, **(settings | changes))


def learn(
    module: WMSDModule, folder: Path, *callbacks: Any, resume: Path | None = None, batch_size: int = 2,
    data: Callable[..., ClipDataModule] | None = None, **changes: Any,
) -> Trainer:  # fmt: skip
    """Trains for the module's iterations on the tiny grid, or on other `data`, which lie beside `folder`."""
    made, makes = trainer(folder, *callbacks, **changes), data or (films if module.algorithm.of_films else tasks)
    clips = makes(folder.parent / "cache", train_batches=module.total_iterations, batch_size=batch_size)
    with torch.random.fork_rng():
        made.fit(module, datamodule=clips, ckpt_path=None if resume is None else str(resume), weights_only=True)
    return made
