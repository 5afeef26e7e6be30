"""Config folders of others: refused where they tell Hydra itself what to build.

Hydra makes its launcher, its callbacks and its logging before the suite can check a `_target_` (`config_check`), so
nothing but the points of a grid may be said of them there.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from wm_lightning.config_errors import ConfigError

FLAGS = ("--config-dir", "-cd", "--config-path", "-cp")
# Of the node `hydra`: that a grid is one, and its points.
_ALLOWED = {"mode", "sweeper.params"}
_HEADER = re.compile(r"^\s*#\s*@package\s+(\S+)", re.MULTILINE)


def check_foreign(arguments: Sequence[str]) -> None:
    """Raises ConfigError for a file of the folders that these arguments add which speaks to Hydra itself."""
    for folder in folders(arguments):
        for path in sorted(folder.rglob("*.y*ml")):
            if found := next(_spoken(path, folder), None):
                raise ConfigError(
                    f"{path} sets {found}, which Hydra builds before it can be checked; of hydra it may set mode and "
                    f"sweeper.params alone"
                )


def folders(arguments: Sequence[str]) -> Iterator[Path]:
    """The folders that the flags name, as `--config-dir=X`, `--config-dir X` or a shortened flag do."""
    for place, word in enumerate(arguments):
        flag, _, value = word.partition("=")
        if flag.startswith("-") and len(flag) > 2 and any(known.startswith(flag) for known in FLAGS):
            value = value or next(iter(arguments[place + 1 : place + 2]), "")
            yield Path(value)


def _spoken(path: Path, folder: Path) -> Iterator[str]:
    """What a file says to Hydra, by dotted keys; at most the first is of interest."""
    text = path.read_text()
    place = path.relative_to(folder).parts[0]
    package = next(iter(_HEADER.findall(text)), "_global_" if len(path.relative_to(folder).parts) == 1 else place)
    if package.replace("_group_", place).split(".")[0] == "hydra":
        yield f"the package {package}"
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} cannot be read as plain YAML: {' '.join(str(error).split())}") from error
    content = content if isinstance(content, Mapping) else {}
    yield from (str(entry) for entry in content.get("defaults") or () if "hydra" in str(entry))
    hydra = content.get("hydra", {})
    yield from (f"hydra.{key}" for key in _keys(hydra) if key not in _ALLOWED)
    yield from (str(key) for key in content if "hydra" in str(key) and key != "hydra")


def _keys(node: Any, place: str = "") -> Iterator[str]:
    """Dotted keys of a node, of the deepest that are allowed or hold a value."""
    if place in _ALLOWED or not isinstance(node, Mapping):
        yield place or str(node)
        return
    for key, value in node.items():
        yield from _keys(value, f"{place}.{key}" if place else str(key))
