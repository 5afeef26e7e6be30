"""What a training starts from or is taught by: a file, the repository, or a training of its own that comes first."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock
from hydra.utils import instantiate
from lightning.fabric.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, open_dict

from wm_lightning.card import Card
from wm_lightning.checkpoints import NetworkFile, read_card, read_network
from wm_lightning.config_record import config_hash, save_record
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.modules.self_forcing import SelfRollout
from wm_lightning.tasks.build import build_card, build_data, kind_of, plain_node, without
from wm_lightning.tasks.fit import best_checkpoint, export, fit

log = logging.getLogger(__name__)

SHIPPED = Path(__file__).parents[1] / "teachers"
PRETRAINING = "pretraining"  # the name of the training that module.start describes
# Settings of a network that its weights' shapes do not tell.
HIDDEN = ("_target_", "groups", "heads", "head_dim", "opening_heads", "rate", "rope_base")


def prepare_teacher(config: DictConfig, data: ClipDataModule) -> NetworkFile:
    """The teacher that `module.teacher.ckpt_path` names.

    A path is read. `shipped` is the file of this data set that comes with the suite, where its card
    equals the run; otherwise, and for null, a teacher is trained by `module.teacher.recipe` into the
    cache, or found there. One that lacks a mask or a length this run asks for is fine-tuned with it the same way.
    Raises ValueError where a named file does not fit the run.
    """
    file, expected = given_teacher(config, data), build_card(config, data, "teacher")
    if config.module.teacher.ckpt_path == "shipped" and (reason := why_not_shipped(data, expected)) is not None:
        log.info("%s; this run takes one of its own", reason)
    if file is None or must_adapt(config, file.card):
        file = _read(train_teacher(config, data, start=file), expected)
    log.info("Teacher: %s, %d iterations, %s", file.card.data, file.card.iterations, file.sha256[:12])
    return file


def must_adapt(config: DictConfig, card: Card) -> bool:
    """Does this teacher lack what student or score ask for, and may it be fine-tuned (`module.teacher.adapt` > 0)?"""
    rollout: SelfRollout = instantiate(plain_node(config, "module")["rollout"], _convert_="all")
    lessons = config.module.init.iterations > 0 or config.module.regression is not None
    spans = rollout.spans(config.module.score.context, config.rollout.window, config.data.frames if lessons else 0)
    long_enough = all(map(card.covers_frames, spans.values()))
    seen = all(map(card.covers_mask, _masks(config))) and card.covers_one_level(config.module.score.mask.chunk)
    return config.module.teacher.adapt > 0 and not (long_enough and seen)


def recipe_of(config: DictConfig, *, fine_tuned: bool) -> DictConfig:
    """The config of the teacher's own training, in which nothing depends on the student's seed and rollout.

    A fine-tuning takes `module.teacher.adapt` iterations, and masks that the recipe lacks join with a
    share of 0.3 together.
    """
    node = config.module.teacher
    changes = {
        "module": node.recipe,
        "rollout": node.rollout,
        "seed": node.seed,
        "name": "teacher",
        "ckpt_path": "last",
    }
    recipe = without(config, changes)
    if fine_tuned:
        module = recipe.module
        # It goes on from the file as it is: nothing of what made that file is done again.
        module.start, module.start_new, module.transfer = None, [], None
        module.iterations = node.adapt
        module.validate_every = min(module.validate_every, node.adapt)
        chunks, shares = list(module.masks.chunks), list(module.masks.shares)
        if added := [chunk for chunk in dict.fromkeys(_masks(config)) if chunk not in chunks]:
            shares = [0.7 * share for share in shares] + [0.3 / len(added)] * len(added)
        module.masks.chunks, module.masks.shares = chunks + added, shares
    return recipe


def _masks(config: DictConfig) -> tuple[int | None, int | None]:
    return config.rollout.mask.chunk, config.module.score.mask.chunk


def start_file(config: DictConfig, data: ClipDataModule) -> NetworkFile | None:
    """The file that a teacher's training starts from, None for random weights.

    Where `module.start_new` lets parts be missing, its network may be another; weights that do not fit are refused. An
    executor may begin as a student or as another executor, too.
    """
    path, growing = config.module.start, len(config.module.get("start_new", ())) > 0
    card = build_card(config, data, "teacher")
    kinds = ("teacher", "student", "executor") if kind_of(config) == "executor" else ("teacher",)
    return None if path is None else _read(Path(path), card, starts=True, growing=growing, kinds=kinds)


def given_teacher(config: DictConfig, data: ClipDataModule) -> NetworkFile | None:
    """The teacher that is there already, None where one must be trained. Raises ValueError where it does not fit."""
    expected = build_card(config, data, "teacher")
    wanted = config.module.teacher.ckpt_path
    if wanted == "shipped":
        wanted = shipped(data) if why_not_shipped(data, expected) is None else None
    return None if wanted is None else _read(Path(wanted), expected)


def _read(
    path: Path, expected: Card, *, starts: bool = False, growing: bool = False, kinds: Sequence[str] = ("teacher",)
) -> NetworkFile:
    what, key = ("start", "module.start") if starts else ("teacher", "module.teacher.ckpt_path")
    otherwise = f"{key}=null to {'begin from random weights' if starts else 'train one'}"
    file = read_network(path, expected, otherwise=otherwise)
    card = replace(file.card, kind=expected.kind) if file.card.kind in kinds else file.card
    card = replace(card, network=_grown(card.network, expected.network)) if growing else card
    if differences := card.differences(expected):
        raise ValueError(
            f"the {what} {path} is not for this run: {'; '.join(differences)} ({what} against run); change "
            f"network=, noising=, data.action_shift or data.first_action to match it, or set "
            f"{otherwise}"
        )
    return file


def _grown(network: Mapping[str, Any], into: Mapping[str, Any]) -> dict[str, Any]:
    """The network that another grows into, except for what would go unnoticed when its weights are loaded."""
    return {**into, **{key: network[key] for key in HIDDEN if key in network and key in into}}


def shipped(data: ClipDataModule) -> Path:
    """Where the suite's own teacher of this data set stands, if there is one."""
    return SHIPPED / f"{data.name}.safetensors"


