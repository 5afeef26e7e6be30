"""Every experiment, from training to rollout, at the smallest size; both worlds, real clips, every logger."""

import csv
import json
from pathlib import Path
from typing import Any

import av
import pytest
import torch

from tests.system.conftest import QUICK, Run, fast
from wm_lightning.checkpoint_io import AtomicCheckpointIO
from wm_lightning.config import CONFIG_DIR, compose, grid_points
from wm_lightning.config_check import check
from wm_lightning.tasks.preflight import check_training

ALL = sorted(path.stem for path in (CONFIG_DIR / "experiment").glob("*.yaml"))
# Executors are trained on tasks and have a table of their own: test_executors.py.
EXECUTORS = [name for name in ALL if name.startswith("wmsd_") and name != "wmsd_base"]
EXPERIMENTS = [name for name in ALL if name not in EXECUTORS]
GRIDS = sorted(path.stem for path in (CONFIG_DIR.parent / "sweeps/ablation").glob("*.yaml"))
# The chain of these is run in the slow tier, the training of those, which do what no other and no command of the README
# does; the others, which share all but a loss or a start with them, are trained at night.
WHOLE = ("teacher", "dmd_chunkwise")
TRAINED = ("dmd_causal_ode", "dmd_self_forcing", "vid2world_dmd", "wmsd_base")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for commands that are only composed and built."""
    return tmp_path_factory.mktemp("built")


def built(words: list[str], cache: Path, folder: Path) -> None:
    """Composes, checks every key, and builds every part of a training without memory, data included."""
    config = compose([*words, f"cache_dir={cache}", f"run_dir={folder / 'run'}"])
    check(config)
    check_training(config)
    assert not (folder / "run").exists(), "something was written before the training began"


@pytest.mark.parametrize("experiment", ALL)
def test_every_experiment_can_be_built(experiment: str, shared: Path, tmp_path: Path) -> None:
    built([f"experiment={experiment}", "size=debug"], shared, tmp_path)


@pytest.mark.parametrize("experiment", fast(len(WHOLE), [*WHOLE, *(name for name in EXPERIMENTS if name not in WHOLE)]))
def test_every_experiment_can_be_built_for_the_pusher(experiment: str, shared: Path, tmp_path: Path) -> None:
    built([f"experiment={experiment}", "size=debug", "data=rt1"], shared, tmp_path)


@pytest.mark.parametrize("grid", GRIDS)
def test_the_first_point_of_every_grid_can_be_built(grid: str, shared: Path, tmp_path: Path) -> None:
    """All of them are composed by test_config_files.py."""
    built([f"ablation={grid}", "size=debug", *grid_points(grid)[0]], shared, tmp_path)


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def frames_of(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def trained(run: Run, folder: Path, words: list[str]) -> dict[str, Any]:
    """Trains, and looks at all that a run leaves. Returns the results."""
    said = run(*words, f"run_dir={folder}").must_succeed().out
    assert "val/score" in said and "Measured teacher, " in said, "a log file does not tell how far it is"
    config = compose(words, with_hydra=True)
    kind, data = "student" if "teacher" in config.module else "teacher", config.hydra.runtime.choices.data
    left = ("results.md", "rollouts.gif", "rollouts.png", "config.yaml", "environment.json", f"{kind}.safetensors")
    for name in left:
        assert (folder / name).stat().st_size > 0, name
    modes = {oct((folder / name).stat().st_mode) for name in ("results.md", f"{kind}.safetensors")}
    assert len(modes) == 1, f"the export is not as readable as the rest: {modes}"
    hashes = {json.loads((folder / name).read_text())["config_hash"] for name in ("environment.json", "results.json")}
    assert len(hashes) == 1, "one run, two hashes of its config"
    content = AtomicCheckpointIO().load_checkpoint(folder / "checkpoints/last.ckpt")
    assert f"conf/data/{data}.yaml" in results(folder)["extra"]["code"], "its data ages it"
    assert content["card"]["kind"] == kind and content["card"]["iterations"] > 0
    assert all(bool(torch.isfinite(value).all()) for value in content["state_dict"].values())
    found = results(folder)
    assert {"teacher", "baseline"} | ({"student", "control"} if kind == "student" else set()) <= {
        row["role"] for row in found["rows"]
    }
    for row in found["rows"]:
        assert row["psnr"] is not None or row["reasons"]["psnr"], "a number is missing without a reason"
    return found


def continued(run: Run, folder: Path, words: list[str]) -> None:
    """The finished run continued is through at once, and says from where it went on."""
    before = AtomicCheckpointIO().load_checkpoint(folder / "checkpoints/last.ckpt")
    log = run(*words, f"run_dir={folder}", "ckpt_path=last").must_succeed()
    after = AtomicCheckpointIO().load_checkpoint(folder / "checkpoints/last.ckpt")
    assert f"Continuing {folder}/checkpoints/last.ckpt" in log.out
    assert before["card"]["iterations"] == after["card"]["iterations"]


def used(run: Run, folder: Path, place: Path, frames: int) -> None:
    """Evaluates and rolls out the checkpoint, by nothing but its path."""
    checkpoint = f"ckpt_path={folder / 'checkpoints/last.ckpt'}"
    record = (folder / "config.yaml").read_bytes()
    run("task=evaluate", checkpoint, f"run_dir={place / 'evaluated'}").must_succeed()
    tables = [results(at)["rows"] for at in (folder, place / "evaluated")]
    ours, theirs = ([(row["role"], row["steps"]) for row in rows] for rows in tables)
    assert ours == theirs
    # Into the training's own folder, whose record stays what it was.
    run("task=rollout", checkpoint, f"run_dir={folder}", "task.count=2", f"task.frames={frames}").must_succeed()
    assert (folder / "config.yaml").read_bytes() == record
    mark = "_simulated" if results(folder)["data"] == "simulated" else ""
    assert frames_of(folder / f"rollouts/clip_001{mark}.mp4") == frames
    assert (folder / f"rollouts/clips{mark}.gif").stat().st_size > 0


@pytest.mark.slow
def test_the_whole_chain(run: Run, tmp_path: Path) -> None:
    """On the pusher; the main job is the world map's."""
    words = ["experiment=dmd_chunkwise", "data=rt1", *(word for word in QUICK if "action_fidelity" not in word)]
    found = trained(run, tmp_path / "run", words)
    assert list((tmp_path / "run/actions").glob("iteration_*_simulated.json"))
    assert found["data"] == "simulated" and "simulated" in (tmp_path / "run/results.md").read_text()
    assert all(row["action_error"] is not None for row in found["rows"] if "psnr" not in row["reasons"])
    continued(run, tmp_path / "run", words)
    used(run, tmp_path / "run", tmp_path, frames=15)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", TRAINED)
