"""Where a distillation's teacher comes from: a file, the repository, or a training of its own."""

import hashlib
import json
import logging
from pathlib import Path

from omegaconf import DictConfig

from wm_lightning.card import Card
from wm_lightning.checkpoints import NetworkFile, read_card, read_network
from wm_lightning.config_record import save_record
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.tasks.build import build_card, build_data, plain_node, without
from wm_lightning.tasks.fit import best_checkpoint, export, fit

log = logging.getLogger(__name__)

SHIPPED = Path(__file__).parents[1] / "teachers"


def prepare_teacher(config: DictConfig, data: ClipDataModule) -> NetworkFile:
    """The teacher that `module.teacher.ckpt_path` names.

    A path is read. `shipped` is the file of this data set that comes with the suite, where its card
    equals the run; otherwise, and for null, a teacher is trained by `module.teacher.recipe` into the
    cache, or found there. One that lacks a mask this run asks for is fine-tuned under it the same way.
    Raises ValueError where a named file does not fit the run.
    """
    file = given_teacher(config, data)
    if file is not None and not must_adapt(config, file.card):
        return file
    return _read(train_teacher(config, data, start=file), build_card(config, data, "teacher"))


def must_adapt(config: DictConfig, card: Card) -> bool:
    """Does this teacher lack a mask of student or score, and may it be fine-tuned (`module.teacher.adapt` > 0)?"""
    wanted = (config.rollout.mask.chunk, config.module.score.mask.chunk)
    return config.module.teacher.adapt > 0 and not all(card.covers_mask(chunk) for chunk in wanted)


def start_file(config: DictConfig, data: ClipDataModule) -> NetworkFile | None:
    """The network that a teacher's training starts from, None for a random one."""
    path = config.module.start
    return None if path is None else _read(Path(path), build_card(config, data, "teacher"))


def given_teacher(config: DictConfig, data: ClipDataModule) -> NetworkFile | None:
    """The teacher that is there already, None where one must be trained. Raises ValueError where it does not fit."""
    expected = build_card(config, data, "teacher")
    wanted = config.module.teacher.ckpt_path
    if wanted == "shipped":
        wanted = _shipped(data, expected)
    return None if wanted is None else _read(Path(wanted), expected)


def _read(path: Path, expected: Card) -> NetworkFile:
    file = read_network(path, expected)
    differences = file.card.differences(expected)
    if differences:
        raise ValueError(
            f"the teacher {path} is not for this run: {'; '.join(differences)} (teacher against run); change "
            f"network=, noising= or data.action_shift to match it, or set module.teacher.ckpt_path=null to train one"
        )
    log.info("Teacher: %s (%s, %d iterations, %s)", path, file.card.data, file.card.iterations, file.sha256[:12])
    return file


def _shipped(data: ClipDataModule, expected: Card) -> str | None:
    path = SHIPPED / f"{data.name}.safetensors"
    if not path.is_file():
        log.info("No teacher for %s comes with the suite: training one", data.name)
        return None
    differences = read_card(path).differences(expected)
    if differences:
        log.info("The teacher in %s is not for this run (%s): training one", path.name, "; ".join(differences))
        return None
    return str(path)


def train_teacher(config: DictConfig, data: ClipDataModule, start: NetworkFile | None) -> Path:
    """Trains the recipe's teacher in the cache, once per config; an interrupted training is continued.

    From `start`, it is a fine-tuning of `module.teacher.adapt` iterations.
    """
    recipe = without(config, {"module": config.module.teacher.recipe, "name": "teacher", "ckpt_path": "last"})
    if start is not None:
        recipe.module.iterations = config.module.teacher.adapt
        recipe.module.validate_every = min(recipe.module.validate_every, recipe.module.iterations)
    nodes = {key: plain_node(recipe, key) for key in ("module", "network", "noising", "rollout")}
    nodes["data"] = {
        key: value for key, value in plain_node(recipe, "data").items() if key not in ("cache_dir", "root")
    }
    identity = {**nodes, "seed": config.seed, "content": data.manifest["hash"], "start": start and start.sha256}
    key = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:12]
    folder = Path(config.cache_dir) / "teachers" / f"{data.name}-{key}"
    path = folder / "teacher.safetensors"
    if path.is_file():
        log.info("Reusing the teacher trained before: %s", path)
        return path
    what = "Training a teacher" if start is None else "Fine-tuning the teacher under the masks it lacks"
    log.info("%s first, into %s", what, folder)
    recipe.run_dir = str(folder)
    save_record(recipe, [], folder)
    card = build_card(recipe, data, "teacher")
    trainer = fit(recipe, build_data(recipe), card, start)
    if trainer.is_global_zero:
        export(recipe, best_checkpoint(recipe), card, path)
    trainer.strategy.barrier()
    return path
