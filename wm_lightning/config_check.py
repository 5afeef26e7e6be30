"""Refuses a config before anything of it is built: unknown or forbidden targets, mistyped keys, missing values."""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import FunctionType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from omegaconf import DictConfig, OmegaConf

from wm_lightning.config import RootConfig
from wm_lightning.config_errors import ConfigError, nearest

# Keys that mean something to `hydra.utils.instantiate` itself.
_HYDRA_KEYS = frozenset({"_target_", "_args_", "_recursive_", "_partial_", "_convert_"})
# Whose classes a config may build.
_CLASSES = (
    "wm_lightning.",
    "torch.optim.",
    "lightning.pytorch.callbacks.",
    "lightning.pytorch.loggers.",
    "lightning.pytorch.strategies.",
    "lightning.pytorch.trainer.trainer.Trainer",
)
_OWN = "wm_lightning."
# Of its functions those that make or compute something: others run programs and write files, where a config says.
_FUNCTIONS = re.compile(
    r"wm_lightning\.((compute|modules\.optimizers|(objectives|rewards)\.\w+|worlds\.(grid_\w+|pusher_goals))\.\w+"
    r"|config_record\.plain|tasks\.(?P<task>\w+)\.(?P=task))"
)
# What a group holds, in the words of a refusal.
_EXAMPLES = {
    "rollout": "chunk: 3, guidance: null",
    "callbacks": "NAME: {_target_: wm_lightning.callbacks.progress.ProgressLog}",
    "logger": "csv: {_target_: lightning.pytorch.loggers.CSVLogger}",
}
_PLAIN = (bool, int, float, str, NoneType)
# What nothing says of a group that is wanted and null: how to have none of it.
_INSTEAD_OF_NULL = {"ActionDropout": "share=0.0"}
# Classes of what is read from files: the config names the file, and whoever reads it gives the rest.
_READ = "wm_lightning.checkpoints"
# Importing a module runs it, so a name is looked up only below these packages.
_IMPORTED = ("wm_lightning.", "torch.optim.", "lightning.pytorch.")


@dataclass(frozen=True)
class Target:
    """One `_target_` of a config: where it stands (`module.optimizer`) and its keys with their values."""

    place: str
    name: str
    values: Mapping[str, Any]


def check(config: DictConfig) -> None:
    """Raises ConfigError, naming every fault at once, unless each target is allowed and each key known.

    A target must be a class or function that lives (by `__module__` and `__qualname__`, whatever
    alias leads to it) where configs may build from, and each of its keys must be one of its
    parameters, with a value of its type where that is a number, a text or one of several words.
    Nothing is instantiated; the modules of allowed packages are imported.
    """
    bare = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    container = OmegaConf.to_container(bare, resolve=True, throw_on_missing=False)
    faults = [*_missing(container, ""), *_unknown(container)]
    for target in targets(container):
        faults.extend(_faults(target))
    if faults:
        raise ConfigError("The configuration cannot be used:\n" + "\n".join(f"  - {fault}" for fault in faults))


def targets(container: Any, place: str = "") -> Iterator[Target]:
    """Every `_target_` in a plain (resolved) config, outermost first."""
    if isinstance(container, Mapping):
        if "_target_" in container:
            yield Target(place, str(container["_target_"]), {str(key): value for key, value in container.items()})
        for key, value in container.items():
            yield from targets(value, _join(place, key))
    elif isinstance(container, list):
        for position, value in enumerate(container):
            yield from targets(value, f"{place}[{position}]")


def locate(name: str) -> Any:
    """The class or function that `name` leads to. Raises ConfigError where it is absent or not allowed."""
    if not name.startswith(_IMPORTED):
        raise ConfigError(f"{name} is not allowed; a _target_ begins with one of {', '.join(_IMPORTED)}")
    found = _lookup(name)
    home = f"{getattr(found, '__module__', '?')}.{getattr(found, '__qualname__', '?')}"
    # A class may answer to `__module__` as it likes; a plain function cannot be a bound method or a partial.
    if isinstance(found, type) and home.startswith(_CLASSES):
        return found
    if isinstance(found, FunctionType) and _FUNCTIONS.fullmatch(home):
        return found
    kind = "class" if isinstance(found, type) else type(found).__name__
    raise ConfigError(f"{name} is not allowed: it is the {kind} {home}, which a config may not build")


def _lookup(name: str) -> Any:
    """What Hydra would find: attributes first, then modules, part by part."""
    path, *parts = name.split(".")
    found: Any = importlib.import_module(path)
    for part in parts:
        below = getattr(found, part, None)
        if below is None and inspect.ismodule(found):
            below = _import_below(path, part, name)
        if below is None:
            raise ConfigError(f"{name} does not exist: {path} has no {part}{nearest(part, _names(found))}")
        found, path = below, f"{path}.{part}"
    return found


def _names(found: Any) -> list[str]:
    """What can stand behind a dot: attributes, and modules not imported yet."""
    modules = (module.name for module in pkgutil.iter_modules(getattr(found, "__path__", ())))
    return [*dir(found), *modules]


def _import_below(package: str, part: str, name: str) -> Any:
    """The module `package.part`, None if there is none. Raises ConfigError where it lacks a package it needs."""
    module = f"{package}.{part}"
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise ConfigError(f"{name} cannot be imported: it needs the package {error.name}") from error
    return None


