"""The typed root of the configuration, the resolvers its files use, and composition from Python.

Imports no torch, so that `--help` and `--cfg job` answer at once.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import MISSING, DictConfig, OmegaConf

from wm_lightning.config_record import newest_run

CONFIG_DIR = Path(__file__).resolve().parents[1] / "conf"
# Tasks that use a checkpoint, and train nothing.
USES = ("evaluate", "rollout", "play")
NAMELESS = "run"  # the folder of a run that has no name


@dataclass
class RootConfig:
    """The top level: a key that is not here, or a value of another type, fails at composition.

    The groups are plain YAML; the signature of what their `_target_` names is their schema
    (`wm_lightning.config_check.check`).
    """

    name: str = MISSING
    seed: int = MISSING
    tags: list[str] = field(default_factory=list)
    ckpt_path: str | None = None
    run_dir: str = MISSING
    cache_dir: str = MISSING
    task: Any = MISSING
    module: Any = None
    network: Any = None
    noising: Any = None
    sampler: Any = None
    rollout: Any = None
    init: Any = None
    algorithm: Any = None
    surrogate: Any = None
    advantage: Any = None
    reward: Any = None
    data: Any = None
    autoencoder: Any = None
    metrics: Any = None
    protocol: Any = None
    callbacks: Any = None
    trainer: Any = None
    compute: Any = None
    estimate: Any = None
    logger: Any = None


def cpu_precision(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """`bf16-mixed` where the processor multiplies bfloat16 natively, `32-true` elsewhere."""
    if not cpuinfo.is_file():
        return "32-true"
    flags = set(cpuinfo.read_text().split())
    return "bf16-mixed" if flags & {"avx512_bf16", "amx_bf16"} else "32-true"


def cpu_count() -> int:
    """Number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def latent_side(pixels: int, factor: int) -> int:
    """A side in latents; what is no multiple of the factor is refused by the autoencoder."""
    return pixels // factor


def run_folder(run_dir: str, *, _root_: DictConfig) -> str:
    """The folder a run works in.

    It is `run_dir`, except without `run_dir=` on the command line. Then for `ckpt_path=last` it is the newest folder
    whose run had the same name and config hash, where there is one; what a checkpoint is put to (`task=evaluate` or
    `rollout`) stands in a folder named by task and checkpoint, that of another nameless task in one named by the task.
    """
    task, usual = str(_root_.hydra.runtime.choices.get("task")), Path(run_dir)
    if _says(_root_, "run_dir="):
        return run_dir
    if not _root_.ckpt_path:
        nameless = usual.parent.name == NAMELESS and task not in ("train", *USES)
        return str(usual.parents[1] / task / usual.name) if nameless else run_dir
    if _root_.ckpt_path != "last":
        if task not in USES:
            return run_dir
        return str(usual.parents[1] / task / named_by(Path(_root_.ckpt_path)) / usual.name)
    found = newest_run(Path(run_dir).parent, _root_)
    return run_dir if found is None else str(found)


def grid_folder(run_dir: str, *, _root_: DictConfig) -> str:
    """The folder of a grid: with `ablation=` that grid's, which points of several experiments share.

    It is `run_dir` where `run_dir=` or `name=` stands on the command line.
    """
    grid, usual = _root_.hydra.runtime.choices.get("ablation"), Path(run_dir)
    said = _says(_root_, "run_dir=", "name=")
    return run_dir if said or grid in (None, "null") else str(usual.parents[1] / grid / usual.name)


def _says(root: DictConfig, *beginnings: str) -> bool:
    """Whether an override begins so; unresolved, since the value of another may be missing on this machine."""
    words = OmegaConf.to_container(root.hydra.overrides.task, resolve=False) or []
    return any(str(word).lstrip("+").startswith(beginnings) for word in words)


def named_by(checkpoint: Path) -> str:
    """A folder's name for what is done with a checkpoint: its run and its own name, as `dmd_chunkwise_DATE_best`."""
    run = checkpoint.parents[1] if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    words = [word for word in (*run.parts[-2:], checkpoint.stem) if word not in ("logs", "..", run.anchor)]
    return re.sub(r"[^\w.-]+", "-", "_".join(words))


def register() -> None:
    """Makes the schema and the resolvers known; calling it again changes nothing."""
    ConfigStore.instance().store(name="root_schema", node=RootConfig)
    OmegaConf.register_new_resolver("cpu_precision", cpu_precision, replace=True)
    OmegaConf.register_new_resolver("cpu_count", cpu_count, replace=True)
    OmegaConf.register_new_resolver("latent_side", latent_side, replace=True)
    OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)
    OmegaConf.register_new_resolver("grid_folder", grid_folder, replace=True)


@contextmanager
def _apart() -> Iterator[None]:
    """Puts aside the Hydra that has started this program, if one has, for there may be but one at a time."""
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = running  # a composition leaves another instance behind


def compose(overrides: Sequence[str] = (), *, config_dir: Path = CONFIG_DIR, with_hydra: bool = False) -> DictConfig:
    """The config that `python run.py OVERRIDES` would run with: for tests, notebooks, checkpoints beside a run's own.

    `with_hydra` keeps the `hydra` node. Raises Hydra's own errors for overrides it cannot apply.
    """
    register()
    with _apart(), initialize_config_dir(str(config_dir), version_base="1.3"):
        return hydra_compose("config", list(overrides), return_hydra_config=with_hydra)


def grid_points(grid: str, *, config_dir: Path = CONFIG_DIR) -> list[list[str]]:
    """The overrides of every point of the grid `sweeps/ablation/<grid>.yaml`, in the order they run."""
    hydra = compose([f"ablation={grid}"], config_dir=config_dir, with_hydra=True).hydra
    words = [f"{key}={values}" for key, values in hydra.sweeper.params.items()]
    (points,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(words), max_batch_size=None)
    return [list(point) for point in points]
