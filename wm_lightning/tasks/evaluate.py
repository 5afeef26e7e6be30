"""task=evaluate: the results table of a checkpoint, and the same after a training."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from wm_lightning.card import Card
from wm_lightning.checkpoints import NetworkFile
from wm_lightning.clip import Latents, Pixels
from wm_lightning.config_record import config_hash, plain, recorded_overrides
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.environment import revision
from wm_lightning.networks.adapters.dynamicrafter_card import PUBLISHED
from wm_lightning.results.results import Results
from wm_lightning.sampling.guidance import Guidance
from wm_lightning.sampling.rollout import Plan
from wm_lightning.sampling.samplers import described
from wm_lightning.tasks import terminal
from wm_lightning.tasks.build import build_card, build_data, device_of, kind_of, network_of, plain_node
from wm_lightning.tasks.curves import final_losses
from wm_lightning.tasks.evaluation import Origin, evaluate_cast
from wm_lightning.tasks.fit import deployed_file
from wm_lightning.tasks.judging import TableSettings, prepare
from wm_lightning.tasks.subjects import Cast
from wm_lightning.tasks.teachers import prepare_start, prepare_teacher

log = logging.getLogger(__name__)


def evaluate(config: DictConfig) -> dict[str, float]:
    """Measures the checkpoint at `ckpt_path` on the test clips and writes results.json, results.md and pictures.

    With `protocol=NAME` the protocol does what it says instead.
    """
    if config.protocol is not None:
        return instantiate(config.protocol, _convert_="all")(config)
    started = time.time()
    data, kind = build_data(config), kind_of(config)
    file = read_checkpoint(config, data, kind)
    if kind == "executor":
        # Here: what a run does not use must not be part of what its results were made by.
        from wm_lightning.tasks.roles import measure_roles  # noqa: PLC0415

        return measure_roles(config, data, file, started).summary()
    teacher = prepare_teacher(config, data) if "teacher" in config.module else None
    if teacher is not None and file.card.trained_for["teacher"] != teacher.sha256:
        raise ValueError(
            f"{config.ckpt_path} was distilled from the teacher {file.card.trained_for['teacher'][:12]}, this is "
            f"{teacher.sha256[:12]}; name its own with module.teacher.ckpt_path, or the table would mix two models"
        )
    return summary(evaluate_files(config, data, file, teacher, started))


def read_checkpoint(config: DictConfig, data: ClipDataModule, kind: str) -> NetworkFile:
    """The network at `ckpt_path`. Raises ValueError where there is none or it is not for this run."""
    if config.ckpt_path is None:
        raise ValueError("ckpt_path=null: name the checkpoint, ckpt_path=RUN/checkpoints/best.ckpt")
    named = Path(config.run_dir) / "checkpoints" / "best.ckpt" if config.ckpt_path == "last" else Path(config.ckpt_path)
    expected = build_card(config, data, kind)
    adapted = config.module.get("lora") is not None
    file = deployed_file(config, named, expected, prepare_start(config, data) if adapted else None)
    differences = file.card.differences(expected)
    if file.card.kind != kind:
        own = "experiment=teacher" if file.card.kind == "teacher" else "the experiment it was distilled by"
        raise ValueError(f"{named} holds a {file.card.kind}, this config is about a {kind}; add {own}")
    if differences:
        official = "; compat=official has the settings of weights that Vid2World published"
        advice = official if file.card.data == PUBLISHED else ""
        raise ValueError(
            f"{named} is not for this config: {'; '.join(differences)} (checkpoint against config){advice}"
        )
    return file


def evaluate_files(
    config: DictConfig, data: ClipDataModule, file: NetworkFile, teacher: NetworkFile | None, started: float
) -> Results:
    """Measures a student beside its teacher, or a teacher alone."""
    settings: TableSettings = instantiate(config.metrics, _convert_="all")
    device = device_of(config)
    cast = build_cast(config, file, teacher, device, data.decode)
    bench = prepare(data, settings, device, str(config.trainer.precision))
    unseeded = config.copy()
    unseeded.seed = 0
    hashes = (config_hash(plain(config)), config_hash(plain(unseeded)))
    folder = Path(config.run_dir)
    origin = Origin(
        config.name, *hashes, revision(), config.seed, started, recorded_overrides(folder), final_losses(folder),
        how=made_with(config) if teacher is None else (),
    )  # fmt: skip
    return evaluate_cast(cast, bench, settings, origin, folder, terminal.console())


def made_with(config: DictConfig) -> tuple[str, ...]:
    """Transfer, guidance and sampler of a module that rolls out alone, in words, where it has them."""
    module, guidance, found = config.module, config.rollout.guidance, []
    if module.get("start") is not None and module.get("transfer") is not None:
        line = f" (a line through {module.transfer.window} frames)" if module.transfer.mode == "extrapolative" else ""
        found.append(f"transfer {module.transfer.mode}{line}")
    if guidance is not None:
        found.append(f"guidance {guidance.scale:g}" if guidance.scale != 1 else "no guidance (scale 1)")
    kind = str(module.sampler.get("_target_")).rsplit(".", 1)[-1].removesuffix("Sampler")
    eta = f", eta {module.sampler.eta:g}" if module.sampler.get("eta") else ""
    return (*found, f"sampler {kind}{eta}") if found else ()


def build_cast(
    config: DictConfig, file: NetworkFile, teacher: NetworkFile | None, device: torch.device,
    decode: Callable[[Latents], Pixels],
) -> Cast:  # fmt: skip
    """Networks on their device, with the samplers of the config; `decode` is the data's."""
    own = network_of(config, file, device)
    module = plain_node(config, "module")
    recipe = module if teacher is None else module["teacher"]["recipe"]
    history = (file if teacher is None else teacher).card.trained_for["history_level"]
    require(file.card, config, config.metrics.context, config.metrics.context + config.metrics.horizon)
    teacher_plan = None if teacher is None else instantiate(module["teacher"]["rollout"], _convert_="all")
    if teacher is not None and teacher_plan is not None:
        require_guidance(teacher.card, teacher_plan.guidance, "module.teacher.rollout.guidance")
    return Cast(
        teacher=own if teacher is None else network_of(config, teacher, device),
        student=None if teacher is None else own,
        path=instantiate(plain_node(config, "noising"), _convert_="all"),
        teacher_sampler=instantiate(recipe["sampler"], _convert_="all"),
        student_sampler=None if teacher is None else instantiate(module["sampler"], _convert_="all"),
        plan=instantiate(plain_node(config, "rollout"), _convert_="all"),
        history_level=history,
        decode=decode,
        teacher_plan=teacher_plan,
    )


