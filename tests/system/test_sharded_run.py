"""A whole run on two processes that share their networks, pictures and all, which goes on in one process."""

from pathlib import Path

import pytest

from tests.system.comparing import read
from tests.system.conftest import QUICK, Run
from tests.system.killing import Program

SHARED = ["trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"]


@pytest.mark.nightly
def test_a_run_on_shared_networks_validates_shows_saves_and_goes_on_alone(
    run: Run, cache: Path, tmp_path: Path
) -> None:
    target = tmp_path / "run"
    quick = [word for word in QUICK if "rollout_video" not in word and "action_fidelity" not in word]
    words = ["experiment=teacher", *quick, "module.iterations=6", "module.validate_every=3", f"run_dir={target}"]
    Program([*words, *SHARED], cache, tmp_path).finish()
    written = {path.name for path in (target / "checkpoints").iterdir()}
    assert written == {"best.ckpt", "last.ckpt", "previous.ckpt"}
    assert read(target / "checkpoints/last.ckpt")["card"]["iterations"] == 6
    assert len(list((target / "rollouts").glob("*.png"))) == 3 and list((target / "actions").glob("*.json"))
    assert (target / "teacher.safetensors").is_file() and (target / "results.json").is_file()
    log = run(*words, "trainer=cpu", "trainer.precision=32-true", "ckpt_path=last").must_succeed()
    assert f"Continuing {target}/checkpoints/last.ckpt" in log.out
