"""What a checkpoint and a run folder say about where they come from."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from omegaconf import OmegaConf

from wm_lightning.callbacks.provenance import Provenance
from wm_lightning.config_record import config_hash, plain, save_record
from wm_lightning.environment import environment, revision

CONFIG = OmegaConf.create({"seed": 3, "module": {"lr": 0.1, "key": "${oc.env:PLACE_API_KEY}"}})


def stored(folder: Path) -> dict[str, Any]:
    callback = Provenance(run_dir=str(folder))
    trainer, module = Trainer(accelerator="cpu", logger=False, default_root_dir=folder), LightningModule()
    callback.setup(trainer, module, "fit")
    checkpoint: dict[str, Any] = {"state_dict": {}}
    callback.on_save_checkpoint(trainer, module, checkpoint)
    return checkpoint


def test_a_checkpoint_holds_the_record_in_plain_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE_API_KEY", "nobody-sees-this")
    save_record(CONFIG, ["seed=3", "+module.key=nobody-sees-this"], tmp_path)
    torch.save(stored(tmp_path), tmp_path / "x.ckpt")
    content = torch.load(tmp_path / "x.ckpt", weights_only=True)["provenance"]
    assert content["config"] == plain(CONFIG)
    assert content["config_hash"] == config_hash(CONFIG)
    assert content["overrides"] == ["seed=3", "+module.key=<environment: PLACE_API_KEY>"]
    assert content["revision"] == revision()
    assert {"torch", "lightning", "hydra-core"} <= content["environment"]["packages"].keys()
    assert "nobody-sees-this" not in json.dumps(content)


def test_the_run_folder_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE_API_KEY", "nobody-sees-this")
    save_record(CONFIG, [], tmp_path)
    stored(tmp_path)
    written = json.loads((tmp_path / "environment.json").read_text())
    assert written == {"config_hash": config_hash(CONFIG), "revision": revision(), "environment": environment()}


def test_a_run_without_a_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="config.yaml is not there"):
        stored(tmp_path)


def test_no_revision_outside_git(tmp_path: Path) -> None:
    assert revision(tmp_path) == "unknown"
