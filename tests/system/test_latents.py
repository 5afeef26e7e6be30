"""Encode, train, roll out and evaluate on latents, by commands; other latents are refused."""

import json
from pathlib import Path

import pytest
import torch

from tests.networks.tiny_autoencoder import words, write_weights
from tests.system.conftest import QUICK, Run
from wm_lightning.checkpoint_io import AtomicCheckpointIO


def chosen(kind: str, folder: Path) -> list[str]:
    """The words of an autoencoder; the learned one has random weights in a file."""
    if kind == "patch":
        return ["autoencoder=patch"]
    write_weights(folder / "vae.safetensors")
    return words(folder / "vae.safetensors")


@pytest.mark.parametrize(("kind", "experiment"), [
    pytest.param("patch", "dmd_chunkwise", marks=pytest.mark.slow),
    pytest.param("sd", "teacher", marks=pytest.mark.nightly),
])  # fmt: skip
def test_a_training_on_latents(run: Run, clips: Path, tmp_path: Path, kind: str, experiment: str) -> None:
    latents, folder = tmp_path / "latents", tmp_path / "run"
    recorded = ["data=rt1", f"data.root={clips}", "data.subset=bridge"]
    data = [*recorded, *chosen(kind, tmp_path)]
    run("task=encode", *data, f"task.into={latents}", f"run_dir={tmp_path / 'encode'}").must_succeed()
    training = [f"experiment={experiment}", *data, f"data.latents={latents}", *QUICK]
    training = [word for word in training if "rollout_video" not in word and "action_fidelity" not in word]
    run(*training, "module.iterations=3", f"run_dir={folder}").must_succeed()

    rows = json.loads((folder / "results.json").read_text())["rows"]
    [ceiling] = [row for row in rows if "reconstruction" in row["name"]]
    made = [row["psnr"] for row in rows if row["role"] == "teacher" and row["psnr"] is not None]
    if kind == "patch":
        assert ceiling["psnr"] > 48 > max(made), "patches come back exactly, three steps learn nothing"
    assert made and list((folder / "rollouts").glob("*.mp4"))
    card = AtomicCheckpointIO().load_checkpoint(folder / "checkpoints/last.ckpt")["card"]
    assert card["autoencoder"]["kind"] == {"patch": "patch", "sd": "AutoencoderKL"}[kind]
    assert tuple(card["frame_shape"]) == {"patch": (48, 8, 8), "sd": (4, 16, 16)}[kind]

    checkpoint = f"ckpt_path={folder / 'checkpoints/last.ckpt'}"
    run("task=evaluate", checkpoint, f"run_dir={tmp_path / 'evaluated'}").must_succeed()
    again = json.loads((tmp_path / "evaluated/results.json").read_text())["rows"]
    assert [row["psnr"] for row in again if row["role"] == "baseline"][:2] == [
        row["psnr"] for row in rows if row["role"] == "baseline"
    ][:2]
    run("task=rollout", checkpoint, f"run_dir={tmp_path / 'rolled'}", "task.count=1", "task.frames=7").must_succeed()
    assert (tmp_path / "rolled/rollouts/clip_000.mp4").stat().st_size > 0
    if kind == "patch":
        measured_and_drawn(run, tmp_path, checkpoint)
    else:
        refused_with_other_weights(run, tmp_path, recorded)
    refused_with_others(run, tmp_path, kind, checkpoint, latents)


def measured_and_drawn(run: Run, folder: Path, checkpoint: str) -> None:
    """Protocols and drawings decode latents."""
    run("task=evaluate", "protocol=vid2world_rt1", checkpoint, f"run_dir={folder / 'scored'}").must_succeed()
    scored = json.loads((folder / "scored/protocol_vid2world_rt1.json").read_text())
    assert scored["reconstruction"]["frames"]["psnr"]["mean"] > 48 > scored["model"]["frames"]["psnr"]["mean"]
    run("task=denoise", checkpoint, f"run_dir={folder / 'denoised'}").must_succeed()
    assert list((folder / "denoised").glob("denoising*.png"))


def refused_with_others(run: Run, folder: Path, kind: str, checkpoint: str, latents: Path) -> None:
    """The checkpoint is not used with pixels, nor with latents of other weights or scale."""
    place = f"run_dir={folder / 'refused'}"
    if kind == "patch":
        done = run("task=rollout", checkpoint, place, "data.latents=null")
        assert done.code == 2 and "task=encode" in done.err
        return
    done = run("task=rollout", checkpoint, place, "autoencoder.scale=0.5")
    assert done.code == 2 and "scale or shift of the latents" in done.err and "Remake it: python run.py" in done.err
    assert f"data.latents={latents}" not in done.err.split("Remake it")[1]


def refused_with_other_weights(run: Run, folder: Path, clips: list[str]) -> None:
    """The latents are those of the command, the network those of its card."""
    (folder / "other").mkdir()
    write_weights(folder / "other/vae.safetensors", seed=1)
    latents = folder / "other/latents"
    other = [*clips, *words(folder / "other/vae.safetensors")]
    run("task=encode", *other, f"task.into={latents}", f"run_dir={folder / 'encoded'}").must_succeed()
    start = ["experiment=teacher", *QUICK, "module.iterations=1", f"module.start={folder / 'run/teacher.safetensors'}"]
    done = run(*start, *other, f"data.latents={latents}", f"run_dir={folder / 'begun'}")
    assert done.code == 2 and "autoencoder.sha256" in done.err
    assert not (folder / "begun").exists()
    own = [*clips, *words(folder / "vae.safetensors"), f"data.latents={folder / 'latents'}"]
    run(*start, *own, f"run_dir={folder / 'begun'}").must_succeed()
    weights = AtomicCheckpointIO().load_checkpoint(folder / "begun/checkpoints/last.ckpt")["state_dict"]
    assert not any("autoencoder" in name for name in weights), "the autoencoder is in the checkpoint"
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())
