"""Who hands out points looks at the grid as the one before has left it; and what is not handed out at all."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.wm_launchers import SlurmGrid
from tests.launchers.making import grid, launched
from wm_lightning.config_errors import ConfigError
from wm_lightning.launchers import manifest, slurm
from wm_lightning.launchers.local import start_local
from wm_lightning.launchers.manifest import Launch, Point, Process, Sweep, note
from wm_lightning.launchers.plan import Planned
from wm_lightning.launchers.slurm import hand_over, hand_over_again
from wm_lightning.tasks import sweep as task
from wm_lightning.tasks.sweep import Relaunch

HERE = Process.of(os.getpid())
ASKED = {"nodes": None, "ntasks_per_node": None, "parallel": None, "notice": 90, "setup": (), "options": {}}
LOADER = Mock(spec=ConfigLoader)
Busy = Callable[[Callable[[], object]], None]


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> Busy:
    """Has somebody else hold the lock first, and do `meanwhile` before it is free."""

    def wait_for(meanwhile: Callable[[], object]) -> None:
        class Lock:
            def __init__(self, _path: Path) -> None: ...

            def __enter__(self) -> None:
                meanwhile()

            def __exit__(self, *_: object) -> None: ...

        monkeypatch.setattr(manifest, "FileLock", Lock)

    return wait_for


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[Point]:
    """The points that Slurm gets, which is there."""
    points: list[Point] = []
    monkeypatch.setattr(slurm, "check", lambda _: None)
    monkeypatch.setattr(slurm, "_need_sbatch", lambda: None)
    monkeypatch.setattr(slurm, "submit", lambda _, found, __: points.extend(found) or "1")
    return points


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Point]:
    """The points that task=sweep runs, which end well."""
    points: list[Point] = []
    monkeypatch.setattr(task, "run_again", lambda _, found: points.extend(found) or [])
    return points


def taken(folder: Path) -> Sweep:
    """The grid after this process was asked to run all of it."""
    return launched(Sweep.load(folder), "local", by=HERE)


def planned(folder: Path) -> list[Planned]:
    config = OmegaConf.create({"trainer": {"devices": 1}})
    return [Planned(point, config) for point in grid(folder).points]


def relaunch(folder: Path, *, lost: bool = False) -> dict[str, float]:
    return Relaunch(resume=str(folder), here=False, lost=lost)(DictConfig({}))


def test_a_point_that_somebody_took_meanwhile_is_not_run(tmp_path: Path, busy: Busy, ran: list[Point]) -> None:
    grid(tmp_path)
    busy(lambda: taken(tmp_path))
    relaunch(tmp_path)
    assert not ran and len(Sweep.load(tmp_path).launches) == 1


def test_a_point_that_somebody_took_meanwhile_is_not_submitted(
    tmp_path: Path, busy: Busy, submitted: list[Point]
) -> None:
    grid(tmp_path)
    busy(lambda: taken(tmp_path))
    config = DictConfig({"task": {"resume": str(tmp_path), "lost": False}})
    hand_over_again(LOADER, config, ASKED, dry_run=False)
    assert not submitted


@pytest.mark.parametrize("by_slurm", [False, True])
def test_a_grid_that_somebody_began_meanwhile_is_left_alone(
    tmp_path: Path, busy: Busy, submitted: list[Point], by_slurm: bool
) -> None:
    points = planned(tmp_path / "other")
    busy(lambda: launched(grid(tmp_path / "grid"), "local", by=HERE))
    with pytest.raises(ConfigError, match="holds a grid already"):
        if by_slurm:
            hand_over(tmp_path / "grid", points, 0, ASKED, dry_run=False)
        else:
            start_local(tmp_path / "grid", points, 0)
    assert not submitted
    assert [launch.by for launch in Sweep.load(tmp_path / "grid").launches] == [HERE]


def test_a_grid_whose_machine_is_gone_is_finished_where_the_user_says_so(tmp_path: Path, ran: list[Point]) -> None:
    gone = Process("elsewhere", 71, None)
    sweep = launched(grid(tmp_path), "local", by=gone)
    note(tmp_path / "0", "done")
    with pytest.raises(ConfigError, match="1, 2, 3 .*elsewhere.*task.lost=true"):
        relaunch(tmp_path)
    assert not ran
    relaunch(tmp_path, lost=True)
    assert ran == list(sweep.points[1:])


def test_the_same_by_slurm(tmp_path: Path, submitted: list[Point]) -> None:
    sweep = grid(tmp_path, 1)
    sweep.launched(Launch((0,), time.time(), "local", by=Process("elsewhere", 71, None)))
    composed = OmegaConf.create({"trainer": {"devices": 1}})
    loader = Mock(spec=ConfigLoader, load_sweep_config=lambda *_: composed)
    content = {
        "task": {"resume": str(tmp_path), "lost": False},
        "hydra": {"runtime": {"choices": {"launcher": "slurm"}}},
    }
    with pytest.raises(ConfigError, match="task.lost=true"):
        hand_over_again(loader, DictConfig(content), ASKED, dry_run=False)
    content["task"]["lost"] = True
    hand_over_again(loader, DictConfig(content), ASKED, dry_run=False)
    assert submitted == list(sweep.points)


def test_slurm_takes_no_grid_whose_points_are_chosen_by_results() -> None:
    launcher = SlurmGrid(dry_run=True, nodes=1, ntasks_per_node=1, parallel=None, notice=90, setup=(), options={})
    context = Mock(spec=HydraContext, config_loader=LOADER)

    def begin(sweeper: str) -> None:
        config = OmegaConf.create({"hydra": {"sweeper": {"_target_": sweeper}}})
        launcher.setup(hydra_context=context, task_function=lambda _: None, config=config)

    begin(f"{BasicSweeper.__module__}.{BasicSweeper.__qualname__}")
    with pytest.raises(ConfigError, match="OptunaSweeper chooses the next; .* launcher=local"):
        begin("hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper")
