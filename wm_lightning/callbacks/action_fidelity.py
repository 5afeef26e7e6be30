"""Action fidelity at every validation: logged, written down, and loud where actions are ignored."""

import json
import logging
import math
from pathlib import Path
from typing import Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng

from wm_lightning.callbacks.rollout_video import made_by, takes_part
from wm_lightning.clip import Clip
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.metrics.inverse_dynamics import Reader, load_reader, shipped_reader
from wm_lightning.metrics.pinned import Pinned
from wm_lightning.modules.base import WorldModelModule
from wm_lightning.modules.expected_motion import Expected
from wm_lightning.modules.fidelity import Fidelity, Generate, Probes, Ruler, measure_fidelity
from wm_lightning.results.results import write_whole

log = logging.getLogger(__name__)


class ActionFidelity(Callback):
    """Drives the first `clips` validation clips by true, by shuffled and by constant actions, on rank zero.

    `frames` generated frames by true and shuffled actions; `sweep_clips` of the clips for `sweep_frames` frames by
    every probe; motion is learned from `fit_clips` training clips once. `inverse_dynamics` names the network that
    reads actions off videos: a pinned file, `shipped` (that of this data set, where the suite has one), or null. Logs
    `val/action_gap` and its standard error, `val/sweep_gain`, `val/sweep_sign`, `val/null_motion`, `val/recovery`, and
    writes everything by horizon to `<run_dir>/actions`; what is not defined is not logged, and null there. Training is
    not touched.
    """

    def __init__(
        self, *, run_dir: str, clips: int, frames: int, sweep_clips: int, sweep_frames: int, fit_clips: int,
        probes: Probes, inverse_dynamics: Pinned | Literal["shipped"] | None,
    ) -> None:  # fmt: skip
        for key, value, least in (
            ("clips", clips, 2), ("frames", frames, 1), ("sweep_clips", sweep_clips, 1),
            ("sweep_frames", sweep_frames, 1), ("fit_clips", fit_clips, 1),
        ):  # fmt: skip
            if value < least:
                raise ValueError(f"callbacks.action_fidelity.{key}={value} is too small; give {least} or more")
        self.folder = Path(run_dir) / "actions"
        self.clips, self.frames, self.sweep_clips, self.sweep_frames = clips, frames, sweep_clips, sweep_frames
        self.fit_clips, self.probes, self.source = fit_clips, probes, inverse_dynamics
        # A file that is not the pinned one is refused here, before any training.
        self._pinned = load_reader(inverse_dynamics) if isinstance(inverse_dynamics, Pinned) else None
        self._clip: Clip | None = None
        self._ruler: Ruler | None = None
        self._reader: Reader | None = None
        self._expected: tuple[Clip, Expected] | None = None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures the network as it is validated, where the data have actions."""
        assert isinstance(pl_module, WorldModelModule)
        acts = trainer.datamodule.spec.dim > 0  # type: ignore[attr-defined]
        if acts and takes_part(trainer) and not trainer.sanity_checking:
            with isolate_rng():
                found = self.measure(trainer, pl_module)
            for name, value in found.scalars.items():
                if math.isfinite(value) and trainer.is_global_zero:
                    pl_module.log(f"val/{name}", value, rank_zero_only=True)

    def measure(self, trainer: Trainer, module: WorldModelModule) -> Fidelity:
        """What the deployed network does with actions; warns where it is nothing."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, ClipDataModule)
        context = module.context
        if self._clip is None:
            self._clip = next(data.clips("val", self.clips, min(data.val_frames, context + self.frames), self.clips))
        with trainer.precision_plugin.forward_context():
            found = self.measure_on(data, self._clip, context, lambda driven: made_by(module, driven))
        if trainer.is_global_zero:
            self._write(found, module, data)
        if module.trained_for()["action_dropout"]["share"] < 1:  # else no action was ever shown
            warn_if_ignored(found, f"at iteration {module.iterations}")
        return found

    def measure_on(self, data: ClipDataModule, clip: Clip, context: int, generate: Generate) -> Fidelity:
        """What `generate` makes of these clips under true, shuffled and constant actions, `context` frames given."""
        frames = clip.video.shape[1]
        ruler, swept = self.prepare(data, frames), min(self.sweep_frames, frames - context)
        if (
            self._expected is None or self._expected[0] is not clip
        ):  # the clips of a training's validations are the same
            self._expected = clip, ruler.expect(clip, context, swept)
        return measure_fidelity(
            generate, clip, context=context, ruler=ruler, sweep_clips=self.sweep_clips, sweep_frames=swept,
            reader=self._reader, expected=self._expected[1],
        )  # fmt: skip

    def prepare(self, data: ClipDataModule, frames: int) -> Ruler:
        """Learns once what motion actions stand for, from real clips of `frames` frames, and finds the reader.

        Raises ValueError where probes or reader are not for these data.
        """
        if self._ruler is None:
            self._reader = shipped_reader(data.name, data) if self.source == "shipped" else self._pinned
            if self._reader is not None and (wrong := self._reader.trained.differences_from(data)):
                raise ValueError(f"callbacks.action_fidelity.inverse_dynamics was trained on {'; '.join(wrong)}")
            self._ruler = Ruler.of(data, self.probes, clips=self.fit_clips, frames=frames)
        return self._ruler

    def _write(self, found: Fidelity, module: WorldModelModule, data: ClipDataModule) -> None:
        mark = "_simulated" if data.simulated else ""
        path = self.folder / f"iteration_{module.iterations:06d}{mark}.json"
        where = {"data": data.name, "iteration": module.iterations, "ignored": found.ignored}
        write_whole(path, json.dumps(where | dict(found.report), indent=2, allow_nan=False) + "\n")


def warn_if_ignored(found: Fidelity, when: str) -> None:
    """Says loudly that actions are ignored, or that this cannot be told."""
    gap, error = found.scalars["action_gap"], found.scalars["action_gap_error"]
    if found.ignored is None:
        log.warning("Whether actions are followed cannot be told from fewer than two clips: there are no more")
    elif found.ignored:
        log.warning(
            "ACTIONS ARE IGNORED %s: another clip's actions change the squared error by %.3g, standard error %.3g; "
            "a model that follows actions has a gap above two standard errors. See docs/evaluation.md",
            when, gap, error,
        )  # fmt: skip
