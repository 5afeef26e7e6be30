"""task=train: data, teacher, training, results."""

import logging
import time

from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig

from wm_lightning.checkpoints import read_network
from wm_lightning.results.curves import draw_curves
from wm_lightning.tasks.build import build_card, build_data
from wm_lightning.tasks.evaluate import evaluate_files, summary
from wm_lightning.tasks.fit import best_checkpoint, fit
from wm_lightning.tasks.teachers import prepare_teacher

log = logging.getLogger(__name__)


def train(config: DictConfig) -> dict[str, float] | None:
    """Trains what the experiment says, measures the best checkpoint, and leaves the results in the run folder."""
    started = time.time()
    data = build_data(config)
    teacher = prepare_teacher(config, data) if "teacher" in config.module else None
    card = build_card(config, data, "teacher" if teacher is None else "student")
    fit(config, data, card, teacher)
    if rank_zero_only.rank != 0:
        return None
    best = best_checkpoint(config)
    log.info("Measuring %s", best)
    results = evaluate_files(config, data, read_network(best, card), teacher, started)
    return summary(results)
