"""Points that run in one process, one after the other."""

from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.loggers import WandbLogger
from omegaconf import OmegaConf

from tests.launchers.making import grid
from wm_lightning.launchers.local import noting
from wm_lightning.launchers.manifest import diary


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights & Biases without a network."""
    for key, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)


@pytest.mark.usefixtures("offline")
def test_every_point_is_a_run_of_its_own_in_weights_and_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    sweep = grid(tmp_path / "grid", 2)
    task = noting(lambda _: seen.append(WandbLogger(save_dir=tmp_path, offline=True).experiment.id), sweep)
    for point in sweep.points:
        node = OmegaConf.create({"job": {"num": point.number}})
        monkeypatch.setattr(HydraConfig, "get", lambda node=node: node)
        task(None)
    assert seen == ["key0", "key1"]
    assert [entry["state"] for entry in diary(sweep.place(sweep.points[1]))] == ["running", "done"]


@pytest.mark.parametrize("stop", [SystemExit(130), KeyboardInterrupt()])
def test_an_interrupted_point_is_called_that_with_how_to_go_on(
    stop: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: object) -> None:
        raise stop

    monkeypatch.chdir(tmp_path)
    sweep = grid(tmp_path / "grid", 2)
    monkeypatch.setattr(HydraConfig, "get", lambda: OmegaConf.create({"job": {"num": 0}}))
    with pytest.raises(type(stop)):
        noting(interrupted, sweep)(None)
    assert diary(sweep.place(sweep.points[0]))[-1]["why"] == "interrupted"
    assert "task=sweep task.resume=grid" in capsys.readouterr().err
