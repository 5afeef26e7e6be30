"""The command line as a user meets it."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from tests.system.conftest import Done, Run
from tests.system.server import ROOT

Own = Callable[..., Done]


@pytest.fixture
def own(run: Run, project: Path) -> Own:
    """Runs the `run.py` of the small project in its folder."""
    return lambda *words: run(*words, folder=project, script=project / "run.py")


def start(folder: Path, *words: str, flags: tuple[str, ...] = (), **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    command = [sys.executable, *flags, "run.py", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def record(folder: Path) -> dict:
    return yaml.safe_load((folder / "config.yaml").read_text())


@pytest.mark.parametrize("words", [["--help"], ["--cfg", "job"], ["-sc", "install=bash"]])
def test_answers_without_loading_torch(words: list[str]) -> None:
    done = start(ROOT, *words, flags=("-X", "importtime"))
    assert done.returncode == 0, done.stderr
    loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "hydra" in loaded and not {"torch", "lightning", "numpy"} & loaded


def test_help_names_groups_with_what_they_mean() -> None:
    text = start(ROOT, "--help").stdout
    for words in ("  trainer\n", "ddp ", "One process on the CPU", "--cfg job", "ckpt_path=last"):
        assert words in text
    assert not re.search(r"^\s*_base", text, re.MULTILINE)
    assert not re.search(r"\b(alg|eqs?|fig)$", text, re.MULTILINE), "cut after an abbreviation"
    assert "the indices 999, 979, ... 19, with fresh noise at each\n" in text


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("sead=3", "did you mean seed?"),
        ("trainer=cup", "did you mean cpu?"),
        ("seed=many", "seed"),
        ("a=[", "cannot be read as key=value"),
        ("ablation=a,b", "several grids"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(word: str, said: str) -> None:
    done = start(ROOT, word)
    assert done.returncode == 2
    assert said in done.stderr and "Traceback" not in done.stderr


def test_a_mistyped_key_in_a_file_stops_the_run_before_it_makes_anything(own: Own, project: Path) -> None:
    path = project / "conf/trainer/cpu.yaml"
    path.write_text(path.read_text().replace("  precision:", "  precison:"))
    done = own()
    assert done.code == 2
    assert "did you mean precision?" in done.err and "Traceback" not in done.err
    assert not list(project.glob("logs/**/config.yaml"))


def test_a_run_folder_holds_the_resolved_config_and_no_keys(own: Own, project: Path) -> None:
    (project / ".env").write_text("SERVICE_API_KEY=from-the-env-file\n")
    done = own("experiment=claim", "trainer=cpu", "+data.note='${oc.env:SERVICE_API_KEY}'")
    assert done.code == 0, done.err
    assert "CPU settings:" in done.out
    (folder,) = project.glob("logs/claim/*")
    assert record(folder)["data"]["note"] == "<environment: SERVICE_API_KEY>"
    assert record(folder)["run_dir"] == str(folder)
    assert yaml.safe_load((folder / "overrides.yaml").read_text())[0] == "experiment=claim"
    assert not any("from-the-env-file" in path.read_text() for path in folder.rglob("*") if path.is_file())


def test_a_grid_runs_every_point_in_its_own_folder_over_every_file(own: Own, project: Path) -> None:
    done = own("ablation=widths", "experiment=claim", "size=debug", "trainer=cpu")
    assert done.code == 0, done.err
    points = [record(folder.parent) for folder in sorted(project.glob("logs/widths/*/*/config.yaml"))]
    assert [point["network"]["width"] for point in points] == [7, 8]
    assert len({point["run_dir"] for point in points}) == 2
    assert {point["seed"] for point in points} == {11}


@pytest.mark.slow
def test_a_sweep_of_a_users_own(own: Own, project: Path) -> None:
    done = own("-m", "seed=1,2")
    assert done.code == 0, done.err
    assert sorted(record(path.parent)["seed"] for path in project.glob("logs/run/*/*/config.yaml")) == [1, 2]


@pytest.mark.slow
def test_a_named_folder_is_used_as_it_is(own: Own, project: Path) -> None:
    assert own("run_dir=here", "ckpt_path=last").code == 0
    assert record(project / "here")["run_dir"] == str(project / "here")


def test_a_task_on_a_checkpoint_takes_the_overrides_saved_in_it(own: Own, project: Path) -> None:
    saved = ["experiment=claim", "trainer=cpu", "network.width=6", "ablation=widths", "run_dir=old"]
    torch.save({"provenance": {"overrides": saved}}, project / "model.ckpt")
    done = own("task=train", "ckpt_path=model.ckpt", "seed=4", "run_dir=new")
    assert done.code == 0, done.err
    config = record(project / "new")
    assert (config["name"], config["network"]["width"], config["seed"]) == ("claim", 6, 4)


def test_a_checkpoint_that_is_not_there(own: Own, project: Path) -> None:
    done = own("task=train", "ckpt_path=absent.ckpt")
    assert done.code == 2
    assert "absent.ckpt" in done.err and "Traceback" not in done.err


@pytest.mark.slow
def test_what_does_not_fit_is_told_without_encoders_data_or_an_autoencoder(run: Run) -> None:
    words = ["network.channels=4", "network.height=8", "network.width=16", "network.tokens=8", "estimate.usable=0.0001"]
    resampler = [f"network.resampler.{word}" for word in ("dim=8", "depth=1", "heads=1")]
    done = run(
        "experiment=vid2world_base",
        "data=rt1",
        "encoders=openclip",
        "task=estimate",
        "data.frames=3",
        *words,
        *resampler,
    ).must_succeed()
    assert re.search(r"vid2world_base needs about .* (what would fit|no smaller batch or size)", done.out + done.err)
