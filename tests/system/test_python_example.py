"""The example of docs/python.md runs as it stands, on a student made in seconds."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate

from tests.tiny_run import DMD, NETWORK, QUIET, TRAINING, WORLD
from wm_lightning.checkpoints import save_network
from wm_lightning.config import compose
from wm_lightning.config_record import save_record
from wm_lightning.tasks.bench_training import random_teacher
from wm_lightning.tasks.build import build_card, build_data, build_module, without

PAGE = Path(__file__).parents[2] / "docs/python.md"


def write_student(run: Path, cache: Path) -> None:
    """A run folder with overrides and a student with random weights."""
    words = ["experiment=dmd_chunkwise", *NETWORK, *WORLD, *TRAINING, *QUIET, *DMD, f"cache_dir={cache}"]
    config = compose([*words, f"run_dir={run}"])
    data = build_data(config)
    recipe = without(config, {"module": config.module.teacher.recipe})
    card = build_card(config, data, "student")
    module = build_module(config, card, random_teacher(recipe, build_card(config, data, "teacher")))
    # A fresh network gives 0 whatever it is told.
    for value in module.deployed.parameters():
        torch.nn.init.normal_(value, std=0.2, generator=torch.Generator().manual_seed(value.numel()))
    save_record(config, words, run)
    save_network(
        run / "student.safetensors", module.deployed, replace(card, trained_for=module.trained_for()), torch.float32
    )


def run_example(number: int) -> dict[str, Any]:
    """What an example of the page leaves behind."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    found: dict[str, Any] = {}
    exec(compile(blocks[number], PAGE.name, "exec"), found)
    return found


def test_the_environment_of_the_example_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gymnasium", reason="gymnasium is not installed: pip install -e '.[play]'")
    monkeypatch.chdir(tmp_path)
    write_student(Path("logs/dmd_chunkwise/DATE"), tmp_path / "cache")
    found = run_example(1)
    assert found["frames"].shape == (3, 24, 24, 3) and found["frames"].dtype.name == "uint8"
    assert found["info"]["frame"] == 3 and found["several"].num_envs == 4


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    write_student(Path("logs/dmd_chunkwise/DATE"), tmp_path / "cache")
    found = run_example(0)
    assert found["video"].dtype == torch.uint8 and found["video"].shape == (1, 7, 3, 24, 24)
    assert torch.equal(found["video"][:, 0], found["clip"].video[:, 0]), "the given frame stays"
    again = found["student"].generate(found["clip"], 1, seed=0, device=torch.device("cpu"))
    assert torch.equal(found["video"], again)
    assert "True" in capsys.readouterr().out, "other actions make another video"


def test_a_shared_folder_of_the_example_generates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_student(Path("logs/dmd_chunkwise/DATE"), tmp_path / "cache")
    words = ["task=convert", "task.to=hub", "task.into=shared", f"cache_dir={tmp_path}/cache", "run_dir=converting"]
    config = compose([*words, "ckpt_path=logs/dmd_chunkwise/DATE/student.safetensors"])
    instantiate(config.task, _convert_="all")(config)
    assert run_example(2)["video"].shape == (1, 7, 3, 24, 24)
    assert "left" in capsys.readouterr().out
