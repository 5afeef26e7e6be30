"""A teacher in world-model-eval's format is distilled: fine-tuned first to the masks it lacks, or as it stands."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from tests.networks.tiny_autoencoder import words, write_weights
from tests.system.conftest import QUICK, Run
from wm_lightning.checkpoint_io import AtomicCheckpointIO
from wm_lightning.checkpoints import read_card
from wm_lightning.config import compose
from wm_lightning.config_check import check
from wm_lightning.tasks.preflight import check_training

GOLDENS = Path(os.environ.get("WM_GOLDENS", Path(__file__).parents[1] / "goldens"))
PUSHER = ["data=rt1", "data.action_shift=0", "noising=vp_sigmoid", "network=worldgym"]
PIXELS = [*PUSHER, "network.channels=3", "network.patch=8"]
# The pusher's own pictures of a drive are of no use for a network that has learnt nothing.
QUIET = [word for word in QUICK if "rollout_video" not in word and "action_fidelity" not in word]
SHORT = ["module.iterations=2", "module.critic_warmup=0", "module.ratio=1", "module.teacher.adapt=2"]


def reference() -> tuple[dict[str, Tensor], list[str]]:
    """Weights that the reference implementation drew, under its names, and the words of a network they fit."""
    with safe_open(sorted(GOLDENS.glob("worldgym_dit*.safetensors"))[0], "pt") as file:
        names = [name for name in file.keys() if name.startswith("weights.")]
        weights = {name.removeprefix("weights."): file.get_tensor(name).clone() for name in names}
        meta = json.loads(file.metadata()["meta"])
    sizes = {"dim": meta["dim"], "depth": meta["num_layers"], "heads": meta["num_heads"]}
    return weights, [f"network.{name}={value}" for name, value in sizes.items()]


def of_pixels(weights: dict[str, Tensor], *, channels: int, patch: int) -> dict[str, Tensor]:
    """The same network with other ends: what it reads and writes is frames of pixels."""
    source, dim = torch.Generator().manual_seed(0), len(weights["x_proj.weight"])
    ends = {
        "x_proj.weight": (dim, channels, patch, patch), "final_layer.linear.weight": (patch**2 * channels, dim),
        "final_layer.linear.bias": (patch**2 * channels,),
    }  # fmt: skip
    return weights | {name: 0.05 * torch.randn(shape, generator=source) for name, shape in ends.items()}


@pytest.fixture
def pixels(tmp_path: Path) -> list[str]:
    """The words of a teacher of pixels, in a file of that format."""
    weights, sizes = reference()
    torch.save({"model": of_pixels(weights, channels=3, patch=8), "step": 3}, tmp_path / "world.pt")
    return [*PIXELS, *sizes, f"module.teacher.ckpt_path={tmp_path / 'world.pt'}"]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for what is only checked."""
    return tmp_path_factory.mktemp("simulated")


def checked(*given: str, folder: Path, cache: Path) -> None:
    config = compose([*given, "size=debug", f"run_dir={folder / 'run'}", f"cache_dir={cache}"])
    check(config)
    check_training(config)


@pytest.mark.parametrize("experiment", ["dmd_chunkwise", "dmd_framewise"])
def test_the_check_at_the_start_takes_it(pixels: list[str], simulated: Path, tmp_path: Path, experiment: str) -> None:
    checked(f"experiment={experiment}", *pixels, folder=tmp_path, cache=simulated)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ("module.teacher.adapt=0", r"needs the mask .*trained with: framewise.*module\.teacher\.adapt"),
        ("data.action_shift=1", "action_shift: 0 against 1.*data.action_shift"),
        ("network.dim=64", "network.dim: 48 against 64"),
        ("network.patch=4", "network.patch: 8 against 4"),
    ],
)
def test_the_check_at_the_start_refuses_what_does_not_fit(
    pixels: list[str], simulated: Path, tmp_path: Path, other: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        checked("experiment=dmd_chunkwise", *pixels, other, folder=tmp_path, cache=simulated)


def distilled(run: Run, folder: Path, *given: str) -> tuple[dict[str, Any], dict[str, Tensor], str]:
    """A distillation's card, weights and log, everything it leaves looked at."""
    done = run(*given, *QUIET, *SHORT, f"run_dir={folder}").must_succeed()
    content = AtomicCheckpointIO().load_checkpoint(folder / "checkpoints/last.ckpt")
    assert content["card"]["kind"] == "student" and content["card"]["iterations"] == 2
    weights = content["state_dict"]
    assert int(weights["student_updates"]) == int(weights["critic_updates"]) == 2 and not int(weights["skipped"])
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())
    assert read_card(folder / "student.safetensors").action_shift == 0
    roles = {row["role"] for row in json.loads((folder / "results.json").read_text())["rows"]}
    assert {"teacher", "student", "control", "baseline"} <= roles
    return content["card"], weights, done.out


@pytest.mark.nightly
def test_it_is_fine_tuned_to_the_masks_it_lacks(run: Run, pixels: list[str], tmp_path: Path, cache: Path) -> None:
    """On simulated pixels; the fine-tuned teacher has its own card, from which the student's takes its hash."""
    card, _, log = distilled(run, tmp_path / "run", "experiment=dmd_chunkwise", *pixels)
    assert "Fine-tuning the teacher" in log
    [file] = [path for path in (cache / "teachers").glob("*/teacher.safetensors") if str(path.parent) in log]
    adapted = read_card(file)
    assert adapted.iterations == 2 and {3, None} <= set(adapted.trained_for["chunks"])
    assert card["trained_for"]["chunks"] == [3]


@pytest.mark.nightly
def test_it_is_distilled_as_it_stands_on_latents(run: Run, clips: Path, tmp_path: Path) -> None:
    """Framewise, scored framewise: the reference's own file, unchanged, on recordings that were encoded."""
    weights, sizes = reference()
    torch.save(weights, tmp_path / "world.pt")
    write_weights(tmp_path / "vae.safetensors")
    recorded = [f"data.root={clips}", "data.subset=bridge", *words(tmp_path / "vae.safetensors")]
    encoding = ["task=encode", "data=rt1", *recorded, f"task.into={tmp_path / 'latents'}"]
    run(*encoding, f"run_dir={tmp_path / 'encode'}").must_succeed()
    given = [*PUSHER, *recorded, f"data.latents={tmp_path / 'latents'}", *sizes, "module.score.mask.chunk=1"]
    named = f"module.teacher.ckpt_path={tmp_path / 'world.pt'}"
    card, ours, log = distilled(run, tmp_path / "run", "experiment=dmd_framewise", *given, named)
    assert "Fine-tuning" not in log and "Teacher: world-model-eval" in log
    assert card["network"]["channels"] == 4 and card["network"]["attention"] == "factorised"
    # Two steps of the student's rate: nearly the weights of the file, which stand in place of random ones.
    start = weights["blocks.0.s_block.ffwd.0.weight"]
    moved = ours["student.blocks.0.mlp.0.weight"] - start
    assert 0 < float(moved.abs().max()) < 0.01 * float(start.abs().max())