def require(card: Card, config: DictConfig, context: int, frames: int) -> None:
    """Raises ValueError where a rollout, `context` of its `frames` given, asks for what the card does not declare."""
    card.require_context(context, "given frames")
    card.require_frames(min(config.rollout.window or frames, frames), "rollout.window")
    card.require_sampler(described(instantiate(plain_node(config, "module")["sampler"], _convert_="all")))
    card.require_mask(config.rollout.mask.chunk, "rollout.mask")
    card.require_commit(config.rollout.commit.mode, config.rollout.commit.t, "rollout.commit")
    plan: Plan = instantiate(plain_node(config, "rollout"), _convert_="all")
    require_guidance(card, plan.guidance, "rollout.guidance")


def require_guidance(card: Card, guidance: Guidance | None, use: str) -> None:
    """Raises ValueError where guidance would ask the network for what it does without actions, and it never had to."""
    if guidance is not None and guidance.scale != 1:
        card.require_null(guidance.drop, use)


def summary(results: Results) -> dict[str, float]:
    """A few numbers by name, for whoever called the task."""
    row = results.deployed_row
    assert row is not None
    names = ("psnr", "action_error", "distance", "fps_b1")
    found = {name: row.measured(name) for name in names}
    return {name: float(value) for name, value in found.items() if value is not None}
