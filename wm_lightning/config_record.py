"""What a run writes down about its configuration: plain, resolved, hashed, and without keys."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

# Where a run lies, how it is logged and on what it was launched change no number it computes.
_NOT_HASHED = frozenset({
    "run_dir", "default_root_dir", "ckpt_path", "cache_dir", "logger", "tags", "hydra", "compute",
    "workers", "num_workers", "decode_workers", "cache_gib", "store", "cached_maps",
    "estimate", "protocol", "action_fidelity",  # what is measured beside a training
    "actions",  # of the network: null until the data are opened, and theirs from then on
    "url", "key_variable", "concurrency", "timeout", "retries", "backoff", "judgements",  # how a judge is reached
})  # fmt: skip
RECORD = ("config.yaml", "overrides.yaml")  # what a run folder begins with
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)
_ENVIRONMENT = re.compile(r"\$\{oc\.env:\s*([^,}\s]+)")
# The variables that only say where things lie may be written down.
_HARMLESS = re.compile(r"HOME|WM_\w+")
_SHORTEST_INSIDE = 6  # a shorter value is redacted only where it is the whole string


def plain(config: DictConfig) -> dict[str, Any]:
    """The resolved config as dicts, lists, strings and numbers, without `hydra` and without keys.

    Every value that came from the environment (the user's own folders aside), or that equals one of
    the environment's keys, is replaced by the name of its variable. Unset values stay `???`.
    """
    bare = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    container = OmegaConf.to_container(bare, resolve=True, throw_on_missing=False)
    assert isinstance(container, dict)
    return _redact(container, _secrets(OmegaConf.to_yaml(bare, resolve=False)))


def redact(value: Any) -> Any:
    """The same plain value with the environment's keys taken out of every string."""
    return _redact(value, _secrets(""))


def config_hash(config: DictConfig | Mapping[str, Any]) -> str:
    """Twelve hex digits of what a run computes; task, folders, logger, tags and compute settings leave it as it is.

    Takes a composed config, its plain form, or a part of the plain form.
    """
    container = plain(config) if isinstance(config, DictConfig) else dict(config)
    container.pop("task", None)  # what is done with a run
    text = json.dumps(_hashed(container), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of a plain config that change a number it computes, by dotted key; lists are leaves."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    parts = ((f"{prefix}.{key}" if prefix else str(key), item) for key, item in value.items() if key not in _NOT_HASHED)
    return {name: leaf for key, item in parts for name, leaf in flat(item, key).items()}


def changes_numbers(key: str) -> bool:
    """Whether a dotted key of the config, as overrides name it, is of what a run computes: `config_hash` counts it."""
    parts = key.lstrip("+~").split(".")
    return parts[0] != "task" and _NOT_HASHED.isdisjoint(parts)


def save_record(config: DictConfig, overrides: Sequence[str], folder: Path) -> None:
    """Writes `config.yaml` (resolved) and `overrides.yaml` into the run folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(_literal(plain(config)))))
    (folder / "overrides.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(_literal(redact(list(overrides))))))


def recorded_overrides(folder: Path) -> list[str]:
    """The overrides that the run in a folder was started with; none where it has no record."""
    path = folder / "overrides.yaml"
    return [str(word) for word in yaml.safe_load(path.read_text()) or ()] if path.is_file() else []


def newest_run(folder: Path, config: DictConfig) -> Path | None:
    """The newest folder under `folder` that holds a `last.ckpt` of a run with this config's hash."""
    wanted = config_hash(config)
    candidates = sorted(folder.glob("*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime, reverse=True)
    for run in (path.parents[1] for path in candidates):
        record = run / "config.yaml"
        if record.is_file() and config_hash(_read(record)) == wanted:
            return run.resolve()
    return None


def _read(path: Path) -> dict[str, Any]:
    container = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _hashed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _hashed(item) for key, item in value.items() if key not in _NOT_HASHED}
    return [_hashed(item) for item in value] if isinstance(value, list) else value


def _secrets(unresolved: str) -> dict[str, str]:
    """Value to variable name, of what must not be written: named in the config, or a key by its name."""
    named = {name for name in _ENVIRONMENT.findall(unresolved) if not _HARMLESS.fullmatch(name)}
    return {value: name for name, value in os.environ.items() if value and (name in named or _SECRET_NAME.search(name))}


def _redact(value: Any, secrets: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _redact(item, secrets) for key, item in value.items()}
    if isinstance(value, list):
        return [_redact(item, secrets) for item in value]
    if str(value) in secrets:
        return f"<environment: {secrets[str(value)]}>"
    if isinstance(value, str):
        for secret, name in _long(secrets):
            value = value.replace(secret, f"<environment: {name}>")
    return value


def _long(secrets: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    return ((secret, name) for secret, name in secrets.items() if len(secret) >= _SHORTEST_INSIDE)


def _literal(value: Any) -> Any:
    """The same value with `${` escaped, because a record is read back as it is."""
    if isinstance(value, dict):
        return {key: _literal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_literal(item) for item in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value
