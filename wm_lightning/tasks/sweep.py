"""task=sweep: the failed and missing points of a grid once more, on this machine (by Slurm: launchers/slurm.py)."""

import logging
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from wm_lightning.config_errors import ConfigError
from wm_lightning.launchers.local import begin_local, run_again
from wm_lightning.launchers.manifest import held
from wm_lightning.launchers.states import left, standings, summary

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Relaunch:
    """The task. `resume` is the folder of a grid; `here` runs points on this machine that were submitted to Slurm.

    `lost` runs those, too, of which nobody here can tell whether they are at work: their machine is gone for good.
    """

    resume: str | None
    here: bool
    lost: bool

    def __call__(self, config: DictConfig) -> dict[str, float]:
        """Runs what is left to do and returns how many points the grid has and how many are done.

        Raises ConfigError where there is no grid, where its points were Slurm's, where nobody here can tell what became
        of some, or where some have failed again.
        """
        if self.resume is None:
            raise ConfigError("task=sweep goes on with a grid; name its folder: task.resume=logs/NAME/DATE")
        with held(Path(self.resume)) as sweep:
            found = standings(sweep)
            log.info("%s", summary(found))
            points = left(found, lost=self.lost)
            if points and not self.here and any(launch.kind == "slurm" for launch in sweep.launches):
                raise ConfigError(
                    f"the grid in {sweep.folder} was submitted to Slurm; go on with it by launcher=slurm, or run its "
                    f"{len(points)} points on this machine by task.here=true"
                )
            sweep = begin_local(sweep, points) if points else sweep
        failed = run_again(sweep, points)
        if failed:
            numbers = ", ".join(str(point.number) for point in failed)
            raise ConfigError(f"{len(failed)} of {len(points)} points failed: {numbers}; see run.log in their folders")
        done = sum(entry.state == "done" for entry in standings(sweep))
        return {"points": float(len(sweep.points)), "done": float(done)}
