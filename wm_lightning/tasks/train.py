"""task=train: data, teacher, training, results."""

import logging
import time
from dataclasses import replace
from pathlib import Path

from lightning.fabric.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig

from wm_lightning.checkpoints import rewrite_card
from wm_lightning.results.results import Results
from wm_lightning.tasks.build import build_card, build_data, kind_of
from wm_lightning.tasks.curves import draw_run_curves
from wm_lightning.tasks.evaluate import evaluate_files, summary
from wm_lightning.tasks.fit import best_checkpoint, export, fit
from wm_lightning.tasks.teachers import prepare_start, prepare_teacher

log = logging.getLogger(__name__)


def train(config: DictConfig) -> dict[str, float] | None:
    """Trains what the experiment says, measures the best checkpoint, and leaves the results in the run folder.

    The network is exported in bfloat16 first, so that table and card speak of the file that others load.
    """
    started = time.time()
    data, kind = build_data(config), kind_of(config)
    teacher = prepare_teacher(config, data) if kind == "student" else None
    card = build_card(config, data, kind)
    start = prepare_start(config, data) if teacher is None else teacher
    fit(config, data, card, start)
    if kind == "executor":
        # Here: what a run does not use must not be part of what its results were made by.
        from wm_lightning.tasks.roles import measure_roles, prepare_distilled  # noqa: PLC0415

        prepare_distilled(config, data, start)  # by all ranks: the first alone would wait for the others
    if rank_zero_only.rank != 0:
        return None
    caption = f"{config.name}, {data.name}"
    draw_run_curves(Path(config.run_dir), caption)
    target = Path(config.run_dir) / f"{kind}.safetensors"
    file = export(config, best_checkpoint(config), card, target, start)
    if kind == "executor":
        roles = measure_roles(config, data, file, started)
        rewrite_card(target, replace(file.card, metrics=roles.summary()))
        return roles.summary()
    results = evaluate_files(config, data, file, teacher, started)
    draw_run_curves(Path(config.run_dir), caption, results)
    rewrite_card(target, replace(file.card, metrics=card_metrics(results)))
    return summary(results)


def card_metrics(results: Results) -> dict[str, float | int | str | None]:
    """The numbers of the exported network, used as it was trained, for its card."""
    row = results.deployed_row
    assert row is not None
    names = ("psnr", "action_error", "object_error", "presence", "distance", "distance_floor", "excess")
    measured = {name: row.measured(name) for name in (*names, *row.extra)}
    return {"data": results.data, "clips": results.clips, "steps": row.steps, **measured}
