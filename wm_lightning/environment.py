"""Where a result comes from: revision of the code, versions, machine. Imports no torch."""

import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

_PROJECT = Path(__file__).resolve().parents[1]
_CONF = _PROJECT / "conf"
_PACKAGE = __name__.split(".", maxsplit=1)[0]
# Groups of the config that change no number.
NO_NUMBERS = ("task", "logger", "launcher")


def revision(folder: Path = _PROJECT) -> str:
    """Git's revision of the code, `-modified` where tracked files differ from it, `unknown` outside git."""
    head = git(folder, "rev-parse", "HEAD")
    if head is None:
        return "unknown"
    changed = git(folder, "status", "--porcelain", "--untracked-files=no")
    return f"{head}-modified" if changed else head


def loaded_code() -> list[str]:
    """The suite's own files that this process has imported, relative to the project: what a result was made by."""
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] == _PACKAGE]
    files = [Path(file) for module in modules if (file := getattr(module, "__file__", None))]
    return sorted(file.relative_to(_PROJECT).as_posix() for file in files if file.is_relative_to(_PROJECT))


def chosen_config() -> list[str]:
    """The files of `conf` that this run was composed of and that can change a number, relative to the project.

    Hydra names the choice of every group; what a choice inherits is read from its own defaults. Empty outside a run
    that Hydra started.
    """
    if not HydraConfig.initialized():
        return []
    choices = [(str(group).split("@")[0], choice) for group, choice in HydraConfig.get().runtime.choices.items()]
    files = [_CONF / group / f"{choice}.yaml" for group, choice in choices if group not in NO_NUMBERS]
    found = {_CONF / "config.yaml"}.union(*(inherited(file) for file in files if file.is_file()))
    return sorted(file.relative_to(_PROJECT).as_posix() for file in found)


def inherited(file: Path) -> set[Path]:
    """The config file of a choice and those it is built upon, overrides apart: they are choices of their own."""
    found = {file}
    node = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(node, dict)
    for entry in node.get("defaults", ()):
        group, name = next(iter(entry.items())) if isinstance(entry, dict) else ("", str(entry))
        if name in (None, "_self_") or str(group).startswith(("override", "optional")):
            continue
        place, stem = str(group).split("@")[0], str(name).split("@")[0]
        base = _CONF if place.startswith("/") or stem.startswith("/") else file.parent
        found |= inherited(base / place.lstrip("/") / f"{stem.lstrip('/')}.yaml")
    return found


def environment() -> dict[str, Any]:
    """Python, the installed versions of the suite's dependencies, system and processor, as plain values."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "packages": _packages(),
    }


def git(folder: Path, *arguments: str) -> str | None:
    """What git prints; None where it fails or is not there."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.is_file() else None
    return found.group(1) if found else platform.processor()


def _packages() -> dict[str, str]:
    required = metadata.requires("wm_lightning") or []
    names = sorted({re.split(r"[^A-Za-z0-9_.-]", line, maxsplit=1)[0] for line in required if "extra ==" not in line})
    installed = {distribution.metadata["Name"].lower().replace("-", "_") for distribution in metadata.distributions()}
    return {name: metadata.version(name) for name in names if name.lower().replace("-", "_") in installed}
