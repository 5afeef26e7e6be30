"""The command line before Hydra sees it: saved overrides joined, contradictions refused."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig

from wm_lightning.config import CONFIG_DIR, USES
from wm_lightning.config_errors import ConfigError

log = logging.getLogger(__name__)

# What belonged to the run that saved it, not to what it trained.
_NOT_SAVED = ("ablation", "launcher", "hydra", "run_dir", "ckpt_path")

# Where a judge is asked, and by which of the user's keys: to be said by who runs it, never by a file.
_ASKED = ("endpoint", "url", "key_variable")
_ASKED_WITHIN = re.compile(rf"\b({'|'.join(_ASKED)})\b[\"']?\s*:")

# Protocols that measure the measures, on data alone.
_OF_DATA = ("degradation",)

# An override's key; flags begin with a dash.
_KEY = re.compile(r"(\+\+?|~)?[\w$][\w$./:@-]*")

# What is played where no checkpoint is named: the student that comes with the suite, by the words it was trained with.
_PLAYED = Path(__file__).parent / "students" / "simulated-worldmap.safetensors"
_PLAYED_WORDS = ("experiment=dmd_chunkwise", f"ckpt_path={_PLAYED}")

# Hydra refuses null for a group, which is what these two have anyway.
_NONE = ("experiment=null", "ablation=null")


def prepare_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments Hydra gets.

    `task=X ckpt_path=FILE` composes from the overrides saved in FILE followed by those given: later
    ones win, groups included; `task=play` without one has the student that comes with the suite. Raises
    ConfigError for several grids at once, which Hydra would merge into one point each without a word.
    """
    arguments = [word for word in arguments if word not in _NONE]
    if len(grids := [word for word in arguments if _key(word) == "ablation"]) > 1:
        raise ConfigError(f"{' '.join(grids)} names several grids; start them one at a time, ablation=NAME")
    grid = _value(arguments, "ablation")
    if grid is not None and any(sign in grid for sign in ",()[]"):
        raise ConfigError(f"ablation={grid} names several grids; start them one at a time, ablation=NAME")
    checkpoint = _value(arguments, "ckpt_path")
    networkless = _value(arguments, "protocol") in _OF_DATA
    if _value(arguments, "task") == "play" and not {"ckpt_path", "experiment"} & set(map(_key, arguments)):
        return [*_PLAYED_WORDS, *arguments]
    if _value(arguments, "task") in USES and checkpoint in (None, "null", "") and not networkless:
        raise ConfigError(f"task={_value(arguments, 'task')} needs a checkpoint: ckpt_path=RUN/checkpoints/best.ckpt")
    if _value(arguments, "task") is None or checkpoint in (None, "null", "last", ""):
        return arguments
    return join(saved_overrides(Path(str(checkpoint))), arguments)


def join(saved: Sequence[str], given: Sequence[str]) -> list[str]:
    """Saved overrides that still apply and are not given anew, followed by the given ones."""
    anew = {_key(word) for word in given}
    kept = [word for word in saved if _key(word) not in anew and _group(word) not in _NOT_SAVED]
    if asked := [word for word in kept if _asks(word)]:
        log.warning(
            "Not taken from the checkpoint, which may not say what server is asked, nor with what key: %s. Give it "
            "again where it is meant", " ".join(asked),
        )  # fmt: skip
    return [*(word for word in kept if word not in asked), *given]


def _asks(word: str) -> bool:
    """Whether a word says where a judge is asked: by its key, or within its value."""
    key, _, value = word.partition("=")
    return not set(_ASKED).isdisjoint(_key(key).replace("/", ".").split(".")) or bool(_ASKED_WITHIN.search(value))


def recorded(overrides: Sequence[str], choices: Mapping[str, str | None]) -> list[str]:
    """The overrides to save: a grid by the experiment it is over, since a point of it is no grid any more."""
    experiment = choices.get("experiment")
    own = [] if experiment is None else [f"experiment={experiment}"]
    return [word for given in overrides for word in (own if _key(given) == "ablation" else [given])]


def saved_overrides(checkpoint: Path) -> list[str]:
    """The overrides a checkpoint was trained with; none for a file that stores none (foreign weights)."""
    if not checkpoint.is_file():
        raise ConfigError(f"ckpt_path={checkpoint}: there is no such file")
    if checkpoint.suffix != ".ckpt":
        return []
    from wm_lightning.plain_files import read_plain  # noqa: PLC0415  only a command that names a checkpoint pays

    provenance = read_plain(checkpoint, mmap=True).get("provenance") or {}
    words = [str(word) for word in provenance.get("overrides", [])]
    if wrong := [word for word in words if not _is_setting(word)]:
        raise ConfigError(
            f"{checkpoint} says that it was trained with {wrong[0]!r}, which is no setting of this suite: Hydra would "
            f"be told what else to do, or where to read other files. Trust the file's weights alone, exported"
        )
    return words


def _is_setting(word: str) -> bool:
    """Whether a word sets a key or chooses a file of the suite's: no flag of Hydra's, and no file from elsewhere."""
    key, _, value = word.partition("=")
    group, _, package = key.lstrip("+~").partition("@")
    outside = ".." in value or value.lstrip("[").startswith(("/", "file:", "pkg:"))
    return bool(_KEY.fullmatch(key)) and _group(package) != "hydra" and not (outside and (CONFIG_DIR / group).is_dir())


def refuse_unread(config: DictConfig, overrides: Sequence[str]) -> None:
    """Raises ConfigError for a sampler that was chosen and that the module, which has its own, does not read."""
    given = [word for word in overrides if _key(word) == "sampler" or _key(word).startswith("sampler.")]
    if given and config.get("module") and config.module.get("sampler") != config.sampler:
        own = [("sampler@module." if _key(word) == "sampler" else "module.") + word.lstrip("+") for word in given]
        raise ConfigError(
            f"{' '.join(given)} would change nothing: this module has a sampler of its own; write {' '.join(own)}"
        )


def _key(word: str) -> str:
    return word.split("=", 1)[0].lstrip("+~")


def _group(word: str) -> str:
    return _key(word).replace("/", ".").split(".")[0]


def _value(arguments: Sequence[str], key: str) -> str | None:
    values = [word.split("=", 1)[1] for word in arguments if "=" in word and _key(word) == key]
    return values[-1] if values else None
