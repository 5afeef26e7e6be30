"""What the WorldGen rungs need beyond a teacher: pretraining once, losses in the results, pictures of denoising."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from PIL import Image

from wm_lightning.config import compose
from wm_lightning.config_record import save_record
from wm_lightning.tasks.build import build_card, build_data, build_module
from wm_lightning.tasks.curves import final_losses
from wm_lightning.tasks.fit import fit
from wm_lightning.tasks.preflight import check_training
from wm_lightning.tasks.teachers import prepare_start, pretraining_of

SMALL = [
    "size=debug", "trainer.precision=32-true", "callbacks.progress=null", "callbacks.rollout_video=null",
    "+trainer.enable_progress_bar=false", "module.iterations=2", "module.validate_every=2", "module.batch_size=2",
    "trainer.log_every_n_steps=1", "data.val_clips=4",
]  # fmt: skip


def small(folder: Path, *words: str) -> DictConfig:
    return compose([*SMALL, f"run_dir={folder}/run", f"cache_dir={folder}/cache", *words])


def test_pretraining_comes_first_once_and_only_new_parts_start_fresh(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    config = small(tmp_path, "experiment=worldgen_world_pretrained")
    check_training(config)
    assert not (tmp_path / "cache/teachers").exists(), "a check trained something"
    data = build_data(config)
    start = prepare_start(config, data)
    assert start is not None and start.card.iterations == 2 and start.card.network["start"] == "none"
    [folder] = (tmp_path / "cache/teachers").iterdir()
    before = (folder / "teacher.safetensors").stat().st_mtime_ns
    again = prepare_start(config, data)
    assert again is not None and again.sha256 == start.sha256
    assert (folder / "teacher.safetensors").stat().st_mtime_ns == before
    module = build_module(config, build_card(config, data, "teacher"), start)
    fresh = {name.split(".")[0] for name in module.deployed.state_dict() if name not in start.weights}
    assert fresh == {"start", "action"}
    assert all(torch.equal(module.deployed.state_dict()[name], value) for name, value in start.weights.items())


def test_other_seeds_pretrain_their_own_and_files_stay_files(tmp_path: Path) -> None:
    for words in (["experiment=worldgen_world_film"], ["experiment=teacher", "module.start=a.ckpt"]):
        assert pretraining_of(small(tmp_path, *words)) is None
    recipes = [pretraining_of(small(tmp_path, "experiment=worldgen_world_pretrained", f"seed={n}")) for n in (0, 1)]
    assert [recipe.seed for recipe in recipes if recipe is not None] == [0, 1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guided rung after two updates."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("rung")
    words = ["experiment=worldgen_flow_cfg", "module.sampler.steps.steps=3"]
    config = small(folder, *words)
    save_record(config, words, Path(config.run_dir))
    data = build_data(config)
    fit(config, data, build_card(config, data, "teacher"), None)
    return folder


def test_losses_of_training_and_evaluation_are_kept(trained: Path, tmp_path: Path) -> None:
    losses = final_losses(trained / "run")
    assert losses.keys() == {"train", "val"} and all(0 < value < 10 for value in losses.values())
    assert final_losses(tmp_path) == {}


def test_denoising_is_drawn_step_by_step(trained: Path, tmp_path: Path) -> None:
    config = small(trained, "experiment=worldgen_flow_cfg", "module.sampler.steps.steps=3", "task=denoise")
    config.ckpt_path, config.run_dir = str(trained / "run/checkpoints/last.ckpt"), str(tmp_path)
    assert instantiate(config.task)(config) == {"steps": 3.0}
    with Image.open(tmp_path / "denoising_simulated.gif") as gif:
        assert gif.n_frames == 4  # type: ignore[attr-defined]  the start and three steps
    assert (tmp_path / "denoising_simulated.png").stat().st_size > 1000