def test_every_experiment_trains(run: Run, tmp_path: Path, experiment: str) -> None:
    trained(run, tmp_path / "run", [f"experiment={experiment}", *QUICK, "module.iterations=3"])


@pytest.mark.nightly
@pytest.mark.parametrize("data", ["worldmap", "rt1"])
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_whole_chain_of_every_experiment(run: Run, tmp_path: Path, experiment: str, data: str) -> None:
    words = [f"experiment={experiment}", f"data={data}", "size=debug"]
    trained(run, tmp_path / "run", words)
    continued(run, tmp_path / "run", words)
    # A bidirectional network makes a whole clip at once, none longer than it was trained on.
    used(run, tmp_path / "run", tmp_path, frames=13 if experiment == "vid2world_base" else 15)


@pytest.mark.slow
@pytest.mark.real
def test_real_clips(run: Run, real_data: Path, tmp_path: Path) -> None:
    """Teacher and student on real robot clips: trained, rolled out, and said to be real."""
    root = real_data / "oxe_mp4"
    words = ["experiment=dmd_chunkwise", "data=rt1", f"data.root={root}", "data.subset=bridge", *QUICK]
    words.append("metrics.minimum=128")  # as in a run that counts; the smallest size asks for four clips
    before = sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*"))
    found = trained(run, tmp_path / "run", words)
    assert found["data"] == "real"
    for row in found["rows"]:
        assert row["action_error"] is None and row["reasons"]["action_error"]
        assert row["distance"] is None and row["reasons"]["distance"], "one test clip has no distribution"
    assert "simulated" not in (tmp_path / "run/results.md").read_text()
    used(run, tmp_path / "run", tmp_path, frames=13)
    assert sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*")) == before


@pytest.mark.parametrize(
    "logger", [pytest.param("wandb", marks=pytest.mark.slow), pytest.param("tensorboard", marks=pytest.mark.nightly)]
)
def test_loggers(run: Run, tmp_path: Path, logger: str) -> None:
    shown = [word for word in QUICK if "rollout_video" not in word]
    words = ["experiment=teacher", *shown, f"logger={logger}", "trainer.log_every_n_steps=1"]
    folder = tmp_path / "run"
    run(*words, f"run_dir={folder}", folder=tmp_path, WANDB_SILENT="true").must_succeed()
    with (folder / "csv/version_0/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len([row for row in rows if row["train/loss"]]) == 4
    assert len([row for row in rows if row["val/score"]]) == 2
    if logger == "tensorboard":
        assert list((folder / "tensorboard").glob("events.out.*"))
    if logger == "wandb":
        [offline] = (folder / "wandb").glob("offline-run-*")
        assert list(offline.glob("*.wandb")) and list(offline.rglob("*.mp4"))
    assert frames_of(next((folder / "rollouts").glob("iteration_000004*.mp4"))) == 13
