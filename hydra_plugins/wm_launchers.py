"""The launchers of grids, where Hydra looks for them: it takes plugins from packages of this name alone.

Hydra reads this file at every start, so that what a launcher needs is imported when it is used.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

_SWEEP = "wm_lightning.tasks.sweep.Relaunch"

for name, kind in (("wm_local", "LocalGrid"), ("wm_slurm", "SlurmGrid")):
    ConfigStore.instance().store(
        group="hydra/launcher", name=name, node={"_target_": f"{__name__}.{kind}"}, provider="wm_lightning"
    )


class LocalGrid(BasicLauncher):
    """`launcher=local`: the points one after the other in this process, with a manifest and a diary for each."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs the points; one that fails does not keep the others from running."""
        from wm_lightning.launchers.local import noting, start_local  # noqa: PLC0415
        from wm_lightning.launchers.plan import plan  # noqa: PLC0415

        if "LOCAL_RANK" in os.environ:  # another rank of a point: the first keeps the diary
            return super().launch(job_overrides, initial_job_idx)
        assert self.config is not None and self.hydra_context is not None and self.task_function is not None
        planned = plan(self.hydra_context.config_loader, self.config, job_overrides, initial_job_idx)
        sweep = start_local(Path(str(self.config.hydra.sweep.dir)), planned, initial_job_idx)
        task, self.task_function = self.task_function, noting(self.task_function, sweep)
        try:
            return super().launch(job_overrides, initial_job_idx)
        finally:
            self.task_function = task


class SlurmGrid(Launcher):
    """`launcher=slurm`: the points as one array of jobs; it submits them and returns.

    Of `task=sweep` it submits not the task, but the points that are left to do.
    """

    def __init__(
        self,
        *,
        dry_run: bool,
        nodes: int | None,
        ntasks_per_node: int | None,
        parallel: int | None,
        notice: int,
        setup: Sequence[str],
        options: Mapping[str, Any],
    ) -> None:
        self.dry_run = dry_run
        self.asked = {
            "nodes": nodes, "ntasks_per_node": ntasks_per_node, "parallel": parallel, "notice": notice,
            "setup": tuple(setup), "options": dict(options),
        }  # fmt: skip

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keeps what Hydra gives; the task runs elsewhere. Raises ConfigError for a sweeper that needs results."""
        from wm_lightning.launchers.plan import need_no_results  # noqa: PLC0415

        need_no_results(config)
        self.loader, self.config = hydra_context.config_loader, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submits the points, or prints their batch script; returns no results, which do not exist yet."""
        from wm_lightning.launchers.plan import left_nothing, plan  # noqa: PLC0415
        from wm_lightning.launchers.slurm import hand_over, hand_over_again  # noqa: PLC0415

        folder = Path(str(self.config.hydra.sweep.dir))
        try:
            if self.config.task.get("_target_") == _SWEEP:
                hand_over_again(self.loader, self.config, self.asked, dry_run=self.dry_run)
            else:
                planned = plan(self.loader, self.config, job_overrides, initial_job_idx)
                hand_over(folder, planned, initial_job_idx, self.asked, dry_run=self.dry_run)
        finally:
            left_nothing(folder)
        return []
