"""From a checkpoint to a world model that can be stepped: for environments, and for play."""

import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from wm_lightning.clip import Clip
from wm_lightning.config import compose
from wm_lightning.config_check import check
from wm_lightning.config_overrides import join, prepare_arguments
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.envs.judges import Judge, judge_of, no_judge
from wm_lightning.envs.world_model import WorldModel
from wm_lightning.tasks.build import build_data, device_of, kind_of
from wm_lightning.tasks.evaluate import read_checkpoint
from wm_lightning.tasks.rollout import Use, build_subject

if TYPE_CHECKING:  # gymnasium comes with an extra
    from wm_lightning.envs.single import WorldModelEnv
    from wm_lightning.envs.vector import WorldModelVectorEnv

log = logging.getLogger(__name__)


def world_model(config: DictConfig, data: ClipDataModule, steps: int | None = None) -> WorldModel:
    """The checkpoint at `ckpt_path` as a simulator, at `steps` per chunk (None: as trained).

    Raises ValueError where there is none, where it is not for this config, or where no action drives it.
    """
    kind, context = kind_of(config), int(config.module.context)
    if kind == "executor" or not data.spec.dim:
        raise ValueError(
            f"{config.ckpt_path}: no action drives this {kind} of {data.name}, which answers an instruction with a "
            f"whole clip; load a teacher or student of data with actions"
        )
    if context < 1:
        raise ValueError("module.context=0: a world begins with a given frame; set module.context=1")
    device, moving = device_of(config), config.rollout.window is not None
    frames = int(config.data.frames)
    file = read_checkpoint(config, data, kind)
    subject = build_subject(config, file, data, Use(context, frames, steps), device)
    own = "" if config.name == kind else f"{config.name}, "
    return WorldModel(
        name=f"{kind} ({own}{subject.steps} steps)", model=subject.model, sampler=subject.sampler, plan=subject.plan,
        data=data, context=context, chunk=min(subject.plan.chunk, frames - context),
        longest=None if moving else frames, forwards=subject.forwards, device=device,
        precision=str(config.trainer.precision),
    )  # fmt: skip


def start_clips(data: ClipDataModule, count: int, context: int) -> Clip:
    """The given frames of `count` test clips (fewer where there are fewer), hidden state included where it is known."""
    return Clip.cat(list(data.clips("test", count, context, count)))


def composed(ckpt_path: str | Path, overrides: Sequence[str]) -> DictConfig:
    """The config that a checkpoint was trained with, and `overrides` over it.

    A .ckpt remembers its own; for a .safetensors they are read from the `overrides.yaml` of the run beside it. Raises
    ConfigError for one that names what no config may build: words beside a file are its maker's.
    """
    record = Path(ckpt_path).parent / "overrides.yaml"
    beside = Path(ckpt_path).suffix == ".safetensors" and record.is_file()
    saved = [str(word) for word in OmegaConf.load(record)] if beside else []
    # A rollout's settings are those of a use of the checkpoint; its task is not run.
    use = ["task=rollout", f"ckpt_path={ckpt_path}"]
    config = compose(join(saved, [*prepare_arguments([*use, *overrides])]))
    check(config)
    return config


def make_env(
    ckpt_path: str | Path, *, overrides: Sequence[str] = (), starts: int = 64, judge: Judge | None = None,
    horizon: int | None = None, **settings: Any,
) -> "WorldModelEnv":  # fmt: skip
    """The environment `wm_lightning/WorldModel-v0`, with `starts` test clips to begin with.

    `judge` None is the world's own where it has one; `horizon` None is 100 frames, or what the checkpoint can make.
    """
    from wm_lightning.envs.single import WorldModelEnv  # noqa: PLC0415  gymnasium comes with an extra

    world, clips = _world(ckpt_path, overrides, starts)
    return WorldModelEnv(world, clips, judge=_judge(world, judge), horizon=_horizon(world, horizon), **settings)


def make_vector_env(
    ckpt_path: str | Path, *, num_envs: int, overrides: Sequence[str] = (), starts: int = 64,
    judge: Judge | None = None, horizon: int | None = None, **settings: Any,
) -> "WorldModelVectorEnv":  # fmt: skip
    """The same as a vector environment."""
    from wm_lightning.envs.vector import WorldModelVectorEnv  # noqa: PLC0415  gymnasium comes with an extra

    world, clips = _world(ckpt_path, overrides, starts)
    own, frames = _judge(world, judge), _horizon(world, horizon)
    return WorldModelVectorEnv(world, clips, num_envs=num_envs, judge=own, horizon=frames, **settings)


def _world(ckpt_path: str | Path, overrides: Sequence[str], starts: int) -> tuple[WorldModel, Clip]:
    config = composed(ckpt_path, overrides)
    data = build_data(config)
    world = world_model(config, data)
    return world, start_clips(data, starts, world.context)


def _judge(world: WorldModel, judge: Judge | None) -> Judge:
    if judge is not None:
        return judge
    own = judge_of(world.data.world)
    if own is no_judge:
        say_unjudged(world.data.name)
    return own


@cache
def say_unjudged(data: str) -> None:
    """Says that nobody judges these data, once however many environments are made of them."""
    log.warning(
        "%s has no judge of its own: every reward is 0 and no episode terminates before its horizon. Give judge=, a "
        "function of pixels that returns a wm_lightning.envs.judges.Judgement (judge=no_judge says that none is meant)",
        data,
    )  # fmt: skip


def _horizon(world: WorldModel, horizon: int | None) -> int:
    most = 100 if world.longest is None else world.longest - world.context
    return most if horizon is None else horizon