def _faults(target: Target) -> Iterator[str]:
    try:
        found = locate(target.name)
    except ConfigError as error:
        yield f"{_join(target.place, '_target_')}: {error}"
        return
    parameters = _parameters(found)
    if parameters is None:
        return
    short = target.name.rsplit(".", 1)[-1]
    for key, value in target.values.items():
        if key in _HYDRA_KEYS:
            continue
        if key not in parameters:
            yield f"{_join(target.place, key)}: {short} has no parameter {key}{nearest(key, parameters)}"
        elif found.__module__.startswith(_OWN) and not _fits(value, parameters[key].annotation, target):
            wanted = inspect.formatannotation(parameters[key].annotation).replace("typing.", "")
            place = _join(target.place, key)
            yield f"{place}: {short} wants {wanted}, not {value!r}{_instead(place, parameters[key].annotation, value)}"


def _parameters(found: Any) -> dict[str, inspect.Parameter] | None:
    """What `found` takes by name; None where it takes anything.

    A class of the suite that passes `**shared` on takes what the next class takes as well.
    """
    own = isinstance(found, type) and found.__module__.startswith(_OWN)
    named: dict[str, inspect.Parameter] = {}
    for function in [vars(kind)["__init__"] for kind in found.__mro__ if "__init__" in vars(kind)] if own else [found]:
        parameters = inspect.signature(function).parameters.values()
        named = {p.name: p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)} | named
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            named.pop("self", None)
            return named
    return None


def _kinds(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _built(kind: Any) -> bool:
    """Whether it is a class of the suite's, which a config makes of a group of keys."""
    return isinstance(kind, type) and kind.__module__.startswith(_OWN) and kind.__module__ != _READ


def _instead(place: str, annotation: Any, value: Any) -> str:
    """Where a value stands in place of a group: the key that takes it, or how to have none of it."""
    for kind in filter(_built, _kinds(annotation)):
        if value is None and kind.__name__ in _INSTEAD_OF_NULL:
            return f"; set {place}.{_INSTEAD_OF_NULL[kind.__name__]}"
        for name, parameter in (_parameters(kind) or {}).items():
            if value in [word for each in _kinds(parameter.annotation) for word in get_args(each)]:
                return f"; set {place}.{name}={value}"
        if value is not None:
            return f"; it is a group with the keys {', '.join(_parameters(kind) or ())}"
    return ""


def _fits(value: Any, annotation: Any, target: Target) -> bool:
    """Whether a plain value is of a plain type; a group fits what is built, anything a type that is neither."""
    kinds = _kinds(annotation)
    if value == "???" or (value is None and target.values.get("_partial_")):
        return True  # reported elsewhere, or filled in by whoever calls the partial
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    plain = {kind for kind in kinds if kind in _PLAIN}
    built = sum(map(_built, kinds))
    if len(plain) + built + sum(get_origin(kind) is Literal for kind in kinds) < len(kinds):
        return True
    if built and isinstance(value, Mapping):
        return True
    # A bool is an int to Python and never one to a user; an int serves as a float.
    return value in words or type(value) in plain or (type(value) is int and float in plain)


def _missing(container: Any, place: str) -> Iterator[str]:
    if isinstance(container, Mapping):
        for key, value in container.items():
            yield from _missing(value, _join(place, key))
    elif isinstance(container, list):
        for position, value in enumerate(container):
            yield from _missing(value, f"{place}[{position}]")
    elif container == "???":
        yield f"{place}: a value must be given, {place}=VALUE"


def _unknown(container: Any) -> Iterator[str]:
    """Keys where no `_target_` says which there are; those of files come through Hydra unseen."""
    known: dict[str, Iterable[str]] = {
        "": RootConfig.__dataclass_fields__,
        "module.teacher": ("ckpt_path", "adapt", "seed", "rollout", "recipe"),
    }
    for place, keys in known.items():
        node = container
        for part in place.split(".") if place else ():
            node = node.get(part) if isinstance(node, Mapping) else None
        for key in node if isinstance(node, Mapping) else ():
            if key not in keys:
                yield f"{_join(place, key)} is not a key of the configuration{nearest(str(key), keys)}"
    for group in ("rollout", "callbacks", "logger"):
        if not isinstance(found := container.get(group), Mapping | NoneType) and found != "???":
            yield f"{group} is {found!r}; a group of keys is expected, such as {{{_EXAMPLES[group]}}}"
    guidance = _keys(container, "rollout").get("guidance")
    if guidance is not None and not _is_target(guidance):  # compat= sets one of its keys, where there may be none
        yield "rollout.guidance has no _target_; give it all keys, as rollout=vid2world does, or rollout.guidance=null"
    for group in ("callbacks", "logger"):
        for key, value in _keys(container, group).items():
            if value is not None and not _is_target(value):
                others = [other for other in container[group] if other != key]
                yield f"{_join(group, key)} has no _target_{nearest(str(key), others)}"


def _keys(container: Mapping[str, Any], group: str) -> Mapping[str, Any]:
    found = container.get(group)
    return found if isinstance(found, Mapping) else {}


def _is_target(value: Any) -> bool:
    return isinstance(value, Mapping) and "_target_" in value


def _join(place: str, key: Any) -> str:
    return f"{place}.{key}" if place else str(key)
