"""Turns what a user can mend, from a mistyped key to a damaged file, into one message; bugs keep their traceback."""

import difflib
import dis
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from hydra.core.global_hydra import GlobalHydra
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

_PACKAGE = Path(__file__).resolve().parent


class ConfigError(ValueError):
    """A configuration that cannot be used; its message is all the user needs to see."""


def nearest(word: str, options: Iterable[str]) -> str:
    """`; did you mean X?`, or the options where they are few, or nothing."""
    known = sorted({option for option in options if not option.startswith("_")})
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; it has {', '.join(known)}" if 0 < len(known) <= 16 else ""


@contextmanager
def clear_errors(arguments: Sequence[str]) -> Iterator[None]:
    """Prints what the user can mend as one message and exits with code 2; other errors pass through.

    That is an error of composition, or a ValueError that the suite raised itself (see `refusal`).
    HYDRA_FULL_ERROR=1 shows the traceback of both. Hydra is asked for its full errors in any case,
    because otherwise it prints and exits by itself.
    """
    asked_for_all = os.environ.get("HYDRA_FULL_ERROR", "0") != "0"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    except (ValueError, HydraException, OmegaConfBaseException) as error:
        message = refusal(error) or composition(error, arguments)
        if message is None or asked_for_all:
            raise
    else:
        return
    print(message, file=sys.stderr)
    raise SystemExit(2)


def refusal(error: BaseException) -> str | None:
    """The message of a ValueError from a `raise` of the suite's own; None for any other error.

    By convention the suite raises ValueError where input is at fault, naming what to do instead. A
    ValueError out of a call that failed (numpy's, or `int("a")` in the suite's own code) is a bug.
    """
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    if not isinstance(error, ValueError) or error.__traceback__ is None:
        return None
    *_, innermost = _entries(error.__traceback__)
    code = innermost.tb_frame.f_code
    own = Path(code.co_filename).is_relative_to(_PACKAGE)
    return str(error) if own and code.co_code[innermost.tb_lasti] == dis.opmap["RAISE_VARARGS"] else None


def composition(error: BaseException, arguments: Sequence[str]) -> str | None:
    """The message of an error of composing the config; None for any other error."""
    if isinstance(error, InstantiationException) or not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    return f"{explain(error, arguments)}\n\nSee `python run.py --help` for groups and values."


def _entries(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


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
    try:
        node = compose(rest, config_dir=config_dir or CONFIG_DIR)
        for part in key.split("."):
            known = [str(name) for name in node] if OmegaConf.is_dict(node) else []
            if part not in known:
                return f"{key} is not a key of the configuration{nearest(part, known)}"
            node = node[part]
    except (HydraException, OmegaConfBaseException):
        pass
    return f"{key} is not a key of the configuration"
