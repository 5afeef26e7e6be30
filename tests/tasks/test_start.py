"""What ends a command: an interrupt is one whatever it was turned into on its way."""

import os
import signal
from pathlib import Path

import pytest

from wm_lightning.config import compose
from wm_lightning.config_overrides import prepare_arguments
from wm_lightning.tasks import start as start_module


def interrupted() -> None:
    """A reader in another language: its error around KeyboardInterrupt is that of a damaged file."""
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt as stop:
        raise ValueError("cannot be read") from stop


def failing() -> None:
    """Without an interrupt."""
    raise ValueError("cannot be read")


def refusing() -> None:
    """As the suite refuses what the user can mend."""
    prepare_arguments(["ablation=one,two"])


@pytest.mark.parametrize(
    ("task", "before", "stays"),
    [(refusing, ["run.log"], False), (refusing, ["run.log", "mine"], True), (failing, ["run.log"], True)],
)
def test_a_refused_task_leaves_no_folder_but_what_was_there_and_what_is_a_bug(
    task: object, before: list[str], stays: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folder = compose(["task=report"]), tmp_path / "run"
    config.run_dir = str(folder)
    folder.mkdir()
    for name in before:
        (folder / name).touch()
    monkeypatch.setattr(start_module, "instantiate", lambda *_: lambda *_: task())  # pyright: ignore[reportCallIssue]
    with pytest.raises(ValueError):
        start_module.start(config, [])
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    assert found == (sorted([*before, "config.yaml", "overrides.yaml"]) if stays else [])


@pytest.mark.usefixtures("interrupts_heeded")
@pytest.mark.parametrize(("task", "error"), [(interrupted, SystemExit), (failing, ValueError)])
def test_an_interrupt_is_told_from_the_error_it_became(
    task: object, error: type[BaseException], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    config = compose(["task=report"])
    config.run_dir = str(tmp_path)
    monkeypatch.setattr(start_module, "instantiate", lambda *_: lambda *_: task())  # pyright: ignore[reportCallIssue]
    with pytest.raises(error) as ended:
        start_module.start(config, [])
    if error is SystemExit:
        assert ended.value.code == 130  # pyright: ignore[reportAttributeAccessIssue]
        assert "Interrupted." in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
