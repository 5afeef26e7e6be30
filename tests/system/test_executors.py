"""Executors at the smallest size: base on films, training, table of roles, and a checkpoint that says what it is."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.system.conftest import QUICK, Run
from tests.system.test_experiments import EXECUTORS
from wm_lightning.checkpoint_io import AtomicCheckpointIO
from wm_lightning.checkpoints import read_card, read_network
from wm_lightning.config import compose
from wm_lightning.tasks.preflight import check_training

ROLES = ["base", "vlm", "demonstrator", "distilled", "executor"]


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["role"]: row for row in json.loads((folder / "results.json").read_text())["rows"]}


def trained(run: Run, folder: Path, *words: str) -> dict[str, dict[str, Any]]:
    said = run(*words, "size=debug", f"run_dir={folder}").must_succeed().out
    assert "val/score" in said and "Measuring the executor" in said
    for name in ("results.md", "rollouts.gif", "rollouts.png", "executor.safetensors", "curves.png"):
        assert (folder / name).stat().st_size > 0, name
    content = AtomicCheckpointIO().load_checkpoint(folder / "checkpoints/last.ckpt")
    assert content["card"]["kind"] == "executor" and content["card"]["iterations"] == 2
    assert all(bool(torch.isfinite(value).all()) for value in content["state_dict"].values())
    return rows(folder)


@pytest.mark.slow
def test_the_whole_chain_of_an_executor(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    found = trained(run, folder, "experiment=wmsd_full")
    assert list(found) == ROLES
    for row in found.values():
        assert row["n"] == row["valid"] == 8 and 0 <= row["task"] <= 1 and row["seconds"] > 0
        low, high = row["intervals"]["task"]
        assert 0 <= low <= row["task"] <= high <= 1
    assert set(found["executor"]["gains"]) == set(ROLES) - {"executor"}
    assert set(read_card(folder / "executor.safetensors").metrics) == {"task", "agent", "consistency"}
    log = run("experiment=wmsd_full", "size=debug", f"run_dir={folder}", "ckpt_path=last").must_succeed()
    assert f"Continuing {folder}/checkpoints/last.ckpt" in log.out
    run(
        "task=evaluate", f"ckpt_path={folder / 'checkpoints/last.ckpt'}", f"run_dir={tmp_path / 'again'}"
    ).must_succeed()
    again = rows(tmp_path / "again")
    rates = [{name: one[role][name] for role in ROLES for name in ("task", "agent")} for one in (found, again)]
    assert rates[0] == rates[1]
    start = f"module.start={folder / 'executor.safetensors'}"
    further = trained(run, tmp_path / "further", "experiment=wmsd_full", start, "metrics.distilled=null")
    assert all(further["base"][name] == found["executor"][name] for name in ("task", "agent", "consistency"))


@pytest.mark.nightly
def test_teacher_student_and_executor_are_three_commands(run: Run, tmp_path: Path) -> None:
    """Each is told the file of the one before, and what it is not made for is refused before anything is trained."""
    teacher, student = tmp_path / "one/teacher.safetensors", tmp_path / "two/student.safetensors"
    run("experiment=teacher", "data=rt1", *QUICK, f"run_dir={teacher.parent}").must_succeed()
    named = f"module.teacher.ckpt_path={teacher}"
    run("experiment=dmd_whole", "data=rt1", *QUICK, named, f"run_dir={student.parent}").must_succeed()
    found = trained(run, tmp_path / "three", "experiment=wmsd_action", f"module.start={student}")
    assert list(found) == [role for role in ROLES if role != "vlm"]
    assert all(row["n"] == row["valid"] == 8 for row in found.values())
    cards = [read_card(path) for path in (student, tmp_path / "three/executor.safetensors")]
    assert cards[0].trained_for["teacher"] == read_network(teacher, cards[0]).sha256
    assert cards[1].trained_for["start"] == read_network(student, cards[0]).sha256
    deaf = ("experiment=dmd_whole", "data=rt1", *QUICK, named, "module.action_dropout=null")
    run(*deaf, f"run_dir={tmp_path / 'deaf'}").must_succeed()
    refused = run("experiment=wmsd_action", "size=debug", f"module.start={tmp_path / 'deaf/student.safetensors'}")
    assert refused.code == 2 and "told its goal with all actions dropped" in refused.err, refused.err


@pytest.mark.nightly
@pytest.mark.parametrize(
    "words",
    [
        *(
            ["surrogate=grpo", f"sampler={sampler}", "sampler.steps.steps=5"]
            for sampler in ("cps", "flow_sde", "dance_sde")
        ),
        ["surrogate=nft"],
        ["advantage=weighted_sum"],
    ],
    ids=str,
)
def test_every_surrogate_sampler_and_advantage_trains(run: Run, tmp_path: Path, words: list[str]) -> None:
    trained(run, tmp_path / "run", "experiment=wmsd_rl_only", "metrics.distilled=null", *words)


@pytest.mark.nightly
@pytest.mark.parametrize("experiment", EXECUTORS)
def test_every_executor_trains(run: Run, tmp_path: Path, experiment: str) -> None:
    trained(run, tmp_path / "run", f"experiment={experiment}")


@pytest.mark.nightly
def test_what_an_iteration_saves_is_measured(run: Run, tmp_path: Path) -> None:
    run("task=bench", "experiment=wmsd_full", "size=debug", f"run_dir={tmp_path}").must_succeed()
    report = json.loads((tmp_path / "bench.json").read_text())
    found = {entry["name"]: entry["ratio"] for entry in report["comparisons"]}
    assert list(found)[0] == "whole iteration" and {"judging", "levels", "old policy"} < set(found)
    assert "rollouts without advantage (assumed: 50 %)" in found and report["settings"]["without_advantage"] == 0.5
    assert all(ratio > 0 for ratio in found.values())


def test_an_executor_without_tasks_is_refused(run: Run, tmp_path: Path) -> None:
    failed = run("experiment=wmsd_full", "size=debug", "data=rt1", f"run_dir={tmp_path / 'run'}")
    assert failed.code == 2 and "set data=world_tasks" in failed.err and "Traceback" not in failed.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["experiment=wmsd_sft", "data=world_tasks"], "set data=labelled_films"),
        (["experiment=wmsd_full", "data=labelled_films"], "set data=world_tasks"),
        (
            ["experiment=wmsd_sft", "data=labelled_videos", "data.films=/tmp", "data.frames=3"],
            "module.frames=5 must be equal",
        ),
        (
            [
                "experiment=wmsd_sft",
                "metrics.distilled={_target_: wm_lightning.tasks.roles.Distilled, algorithm: null, iterations: 1}",
            ],
            "metrics.distilled learns from solut",
        ),
    ],
    ids=str,
)
def test_films_and_what_learns_from_them_go_together(words: list[str], said: str, tmp_path: Path) -> None:
    config = compose([*words, "size=debug", f"cache_dir={tmp_path}", f"run_dir={tmp_path / 'run'}"])
    with pytest.raises(ValueError, match=said):
        check_training(config)


@pytest.mark.nightly
@pytest.mark.parametrize("experiment", ["wmsd_lora", "wmsd_ltx2", "wmsd_hunyuan15"])
def test_executors_of_adapters_are_exported_whole(run: Run, tmp_path: Path, experiment: str) -> None:
    folder, brief = tmp_path / "run", ("metrics.distilled=null", "metrics.writer=null")
    found = trained(run, folder, f"experiment={experiment}", *brief)
    content = AtomicCheckpointIO().load_checkpoint(folder / "checkpoints/last.ckpt")
    of_network = [name for name in content["state_dict"] if "network." in name]
    assert of_network and all(".lora_" in name for name in of_network)
    words = ("task=evaluate", f"ckpt_path={folder / 'checkpoints/best.ckpt'}", f"run_dir={tmp_path / 'again'}")
    run(*words).must_succeed()
    again = rows(tmp_path / "again")
    assert {role: row["task"] for role, row in again.items()} == {role: row["task"] for role, row in found.items()}
