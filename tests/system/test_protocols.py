"""Every protocol on the simulated world of its data, from training to its JSON, and the degradation ladder."""

import json
from pathlib import Path

import pytest

from tests.system.conftest import QUICK, Run
from tests.tasks.test_protocol import PROTOCOLS, PUBLISHED

# The others differ from these in clips and frames, or are run by the test below.
BY_DAY = ("vid2world_rt1", "worldgen")
# What a protocol's model must have been trained with.
TRAINED = {"nwm_rollout_1fps": ["data.stride=4", "data.world.length=56"]}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in BY_DAY else pytest.mark.nightly) for name in PROTOCOLS],
)
def test_every_protocol_runs_on_its_simulated_world(run: Run, tmp_path: Path, name: str) -> None:
    words = ["experiment=teacher", f"data={PROTOCOLS[name]}", *QUICK, "module.iterations=2", "module.validate_every=2"]
    words += TRAINED.get(name, [])
    run(*words, f"run_dir={tmp_path / 'run'}").must_succeed()
    checkpoint = f"ckpt_path={tmp_path / 'run/checkpoints/last.ckpt'}"
    done = run("task=evaluate", f"protocol={name}", checkpoint, f"run_dir={tmp_path / 'scored'}").must_succeed()
    found = json.loads((tmp_path / f"scored/protocol_{name}_simulated.json").read_text())
    assert found["clips"] == 8 and found["simulated"] and "Not the paper's number" in done.err + done.out
    assert set(found["frames_scored"]) <= set(PUBLISHED[name][0])
    assert len(json.loads((tmp_path / "scored/eval_index.json").read_text())) == 8


@pytest.mark.slow
def test_the_recon_protocols_of_vid2world_score_its_own_network(run: Run, tmp_path: Path) -> None:
    """A causal UNet, guided and told of the rover's motion, over both horizons of one training."""
    words = ["experiment=vid2world", "data=recon", *QUICK, "module.iterations=2", "module.validate_every=2"]
    run(*words, "module.sampler.steps.steps=2", f"run_dir={tmp_path / 'run'}").must_succeed()
    checkpoint = f"ckpt_path={tmp_path / 'run/checkpoints/last.ckpt'}"
    for name in ("vid2world_recon_time", "vid2world_recon_rollout"):
        folder = tmp_path / name
        done = run("task=evaluate", f"protocol={name}", checkpoint, f"run_dir={folder}").must_succeed()
        found = json.loads((folder / f"protocol_{name}_simulated.json").read_text())
        assert "Not the paper's number" in done.err + done.out and found["simulated"]
        assert (found["name"], found["clips"], found["frames_scored"]) == ("vid2world", 8, PUBLISHED[name][0])
        assert found["video_frames"] == PUBLISHED[name][1] and "DDIM" in str(found["sampler"])
        model, copied = (found[key]["frames"] for key in ("model", "copy_last_frame"))
        assert all(entry["n"] == 8 for entry in model.values()) and model["psnr"]["mean"] != copied["psnr"]["mean"]


@pytest.mark.parametrize(
    "data", [pytest.param("worldmap", marks=pytest.mark.slow), pytest.param("rt1", marks=pytest.mark.nightly)]
)
def test_the_degradation_ladder_and_the_reader_of_actions(run: Run, tmp_path: Path, data: str) -> None:
    trained = run("task=inverse_dynamics", f"data={data}", "size=debug", "task.iterations=20", f"run_dir={tmp_path}")
    trained.must_succeed()
    words = ["task=evaluate", "protocol=degradation", f"data={data}", "size=debug", f"run_dir={tmp_path / 'ladder'}"]
    run(*words).must_succeed()
    ladder = json.loads((tmp_path / "ladder/ladder_simulated.json").read_text())["ladder"]
    assert len(ladder["psnr"]["blur"]) == 5 and (tmp_path / "ladder/ladder_simulated.png").stat().st_size > 0