def why_not_shipped(data: ClipDataModule, expected: Card) -> str | None:
    """Why the suite's own teacher cannot be taken, in words; None where it can."""
    path = shipped(data)
    if not path.is_file():
        return f"No teacher for {data.name} comes with the suite"
    differences = read_card(path).differences(expected)
    return f"The suite's own teacher is of another config ({'; '.join(differences)})" if differences else None


def train_teacher(config: DictConfig, data: ClipDataModule, start: NetworkFile | None) -> Path:
    """Trains the recipe's teacher in the cache, from `start` where given, once per config.

    An interrupted training is continued.
    """
    recipe = recipe_of(config, fine_tuned=start is not None)
    return trained_once(recipe, data, prepare_start(recipe, data) if start is None else start)


def trained_once(recipe: DictConfig, data: ClipDataModule, start: NetworkFile | None) -> Path:
    """Where the teacher of this recipe stands: with the suite, or in the cache, trained now unless it was before."""
    folder = teacher_folder(recipe, data, start)
    if (path := SHIPPED / f"{folder.name}.safetensors").is_file():
        log.info("Taking the teacher of this recipe that comes with the suite: %s", path)
        return path
    path = folder / "teacher.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    # Of several runs that need this teacher one trains it; ranks of one run are led by their first.
    with FileLock(folder / "training.lock") if rank_zero_only.rank == 0 else nullcontext():
        if path.is_file():
            log.info("Reusing the teacher trained before: %s", path)
        else:
            _train_into(folder, path, recipe, start)
    return path


def teacher_folder(recipe: DictConfig, data: ClipDataModule, start: NetworkFile | None) -> Path:
    """Where the teacher of a recipe is trained in the cache: the name tells recipe, data and start apart."""
    nodes = {key: plain_node(recipe, key) for key in ("module", "network", "noising", "rollout")}
    settings = {key: value for key, value in plain_node(recipe, "data").items() if key != "root"}
    identity = {**nodes, "data": settings, "seed": recipe.seed, "content": data.manifest["hash"]}
    name = f"{data.name}-{config_hash({**identity, 'start': start and start.sha256})}"
    return Path(recipe.cache_dir) / "teachers" / name


def _train_into(folder: Path, path: Path, recipe: DictConfig, start: NetworkFile | None) -> None:
    what = {
        "teacher": "Training a teacher", "student": "Distilling a student",
        "executor": "Training an executor to compare with",
    }[kind_of(recipe)]  # fmt: skip
    if start is not None and kind_of(recipe) == "teacher":
        what = "Fine-tuning the teacher to what this run asks of it"
    log.info("%s first, into %s", what, folder)
    recipe.run_dir = str(folder)
    save_record(recipe, [], folder)
    data = build_data(recipe)
    card = build_card(recipe, data, kind_of(recipe))
    trainer = fit(recipe, data, card, start)
    if trainer.is_global_zero:
        export(recipe, best_checkpoint(recipe), card, path, start)
    trainer.strategy.barrier()


def prepare_start(config: DictConfig, data: ClipDataModule) -> NetworkFile | None:
    """The network to start from, None for random weights.

    Where `module.start` says what to train first, that is trained into the cache, or found there.
    """
    if (recipe := pretraining_of(config)) is None:
        if config.module.get("start") is None and config.module.get("transfer") is not None:
            log.warning("module.start=null: random weights in place of those that module.transfer would make causal")
        return start_file(config, data)
    first, kind = pretraining_data(config, recipe, data), kind_of(recipe)
    first.prepare_data()
    teacher = prepare_teacher(recipe, first) if kind == "student" else None
    return read_network(trained_once(recipe, first, teacher), build_card(recipe, first, kind))


def pretraining_data(config: DictConfig, recipe: DictConfig, data: ClipDataModule) -> ClipDataModule:
    """The data of the training that comes first: this one's, unless `module.start.data` names others."""
    return instantiate(recipe.data, _convert_="all") if "data" in config.module.start else data


def pretraining_of(config: DictConfig) -> DictConfig | None:
    """The config of the training that comes first: this one but for `network` and other nodes of `module.start`.

    `module.start.module` is that training's whole module, a distillation with a teacher of its own too, and nothing
    then depends on this one's; without it, it is this module with `module.start.iterations`. `module.start.data` are
    other data. None where nothing comes first.
    """
    first = config.module.get("start")
    if not isinstance(first, DictConfig):
        return None
    recipe = without(config, {"name": PRETRAINING, "ckpt_path": "last"})
    with open_dict(recipe):
        recipe.network.update(first.network)
        for key in ("module", "rollout", "seed", "data"):
            recipe[key] = first.get(key, recipe[key])
        if "module" not in first:
            recipe.module.iterations = first.iterations
            recipe.module.validate_every = min(config.module.validate_every, first.iterations)
        if kind_of(recipe) == "teacher":
            recipe.module.start, recipe.module.start_new, recipe.module.transfer = None, [], None
    return recipe
