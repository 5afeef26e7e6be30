"""Points that run in one process, one after the other."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.loggers import WandbLogger
from omegaconf import OmegaConf

from tests.launchers.making import grid
from wm_lightning.config_errors import ConfigError
from wm_lightning.launchers import local
from wm_lightning.launchers.local import noting, run_again
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


# Told to end, a program saves for a while, or does not end at all.
SAVES = "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), open('saved', 'w').close(), os._exit(0)))"
STAYS = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


class Interrupted(subprocess.Popen[bytes]):
    """A program during which Ctrl-C is pressed, once it is at work."""

    last: "Interrupted"

    def __init__(self, words: list[str], cwd: str, **other: Any) -> None:
        super().__init__(words, cwd=cwd, **other)
        self.ready, self.pressed = Path(cwd) / "ready", False
        Interrupted.last = self

    def wait(self, timeout: float | None = None) -> int:
        if self.pressed:
            return super().wait(timeout)
        while not self.ready.exists():
            time.sleep(0.01)
        self.pressed = True
        raise KeyboardInterrupt


@pytest.mark.parametrize(("does", "saved"), [(SAVES, True), (STAYS, False)])
def test_a_point_is_called_interrupted_once_its_program_is_over(
    does: str, saved: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.py").write_text(
        f"import os, signal, time\n{does}\nopen('ready', 'w').close()\nwhile True: time.sleep(0.01)\n"
    )
    sweep = grid(tmp_path / "grid", 2, cwd=str(tmp_path))
    over = []
    monkeypatch.setattr(local, "program", lambda: [sys.executable, str(tmp_path / "run.py")])
    monkeypatch.setattr(local.subprocess, "Popen", Interrupted)
    monkeypatch.setattr(local, "_PATIENCE", 60.0 if saved else 0.1)
    monkeypatch.setattr(local, "_say_how_to_go_on", lambda _: over.append(Interrupted.last.returncode))
    try:
        with pytest.raises(KeyboardInterrupt):
            run_again(sweep, sweep.points)
        assert over == [0 if saved else -9] and (tmp_path / "saved").exists() == saved
    finally:
        Interrupted.last.kill()
        Interrupted.last.communicate()
    assert [entry["state"] for entry in diary(tmp_path / "grid/0")] == ["running", "failed"]
    assert not diary(tmp_path / "grid/1")


def test_a_grid_of_another_machine_says_where_its_paths_begin(tmp_path: Path) -> None:
    sweep = grid(tmp_path / "grid", 1, cwd=str(tmp_path / "absent"))
    with pytest.raises(ConfigError, match=r"absent, which is no folder here; set cwd in sweep.json"):
        run_again(sweep, sweep.points)
