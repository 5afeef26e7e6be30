"""task=convert task.to=hub: a checkpoint as a folder fit for a model hub, which `from_pretrained` reads."""

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError
from torch import Tensor

from wm_lightning import __version__
from wm_lightning.card import Card
from wm_lightning.checkpoints import NetworkFile, read_card, read_network, weights_hash, write_weights
from wm_lightning.config_record import plain, recorded_overrides, redact
from wm_lightning.data.formats.atomic import atomic_folder
from wm_lightning.plain_files import read_plain, why
from wm_lightning.pretrained import FILM, FORMAT, KINDS, README, SETTINGS, WEIGHTS, read_shared, settings_of
from wm_lightning.results.model_card import Page, model_card
from wm_lightning.results.results import Results
from wm_lightning.tasks.build import plain_node
from wm_lightning.tasks.environments import composed

log = logging.getLogger(__name__)

RESULTS = "results.json"
SAID = ("wm_lightning", "python", "torch", "lightning")  # of the versions, on the page; config.json has all
# Files that a network may name; they lie on this machine and do not go along.
OTHER_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
# An absolute path (of any system, or in a home) behind a space, quote or sign; relative ones and addresses are none.
_PART = r"[^\s'\"`\[\](){},=:/\\]+"
_ABSOLUTE = re.compile(
    rf"(?<![\w.…~/\\-])(?:file://)?(?:(?:~\w*)?/|[A-Za-z]:[/\\]|\\\\)(?:{_PART}[/\\])*({_PART})[/\\]?"
)


@dataclass(frozen=True)
class Record:
    """What a checkpoint says of its training: card, packages and their versions."""

    card: Card
    packages: Mapping[str, str]


def write_hub(config: DictConfig, folder: Path, license: str | None) -> dict[str, float]:
    """Writes the checkpoint at `ckpt_path` into `folder`, whole or not at all; returns how many bytes the weights have.

    Beside the weights go what is needed to use them and a page about them, with numbers and pictures of the run where
    they are of this network. Raises ValueError for a folder that is there, and for a checkpoint that cannot be shared.
    """
    if license is not None and not re.fullmatch(r"[\w.+-]+", license):
        raise ValueError(f"task.license={license!r} is no license by name, as apache-2.0, mit or cc-by-4.0")
    source = checkpoint_of(config)
    record = read_record(source)
    config = config_of(config, source)
    require_sharable(config, record.card, source)
    file = read_network(source, record.card)
    values = settings(config, record)
    run = run_folder_of(source)
    results, unmeasured = measured(run, file, values)
    film = FILM if results is not None and (run / FILM).is_file() else None
    with atomic_folder(folder) as partial:
        card = Card.from_dict(public(file.card.to_dict()))
        write_weights(partial / WEIGHTS, smallest(file.weights), {"card": json.dumps(card.to_dict())})
        (partial / SETTINGS).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        if film is not None:
            shutil.copyfile(run / FILM, partial / FILM)
        page = page_of(card, values, config, license, results, unmeasured, film)
        (partial / README).write_text(public(model_card(page)), encoding="utf-8")
        read_shared(partial)  # as others will
        size = (partial / WEIGHTS).stat().st_size
    log.info("Written: %s (%s)", folder, "with its run's table" if results is not None else f"no numbers: {unmeasured}")
    if license is None:
        log.warning("No license was chosen: fill it in at the top of %s before you publish it", folder / README)
    return {"bytes": float(size)}


def checkpoint_of(config: DictConfig) -> Path:
    """The file that is shared. Raises ValueError where none is named."""
    if config.ckpt_path is None:
        raise ValueError("task.to=hub needs a checkpoint: ckpt_path=RUN/checkpoints/best.ckpt, or a .safetensors")
    return Path(config.run_dir) / "checkpoints" / "best.ckpt" if config.ckpt_path == "last" else Path(config.ckpt_path)


def read_record(source: Path) -> Record:
    """What the file says of itself. Raises ValueError where it cannot be read or this suite did not write it."""
    if not source.is_file():
        raise ValueError(f"ckpt_path={source}: there is no such file; name RUN/checkpoints/best.ckpt or a .safetensors")
    try:
        if source.suffix == ".safetensors":
            beside = source.parent / "environment.json"
            made = json.loads(beside.read_text()) if beside.is_file() else {}
            return Record(read_card(source), _packages(made))
        content = read_plain(source, mmap=True)
        if "card" not in content:
            raise ValueError("it holds no card, so this suite did not write it")
        return Record(Card.from_dict(content["card"]), _packages(content.get("provenance") or {}))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"ckpt_path={source} cannot be shared: {why(error)}") from error


def _packages(made: Mapping[str, Any]) -> dict[str, str]:
    environment = made.get("environment", {})
    python = {"python": environment["python"]} if "python" in environment else {}
    return {**python, **environment.get("packages", {})}


def config_of(config: DictConfig, source: Path) -> DictConfig:
    """The config that the checkpoint is deployed by: for a .safetensors, that of the run it lies in.

    A .ckpt has brought its own overrides along already.
    """
    if source.suffix != ".safetensors" or not (source.parent / "overrides.yaml").is_file():
        return config
    given = [word for word in recorded_overrides(Path(config.run_dir)) if _is_of_the_model(word)]
    return composed(source, [*given, f"cache_dir={config.cache_dir}"])


