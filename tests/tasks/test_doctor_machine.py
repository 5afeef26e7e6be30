"""What the doctor says of a machine, and what it refuses."""

from importlib import metadata
from pathlib import Path

import pytest
from rich.console import Console

from wm_lightning.config import compose
from wm_lightning.tasks.doctor_machine import decoders, disk, examine_machine, keys, packages, slurm


def test_this_machine_is_sound(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = compose(["experiment=teacher", "trainer=cpu", f"run_dir={tmp_path / 'run'}", f"cache_dir={tmp_path}"])
    assert examine_machine(Console(width=160), config) == []
    said = capsys.readouterr().out
    for words in ("Python", "torch", "GPUs", "Slurm", "run_dir", "cache_dir", "h264"):
        assert words in said
    assert not (tmp_path / "run").exists(), "looking makes nothing"


def test_versions_outside_of_the_declared_ones_are_named() -> None:
    assert packages([]).fault is None and packages(["torch>=1", 'nowhere; python_version < "3"']).fault is None
    torch = metadata.version("torch")
    wrong = packages([f"torch!={torch}", "surely-not-installed>=2", "judge-only; extra == 'judge'"]).fault
    assert wrong is not None and f"torch is {torch}, wanted !={torch}" in wrong and "judge-only" not in wrong
    assert "surely-not-installed is absent, wanted >=2" in wrong


def test_the_declared_versions_leave_out_those_known_to_be_bad() -> None:
    declared = {line for line in metadata.requires("wm_lightning") or [] if "extra" not in line}
    for line in ("lightning", "omegaconf", "hydra-core", "torch"):
        assert any(requirement.startswith(line) and "<" in requirement for requirement in declared), line
    (lightning,) = [line for line in declared if line.startswith("lightning")]
    # 2.6.2 and 2.6.3 were published by somebody else, with malware; 2.6.6 mends two ways of running a file's code.
    assert ">=2.6.6" in lightning and packages([lightning]).fault is None


def test_a_job_needs_a_task_for_every_process() -> None:
    config = compose(["trainer=ddp", "trainer.devices=4", "+trainer.num_nodes=2"])
    job = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1"}
    assert slurm(config, job | {"SLURM_NTASKS": "8"}).fault is None and slurm(config, {}).fault is None
    fault = slurm(config, job).fault
    assert fault is not None and "8 processes" in fault and "--ntasks=8" in fault


def test_no_room_and_no_decoder_are_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert disk("cache_dir", tmp_path / "deep/down").said.startswith(str(tmp_path))
    monkeypatch.setattr("wm_lightning.tasks.doctor_machine.LEAST_DISK", 2**70)
    fault = disk("cache_dir", tmp_path / "deep/down").fault
    assert fault is not None and "cache_dir=" in fault
    assert decoders({"h264", "vp9"}).said == "h264, vp9" and decoders({"vp9"}).fault is not None


def test_keys_are_asked_for_by_name_and_never_shown() -> None:
    config = compose(["logger=wandb"])
    config.reward = {"endpoint": {"key_variable": "JUDGE_KEY"}, "others": [{"key_variable": None}]}
    given = {"JUDGE_KEY": "nobody-may-see", "WANDB_API_KEY": "nor-this"}
    found = list(keys(config, given))
    assert [one.fault for one in found] == [None, None]
    assert not any("nobody" in f"{one}" or "nor-this" in f"{one}" for one in found)
    missing = [one.fault for one in keys(config, {"WANDB_MODE": "offline"})]
    assert len(missing) == 1 and missing[0] is not None and "export JUDGE_KEY=" in missing[0]
