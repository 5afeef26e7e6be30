"""A tiny WMSD among actions: the pusher's clips with goals, a student that read no words, and the pusher's judges."""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.modules.making import network, teacher_file
from tests.modules.making_wmsd import wmsd
from wm_lightning.checkpoints import NetworkFile
from wm_lightning.data.pusher_goals import PusherGoalsDataModule
from wm_lightning.modules.wmsd import WMSDModule
from wm_lightning.networks.prompt import HashedWords, PromptReader
from wm_lightning.networks.video_dit import VideoDiT
from wm_lightning.rewards.bus import RewardBus
from wm_lightning.worlds.pusher import PusherWorld
from wm_lightning.worlds.pusher_goals import pusher_judges

SIDE, FRAMES, ACTIONS = 16, 5, 10
WORDS = HashedWords(buckets=64, length=12)
SIZES: dict[str, Any] = dict(height=SIDE, width=SIDE, actions=ACTIONS)


def student() -> VideoDiT:
    """Reads no words; every parameter noisy."""
    return network(seed=6, **SIZES)


def student_file() -> NetworkFile:
    return teacher_file(student())


def fresh() -> VideoDiT:
    """As the student, with a reader of words as it is made: the other parameters are to be loaded."""
    prompt = partial(PromptReader, buckets=WORDS.buckets, depth=1, heads=2)
    made = network(**SIZES, prompt=prompt)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made._initialise()
    return made


def judges(data: PusherGoalsDataModule) -> RewardBus:
    return pusher_judges(data, weights={"task": 0.5, "consistency": 0.5}, max_invalid=0.0)


def goal_wmsd(**changes: Any) -> WMSDModule:
    """Two goals a batch, three copies of each, three steps a rollout."""
    settings: dict[str, Any] = dict(
        network=fresh, start=student_file(), start_new=("prompt",), judges=judges, frames=FRAMES
    )
    return wmsd(**(settings | changes))


def clip_settings(cache: Path) -> dict[str, Any]:
    """Of the tiny pusher's clips, with goals or without."""
    world = PusherWorld(
        seed=0, length=9, episodes=dict(train=5, val=2, test=3), pixels=32, fps=20, crf=18, reach=2.5 / 32, jump=0.042,
        policies=dict(scripted=0.4, noisy=0.25, failing=0.1, random=0.25), workers=1,
    )  # fmt: skip
    return dict(
        world=world, subset="pusher", bounds={}, val_share=0.2, test_share=0.2, format=None, order=None, image=None,
        resize="squash", decoder="pyav", trim_tail=False, on_error="raise", max_bad_share=0.0, decode_workers=1,
        latents=None, autoencoder=None, store="keep", cache_gib=1.0, root=None, cache_dir=str(cache), frames=FRAMES,
        height=SIDE, width=SIDE, batch_size=2, train_batches=8, val_clips=4, val_frames=FRAMES, num_workers=0, seed=0,
        action_shift=1, augment=None,
    )  # fmt: skip


def goals(cache: Path, **changes: Any) -> PusherGoalsDataModule:
    return PusherGoalsDataModule(prompter=WORDS, **(clip_settings(cache) | changes))
