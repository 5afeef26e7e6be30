"""What `task=doctor` says of the machine: versions, devices, Slurm, disk, decoders and keys, as trainings need them."""

import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import av
import torch
from omegaconf import DictConfig, OmegaConf
from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table

from wm_lightning.tasks.machine import free_memory
from wm_lightning.tasks.needs import sized

DECODERS = ("h264", "hevc", "av1", "vp9", "mpeg4")
LEAST_DISK = 2**30  # bytes, below which hardly a checkpoint finds room


@dataclass(frozen=True)
class Found:
    """One line of the report; `fault` says what must be mended before a training, None where nothing must."""

    what: str
    said: str
    fault: str | None = None


def examine_machine(console: Console, config: DictConfig) -> list[str]:
    """Prints what there is, and returns what a training of this config would fail for. Keys are never shown."""
    found = list(machine(config, os.environ))
    table = Table(title="this machine", title_justify="left", show_header=False)
    for one in found:
        table.add_row(one.what, one.said if one.fault is None else f"{one.said}: {one.fault}")
    console.print(table)
    return [f"{one.what}: {one.fault}" for one in found if one.fault is not None]


def machine(config: DictConfig, environment: Mapping[str, str]) -> Iterator[Found]:
    """Everything that is looked at, for this config."""
    yield Found("Python", f"{platform.python_version()}, torch {torch.__version__}")
    yield packages(metadata.requires("wm_lightning") or [])
    yield devices(config)
    yield slurm(config, environment)
    for key in ("run_dir", "cache_dir"):
        yield disk(key, Path(str(config[key])))
    yield decoders(av.codecs_available)
    yield from keys(config, environment)


def packages(requirements: list[str]) -> Found:
    """Whether installed packages are of the versions that the suite declares; known bad ones are outside of these."""
    wrong = []
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            version = "absent"
        if version == "absent" or not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} is {version}, wanted {requirement.specifier}")
    said = f"{len(requirements)} declared"
    return Found("packages", said, f"{'; '.join(wrong)}; ./wm installs what fits" if wrong else None)


def devices(config: DictConfig) -> Found:
    """The GPUs, or the CPU's cores and memory; a job may be meant for another machine than the one that is asked."""
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(place) for place in range(torch.cuda.device_count())]
        return Found("GPUs", ", ".join(f"{one.name} ({sized(one.total_memory)})" for one in names))
    free = free_memory(torch.device("cpu"))
    said = f"none; {os.cpu_count()} cores{'' if free is None else f', {sized(free)} of memory free'}"
    wants = config.trainer.get("accelerator") == "gpu"
    return Found("GPUs", f"{said}; trainer= asks for one, so this is for another machine" if wants else said)


def slurm(config: DictConfig, environment: Mapping[str, str]) -> Found:
    """Whether jobs can be submitted; inside of one, whether it has a task for every process of the trainer."""
    if "SLURM_JOB_ID" not in environment:
        return Found("Slurm", "jobs can be submitted" if shutil.which("sbatch") else "none")
    said = f"job {environment['SLURM_JOB_ID']}, {environment.get('SLURM_NTASKS', '1')} tasks"
    a_node, count = config.trainer.get("devices"), environment.get("SLURM_NTASKS")
    wanted = a_node * config.trainer.get("num_nodes", 1) if isinstance(a_node, int) else None
    fault = None
    if wanted is not None and count is not None and int(count) != wanted:
        fault = f"the trainer has {wanted} processes (devices times num_nodes); give the job --ntasks={wanted}"
    return Found("Slurm", said, fault)


def disk(key: str, folder: Path) -> Found:
    """Room where a folder is or would be made, and whether it may be written to."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    fault = None if free >= LEAST_DISK else f"hardly a checkpoint finds room; make some or name another by {key}="
    if not os.access(there, os.W_OK):
        fault = f"{there} may not be written to; name another by {key}="
    return Found(key, f"{folder}, {sized(free)} free", fault)


def decoders(known: set[str]) -> Found:
    """The kinds of video that can be read."""
    there = [name for name in DECODERS if name in known]
    fault = None if "h264" in there else "recordings and rollouts are h264 as a rule; install PyAV from its wheel"
    return Found("decoders", ", ".join(there) or "none", fault)


def keys(config: DictConfig, environment: Mapping[str, str]) -> Iterator[Found]:
    """For whom there is a key, among those this config asks."""
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    for name in sorted(set(_variables(plain))):
        fault = (
            None if environment.get(name) else f"it is asked for by this config; export {name}=..., or put it in .env"
        )
        yield Found(f"key {name}", "there" if fault is None else "not there", fault)
    settings = (config.get("logger") or {}).get("wandb")
    if settings is not None and not settings.get("offline") and environment.get("WANDB_MODE", "online") == "online":
        there = bool(environment.get("WANDB_API_KEY")) or (Path.home() / ".netrc").is_file()
        fault = None if there else "set it, run `wandb login`, or log into the run folder with WANDB_MODE=offline"
        yield Found("key WANDB_API_KEY", "there" if there else "not there", fault)


def _variables(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        yield from (str(value) for key, value in node.items() if key == "key_variable" and value)
        for value in node.values():
            yield from _variables(value)
    elif isinstance(node, list):
        for value in node:
            yield from _variables(value)