def _is_of_the_model(word: str) -> bool:
    return word.lstrip("+~").split("=")[0].split(".")[0] not in ("task", "ckpt_path", "run_dir", "cache_dir")


def require_sharable(config: DictConfig, card: Card, source: Path) -> None:
    """Raises ValueError where a folder could not hold all that the network needs, or is of another config."""
    if card.kind not in KINDS or not card.action_spec["names"]:
        raise ValueError(
            f"{source} holds a {card.kind} of {card.data}, which no action drives; {' and '.join(KINDS)} of data with "
            f"actions can be shared"
        )
    network = plain_node(config, "network")
    if network.get("start_tokens") is not None:
        raise ValueError(f"{source} is told of its first frame by encoders that lie in other files: it is not shared")
    network = {key: value for key, value in network.items() if key != "_partial_"}
    network["actions"] = len(card.action_spec["names"])
    declared = {**card.to_dict(), "network": network, "path": plain_node(config, "noising")}
    if differences := card.differences(Card.from_dict(declared)):
        raise ValueError(
            f"{source} is not for this config: {'; '.join(differences)} (checkpoint against config); name the file in "
            f"its run's folder, whose settings are known, or add the words it was trained with"
        )
    if other := [text for text in _texts(network) if text.endswith(OTHER_FILES) or public(text) != text]:
        raise ValueError(f"{source} needs {other[0]}, a file that would not go along: it is not shared")


def settings(config: DictConfig, record: Record) -> dict[str, Any]:
    """The content of config.json: the card, and how the network is deployed."""
    nodes = plain(config)
    values = {
        "format": FORMAT, "library_name": "wm_lightning", "name": nodes["name"], "seed": nodes["seed"],
        **record.card.to_dict(),
        "context": int(nodes["module"]["context"]), "sampler": nodes["module"]["sampler"],
        "rollout": nodes["rollout"], "versions": {"wm_lightning": __version__, **record.packages},
    }  # fmt: skip
    return public(values)


def run_folder_of(source: Path) -> Path:
    """The folder of the run that wrote a checkpoint."""
    folder = source.absolute().parent
    return folder.parent if folder.name == "checkpoints" else folder


def measured(run: Path, file: NetworkFile, values: Mapping[str, Any]) -> tuple[Results | None, str]:
    """The run's results if they are of this network, used as it is here; else why there are none.

    A run measures what it exports: its best checkpoint rounded to bfloat16. Another checkpoint's numbers would look as
    if they were this one's.
    """
    if not (run / RESULTS).is_file():
        return None, f"no {RESULTS} lay beside the checkpoint when this folder was written"
    results, exported = Results.from_json(run / RESULTS), run / f"{file.card.kind}.safetensors"
    other = f"the {RESULTS} beside the checkpoint is of another network or other settings, and is left out"
    if not exported.is_file() or results.config_hash != file.card.config_hash:
        return None, other
    rounded = {name: value.bfloat16() for name, value in file.weights.items()}
    same = weights_hash(rounded) == read_network(exported, file.card).sha256
    return (results, "") if same and _deployed_alike(run, values) else (None, other)


def _deployed_alike(run: Path, values: Mapping[str, Any]) -> bool:
    """Does the run's record have this rollout, sampler and context?"""
    if not (run / "config.yaml").is_file():
        return False
    record = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    assert isinstance(record, dict)
    own = (values["rollout"], values["sampler"], values["context"])
    return own == (record["rollout"], record["module"]["sampler"], record["module"]["context"])


def page_of(
    card: Card, values: Mapping[str, Any], config: DictConfig, license: str | None, results: Results | None,
    unmeasured: str, film: str | None,
) -> Page:  # fmt: skip
    """What the page says."""
    path, sampler, plan = settings_of(config)
    versions = {name: values["versions"][name] for name in SAID if name in values["versions"]}
    return Page(
        card=card, name=values["name"], seed=values["seed"], context=values["context"],
        pixels=(int(config.data.height), int(config.data.width)),
        steps=len(sampler.levels(path, plan.chunk)) - 1, chunk=plan.chunk, window=plan.window, versions=versions,
        results=results, unmeasured=unmeasured, film=film, license=license,
    )  # fmt: skip


def smallest(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same values, in bfloat16 where all of them are exact in it, as those of an exported file."""
    halves = {name: value.bfloat16() for name, value in weights.items()}
    exact = all(torch.equal(halves[name].float(), value) for name, value in weights.items())
    return halves if exact else dict(weights)


def public(value: Any) -> Any:
    """The same plain value without keys, places on this machine, and its user's name in a path."""
    return _shortened(redact(value), _users())


def _shortened(value: Any, users: Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _shortened(item, users) for key, item in value.items()}
    if isinstance(value, list):
        return [_shortened(item, users) for item in value]
    if not isinstance(value, str):
        return value
    value = _ABSOLUTE.sub(r"…/\1", value)
    for user in users:
        name = re.escape(user)
        value = re.sub(rf"(?<=[/\\]){name}(?![\w.-])|(?<![\w.-]){name}(?=[/\\])", "…", value)
    return value


def _users() -> list[str]:
    named = {os.environ.get(key, "") for key in ("USER", "LOGNAME", "USERNAME")}
    return sorted({*named, Path(os.path.expanduser("~")).name} - {"", "~"})


def _texts(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [text for item in value.values() for text in _texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [value] if isinstance(value, str) else []
