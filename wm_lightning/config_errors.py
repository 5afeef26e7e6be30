"""Turns the errors of composing a config into messages that say what to type instead."""

import difflib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException


class ConfigError(ValueError):
    """A configuration that cannot be used; its message is all the user needs to see."""


def nearest(word: str, options: Iterable[str]) -> str:
    """`; did you mean X?`, or the options where they are few, or nothing."""
    known = sorted({option for option in options if not option.startswith("_")})
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; it has {', '.join(known)}" if 0 < len(known) <= 12 else ""


@contextmanager
def clear_errors(arguments: Sequence[str]) -> Iterator[None]:
    """Prints a composition error as one message and exits with code 2; other errors pass through.

    Hydra is asked for its full errors, because otherwise it prints and exits by itself.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    except ConfigError as error:
        message = str(error)
    except (HydraException, OmegaConfBaseException) as error:
        message = explain(error, arguments)
    else:
        return
    print(f"{message}\n\nSee `python run.py --help` for groups and values.", file=sys.stderr)
    raise SystemExit(2)


def explain(error: Exception, arguments: Sequence[str], *, config_dir: Path | None = None) -> str:
    """The message for one of Hydra's or OmegaConf's composition errors (`config_dir` null is the suite's own)."""
    if isinstance(error, MissingConfigException):
        return _missing_option(error)
    if isinstance(error, OverrideParseException):
        return f"{error.override} cannot be read as key=value: {error}"
    if isinstance(error, ConfigCompositionException) and (key := _unknown_key(str(error))):
        return _unknown_override(key, arguments, config_dir)
    detail = f"\n{error.__cause__}" if isinstance(error.__cause__, OmegaConfBaseException) else ""
    return f"The configuration cannot be composed. {error}{detail}"


def _missing_option(error: MissingConfigException) -> str:
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    return f"{group}={option} does not exist{nearest(option, error.options or ())}"


def _unknown_key(message: str) -> str | None:
    found = re.search(r"Could not override '([^']+)'", message)
    return found.group(1) if found else None


def _unknown_override(key: str, arguments: Sequence[str], config_dir: Path | None) -> str:
    from wm_lightning.config import CONFIG_DIR, compose  # noqa: PLC0415  config composes, errors only explain

    GlobalHydra.instance().clear()
    rest = [word for word in arguments if "=" in word and not word.startswith("-") and word.split("=")[0] != key]
    parent, _, last = key.rpartition(".")
    try:
        config = compose(rest, config_dir=config_dir or CONFIG_DIR)
        node = OmegaConf.select(config, parent) if parent else config
    except (HydraException, OmegaConfBaseException):
        return f"{key} is not a key of the configuration"
    known = [str(name) for name in node] if OmegaConf.is_dict(node) else []
    return f"{key} is not a key of the configuration{nearest(last, known)}"
